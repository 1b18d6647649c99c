"""Time this machine's kernels beside their peers; from a checkout, where the folder bench/ is.

On the CPU this is `python -m bench`. On a card: every row of the grid, with cuDNN, the eager loop, that loop in a CUDA
graph and its compiled tick beside it; results go to bench/results/cards/, and a run that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys

import torch

from . import check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The bench's arguments."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or one card of several: cuda:1")
    parser.add_argument("-k", dest="words", default="", help="only rows whose name holds this: lstm, B256, ...")
    parser.add_argument("--again", action="store_true", help="rows that have a result already, too (on a card)")


def run(args: argparse.Namespace) -> int:
    """Prints one line a row; 2 if there is nothing to time here."""
    device = torch.device(args.device)
    if importlib.util.find_spec("bench") is None:
        print("rnnkernels bench: expected to run in a checkout, where the folder bench/ is", file=sys.stderr)
        return 2
    if device.type == "cpu":
        return subprocess.run([sys.executable, "-m", "bench", *(["-k", args.words] if args.words else [])]).returncode
    if why := check.without_card(device):
        print(f"rnnkernels bench: {why}", file=sys.stderr)
        return 2
    from bench import card

    card.run(device, args.words, args.again)
    return 0
