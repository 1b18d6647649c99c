"""The Neural Turing Machine against its vectorised eager form and that with a compiled tick. Two threads."""

from __future__ import annotations

import pytest
import torch

from .check import errors
from .memory import MIB, in_a_process
from .ntm import NAMES, ROWS, contestants, expected
from .test_memory import LINUX
from .timing import in_words, measured


def row_of(row, mode):
    case = row.case
    sizes = {axis: getattr(case, axis) for axis in "TBIOHNM"}
    return {"cell": "ntm", **sizes, "heads": row.heads, "mode": mode, "threads": 2}


QUICK = ROWS[1]
ALL = [pytest.param(row, marks=[pytest.mark.quick] * (row == QUICK), id=str(row)) for row in ROWS]


@pytest.mark.parametrize("mode", ["training", "inference"])
@pytest.mark.parametrize("row", ALL)
def test_ntm(results, say, quick, row, mode):
    backward = mode == "training"
    torch.set_num_threads(2)
    entrants = contestants(row, backward, not quick)
    error = errors(entrants, expected(row, backward), backward, NAMES)
    found = {**row_of(row, mode), **measured(entrants, error, 0.3 if quick else 2.0, backward)}
    results.add(f"ntm {row} {mode}", found)
    say(f"ntm {row} {mode}: {in_words(found)}")


@LINUX
@pytest.mark.parametrize("row", ALL[:3])
def test_ntm_memory(results, say, row):
    """Peak memory of a training step beside eager's, nothing recomputed."""
    at = ROWS.index(row)
    bytes_ = {who: in_a_process(who, "ntm", [at], "training") for who in ("eager", "rnnkernels")}
    results.add(f"ntm-memory {row}", {**row_of(row, "training"), "bytes": bytes_})
    say(f"ntm {row}, peak MiB: " + "  ".join(f"{name} {value / MIB:.1f}" for name, value in bytes_.items()))


@LINUX
def test_ntm_recompute_memory(results, say):
    """10,000 ticks of 16 rows in O(sqrt(T))."""
    grown = in_a_process("recompute", "ntm", [0], "training")
    results.add("ntm-recompute", {"cell": "ntm", "T": 10_000, "B": 16, "bytes": grown, "bound": 256 * MIB})
    say(f"ntm, T 10,000, B 16, recomputed: {grown / MIB:.1f} MiB beyond inputs, outputs, weights (bound 256)")
