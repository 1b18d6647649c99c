"""Beside two busy processes: how much slower the layer becomes when others want the cores too."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from .cases import BUSY, row_of
from .check import errors, expected
from .contestants import TORCH, contestants
from .timing import Others, interleave, summary

SPIN = "while True: pass"
SKIP = {"op", "compiled loop", "eager loop"}


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("case", BUSY, ids=str)
@pytest.mark.parametrize("cell", [pytest.param("lstm", marks=pytest.mark.quick), *(c for c in TORCH if c != "lstm")])
def test_beside_two_busy_processes(results, say, quick, cell, case, mode):
    backward = mode == "training"
    torch.set_num_threads(2)
    problem, reference = expected(cell, case)
    entrants = contestants(problem, backward, 2, SKIP)
    errors(entrants, reference, backward)
    with Others() as rest:
        quiet = interleave(entrants, 0.5 if quick else 1.0, backward)
    spinners = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(2)]
    try:
        time.sleep(0.5)
        busy = interleave(entrants, 1.0 if quick else 3.0, backward)
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
    rows = {e.name: {"quiet": summary(quiet[e.name]), "busy": summary(busy[e.name])} for e in entrants}
    for row in rows.values():
        row["factor"] = row["busy"]["median"] / row["quiet"]["median"]
    results.add(
        f"busy {cell} {case} {mode}",
        {
            **row_of(cell, case, mode, 2),
            "other_cores": rest.cores,
            "times": rows,
        },
    )
    say("slow-down " + "  ".join(f"{name} {row['factor']:.1f}x" for name, row in rows.items()))
