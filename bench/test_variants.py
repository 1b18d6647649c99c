"""The variants against the loops that do their job today: eager, TorchScript, torch.compile of the tick; and against
ONNX Runtime where it has the cell. Two threads."""

from __future__ import annotations

import pytest
import torch

from .cases import VARIANTS as GRID
from .cases import row_of
from .check import errors
from .timing import in_words, measured
from .variants import VARIANTS, expected

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
    trial, reference = expected(name, case)
    skip = ["compiled loop"] if quick or name not in COMPILED.get(case, ()) else []
    entrants = trial.contestants(backward, 2, skip)
    error = errors(entrants, reference, backward, trial.names)
    row = {**row_of(name, case, mode, 2), **measured(entrants, error, 0.3 if quick else SECONDS, backward)}
    results.add(f"variant {name} {case} {mode}", row)
    say(f"{name} {case} {mode}: {in_words(row)}")
