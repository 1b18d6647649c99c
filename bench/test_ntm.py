"""The Neural Turing Machine against its vectorised eager form and that with a compiled tick. Two threads."""

from __future__ import annotations

import pytest
import torch

from rnnkernels import _C

from .check import errors
from .memory import MIB, in_a_process
from .ntm import NAMES, ROWS, contestants, exact
from .test_memory import LINUX
from .timing import BUSY_CORES, Others, interleave, summary


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
    error = errors(entrants, exact(row, backward), backward, NAMES, plain=None)
    with Others() as rest:
        times = interleave(entrants, 0.3 if quick else 2.0, backward)
    with torch.inference_mode(not backward):
        entrants[-1].call()
    found = {
        **row_of(row, mode),
        "kernel": _C.last_kernel(),
        "other_cores": rest.cores,
        "times": {e.name: {**summary(times[e.name]), "prepare": e.prepare_s, "error": error[e.name]} for e in entrants},
    }
    results.add(f"ntm {row} {mode}", found)
    ours = found["times"]["rnnkernels"]["median"]
    peers = "  ".join(f"{who} {t['median'] / ours:.1f}x" for who, t in found["times"].items() if who != "rnnkernels")
    noisy = f"   others used {rest.cores:.1f} cores" if rest.cores > BUSY_CORES else ""
    say(f"ntm {row} {mode}: {ours * 1e3:.3f} ms | {peers}{noisy}")


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
