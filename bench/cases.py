"""The benched cases, and the tensors of one of them."""

from __future__ import annotations

import torch

from rnnkernels import _C, testing
from rnnkernels.testing import Case


def square(T: int, B: int, H: int) -> Case:
    return Case(T, B, H, H)


ONE_TICK = square(1, 1, 256)
GRID = (
    square(100, 1, 128),
    square(100, 1, 256),
    square(100, 1, 512),
    square(100, 8, 128),
    square(100, 32, 128),
    square(100, 32, 256),
    square(100, 64, 512),
    square(50, 64, 1024),
    square(1000, 8, 64),
    Case(28, 32, 28, 100),
    Case(784, 32, 1, 100),
    ONE_TICK,
)
QUICK = (square(100, 1, 256), square(100, 32, 256), Case(28, 32, 28, 100), ONE_TICK)
BUSY = (square(100, 1, 512), square(100, 32, 256))
MEMORY = (square(100, 32, 256), square(50, 64, 1024), Case(784, 32, 1, 100))

VARIANTS = (square(100, 1, 256), square(100, 8, 128), square(100, 32, 256), Case(784, 32, 1, 100))


def is_plain(cell: dict) -> bool:
    """Whether a built cell is benched in the grid: all of its gates read x and h, and it has no other parameters.

    The others, and the few here by name, have rows of their own (variants.py); rnn_relu and rnn_logistic are the sweep
    of rnn_tanh with a cheaper cell.
    """
    elsewhere = ("rnn_relu", "rnn_logistic", "coupled_lstm", "gru_before")
    whole = cell["fed"] == 1 and not cell["parameters"] and not cell["first_input"]
    return whole and cell["name"] not in elsewhere


#: Gates of the cells of the grid by name.
GATES = {cell["name"]: cell["gates"] for cell in filter(is_plain, _C.cells())}


def flop(cell: str, case: Case, backward: bool) -> float:
    """Floating-point operations of the layer's products; a backward sweep has twice the forward's."""
    return 2.0 * case.T * case.B * GATES[cell] * case.H * (case.I + case.H) * (3 if backward else 1)


class Problem(testing.Problem):
    """What every contestant is given: a case's tensors in float32.

    ``x`` (T,B,I); ``parameters`` = w_ih (G*H,I), w_hh (G*H,H), b_ih (G*H), b_hh (G*H); ``states``, each (B,H); ``grad``
    (T,B,H), the fixed gradient of the output, so that the loss is sum(out * grad).
    """

    def __init__(self, cell: str, case: Case) -> None:
        super().__init__(cell, case)
        narrow = [None if t is None else t.float() for t in self.tensors]
        self.x, self.parameters, self.states = narrow[0], narrow[1:5], narrow[7:]
        self.grad = self.weights[0].float()

    def to(self, device: torch.device, dtype: torch.dtype) -> Problem:
        """Brings what contestants are given there."""
        self.x, self.grad = self.x.to(device, dtype), self.grad.to(device, dtype)
        self.parameters = [p.to(device, dtype) for p in self.parameters]
        self.states = [s.to(device, dtype) for s in self.states]
        return self


def row_of(cell: str, case: Case, mode: str, threads: int) -> dict:
    """What every row of the results says of itself."""
    return {
        "cell": cell,
        "T": case.T,
        "B": case.B,
        "I": case.I,
        "H": case.H,
        "mode": mode,
        "threads": threads,
    }
