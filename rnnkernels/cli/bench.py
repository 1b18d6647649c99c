"""Time this machine's kernels beside their peers; from a checkout, where the folder bench/ is.

On the CPU this is `python -m bench`. On a card: every row of the grid, with cuDNN, the eager loop, that loop in a CUDA
graph and its compiled tick beside it, which takes hours (--short: minutes). Results go to bench/results/cards/ or the
folder that --out names, written anew after each row, and a run that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import torch

from . import check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The bench's arguments."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or one card of several: cuda:1")
    parser.add_argument(
        "-k",
        dest="patterns",
        nargs="+",
        action="extend",
        default=[],
        metavar="WORDS",
        help="only rows whose name has these words: -k 'lstm B32' ntm is LSTM of 32 rows, and the NTM",
    )
    parser.add_argument("--again", action="store_true", help="rows that have a result already, too (on a card)")
    parser.add_argument("--short", action="store_true", help="a representative grid, in minutes")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no row after so many (on a card)")
    parser.add_argument("--out", type=Path, help="folder of the results (on a card); default: bench/results/cards")


def run(args: argparse.Namespace) -> int:
    """Prints one line a row; 2 if there is nothing to time here."""
    device = torch.device(args.device)
    if importlib.util.find_spec("bench") is None:
        print("rnnkernels bench: expected to run in a checkout, where the folder bench/ is", file=sys.stderr)
        return 2
    if device.type == "cpu":
        words = " or ".join(f"({' and '.join(pattern.split())})" for pattern in args.patterns)
        options = ["--quick"] * args.short + (["-k", words] if words else [])
        return subprocess.run([sys.executable, "-m", "bench", *options]).returncode
    if why := check.without_card(device):
        print(f"rnnkernels bench: {why}", file=sys.stderr)
        return 2
    from bench import card

    rows = card.chosen(card.short_rows() if args.short else card.rows(), args.patterns)
    try:
        return card.run(device, rows, args.again, args.out or card.CARDS, args.short, args.seconds)
    except card.ContextLost as error:
        print(f"rnnkernels bench: {error}", file=sys.stderr)
        return 1
