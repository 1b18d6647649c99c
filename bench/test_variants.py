"""The variants against the loops that do their job today: eager, TorchScript, torch.compile of the tick; and against
ONNX Runtime where it has the cell. Two threads."""

from __future__ import annotations

import pytest
import torch

from rnnkernels import _C

from .cases import VARIANTS as GRID
from .cases import row_of
from .check import errors
from .timing import BUSY_CORES, Others, interleave, summary
from .variants import VARIANTS, exact

QUICK = GRID[1]
#: Compiling a tick takes longer than timing a row: everyone is compiled for the longest sequence, a few for one more.
COMPILED = {GRID[3]: set(VARIANTS), GRID[1]: {"PeepholeLSTM", "LayerNormLSTM", "GRU(reset_after=False)"}}
SECONDS = 0.7  # of timing a row


def rows():
    for name, variant in VARIANTS.items():
        for case in variant.cases:
            for mode in variant.modes:
                marks = [pytest.mark.quick] * (case == QUICK)
                yield pytest.param(name, case, mode, marks=marks, id=f"{name}-{case}-{mode}")


@pytest.mark.parametrize("name, case, mode", list(rows()))
def test_variant(results, say, quick, name, case, mode):
    backward = mode == "training"
    torch.set_num_threads(2)
    trial, reference = exact(name, case)
    skip = ["compiled loop"] if quick or name not in COMPILED.get(case, ()) else []
    entrants = trial.contestants(backward, 2, skip)
    error = errors(entrants, reference, backward, trial.names)
    with Others() as rest:
        times = interleave(entrants, 0.3 if quick else SECONDS, backward)
    with torch.inference_mode(not backward):
        entrants[-1].call()
    row = {
        **row_of(name, case, mode, 2),
        "kernel": _C.last_kernel(),
        "other_cores": rest.cores,
        "times": {e.name: {**summary(times[e.name]), "prepare": e.prepare_s, "error": error[e.name]} for e in entrants},
    }
    results.add(f"variant {name} {case} {mode}", row)
    ours = row["times"]["rnnkernels"]["median"]
    peers = "  ".join(f"{who} {t['median'] / ours:.2f}x" for who, t in row["times"].items() if who != "rnnkernels")
    noisy = f"   others used {rest.cores:.1f} cores" if rest.cores > BUSY_CORES else ""
    say(f"{name} {case} {mode}: {ours * 1e3:.3f} ms | {peers}{noisy}")
