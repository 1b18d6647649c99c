"""Peak memory of a call against torch.nn's."""

from __future__ import annotations

import pytest

from .cases import MEMORY, Case, Problem, row_of, square
from .contestants import TORCH
from .memory import MIB, RESET, in_a_process


def sizes_of(case: Case) -> tuple[int, ...]:
    return case.T, case.B, case.I, case.H


LINUX = pytest.mark.skipif(not RESET.exists(), reason="peak memory is read from Linux's /proc")


@LINUX
@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.quick] * (c == MEMORY[0]), id=str(c)) for c in MEMORY]
)
@pytest.mark.parametrize("cell", TORCH)
def test_peak_memory(results, say, cell, case, mode):
    bytes_ = {name: in_a_process(name, cell, sizes_of(case), mode) for name in ("torch", "rnnkernels")}
    row = {
        **row_of(cell, case, mode, 2),
        "bytes": bytes_,
    }
    if mode == "inference":
        row["bound"] = inference_bound(cell, case)
    results.add(f"memory {cell} {case} {mode}", row)
    bound = f" (bound {row['bound'] / MIB:.1f})" if "bound" in row else ""
    say("peak MiB " + "  ".join(f"{name} {value / MIB:.1f}" for name, value in bytes_.items()) + bound)


def inference_bound(cell: str, case: Case) -> int:
    """Bytes of the outputs, one packed copy of the weights and 8 MiB of workspace."""
    problem = Problem(cell, case)
    outputs = problem.grad.numel() + sum(s.numel() for s in problem.states)
    return 4 * (outputs + sum(w.numel() for w in problem.parameters)) + 8 * MIB


@LINUX
@pytest.mark.parametrize("cls", ["LSTM", "GRU", "LayerNormLSTM"])
def test_recompute_memory(results, say, cls):
    """A long sequence in O(sqrt(T)): what a training step takes beyond what every training step has."""
    case = square(10_000, 32, 256)
    bytes_ = in_a_process("recompute", cls, sizes_of(case), "training")
    results.add(f"recompute {cls}", {**row_of(cls, case, "training", 2), "bytes": bytes_, "bound": 128 * MIB})
    say(f"recompute {cls} {case}: {bytes_ / MIB:.1f} MiB beyond inputs, outputs, weights and gradients (bound 128)")
