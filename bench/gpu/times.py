"""The short grid of bench/card.py within some seconds; on the CPU a row or two, to try the script.

    python bench/gpu/times.py --out FOLDER --seconds N [--device cpu]

A row that takes the GPU's context along ends its process; another goes on after it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from bench import card, ntm
from bench.cases import square
from rnnkernels.cli.check import without_card

TINY = (
    card.Row("lstm", square(6, 2, 8), "float32", "training"),
    card.Row("gru", square(6, 2, 8), "bfloat16", "inference"),
    card.Row("ntm", ntm.Row(2, T=3, N=16), "float32", "training"),
)
AGAIN = 3  # processes at most


def main() -> int:
    """1 if ours were wrong in a row, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--left", type=int, default=AGAIN, help=argparse.SUPPRESS)
    given = parser.parse_args()
    begin, device = time.monotonic(), torch.device(given.device)
    if why := without_card(device):
        print(f"times: {why}")
        return 2
    rows = TINY if device.type == "cpu" else list(card.short_rows())
    try:
        return card.run(device, rows, out=given.out, short=True, seconds=given.seconds)
    except card.ContextLost as lost:
        print(f"times: {lost}", flush=True)
    seconds = given.seconds - (time.monotonic() - begin)
    if given.left > 1 and seconds > 15:
        words = ["--device", given.device, "--out", str(given.out), "--seconds", str(seconds)]
        subprocess.run([sys.executable, __file__, *words, "--left", str(given.left - 1)])
    return 1


if __name__ == "__main__":
    sys.exit(main())
