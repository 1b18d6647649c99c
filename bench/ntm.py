"""The Neural Turing Machine beside the vectorised one in plain torch (reference/ntm.py), eager and with its tick
compiled, on the copy task of 20 vectors of 8 bits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnkernels import functional, reference
from rnnkernels.options import Conventions
from rnnkernels.testing import Expected, MachineCase, MachineProblem
from rnnkernels.testing import expected as expected_of

from .check import SAMPLES
from .contestants import Contestant, finish, warm_compiler

NAMES = ("y", "grad_x", "grad_controller", "grad_w_heads", "grad_b_heads", "grad_w_out", "grad_b_out")
STATES = 6  # tensors from here on are states before the first tick


@dataclass(frozen=True)
class Row:
    """Sizes of a row, and how many times faster than its peers it is to be, by (mode, peer)."""

    B: int = 16
    heads: int = 1  # pairs
    N: int = 128
    T: int = 42
    targets: tuple[tuple[str, str, float], ...] = ()

    @property
    def case(self) -> MachineCase:
        conventions = Conventions(read_heads=self.heads, write_heads=self.heads)
        return MachineCase(self.T, self.B, 10, 9, 100, self.N, 20, conventions=conventions)

    def __str__(self) -> str:
        return f"T{self.T}-B{self.B}-N{self.N}-heads{self.heads}"


def faster(eager: float, compiled: float) -> tuple[tuple[str, str, float], ...]:
    return (("training", "eager", eager), ("training", "compiled", compiled), ("inference", "eager", 15.0))


ROWS = (
    Row(1, targets=faster(40.0, 12.0)),
    Row(16, targets=faster(16.0, 6.0)),
    Row(64, targets=faster(10.0, 3.0)),
    Row(heads=4),
    Row(heads=8),
    Row(N=512),
    Row(N=4096, targets=(("training", "eager", 1.0), ("inference", "eager", 1.0))),
    Row(T=420),
)
COMPILED = ROWS[:3]  # a tick takes a minute to compile


def drawn(row: Row) -> tuple[MachineProblem, list[Tensor]]:
    """The problem, and its tensors in float32.

    Heads take a quarter of what they would: with more, 42 ticks are near enough to chaos for the error of a gradient to
    be a matter of luck, plain torch's as much as ours.
    """
    problem = MachineProblem(row.case)
    for of_heads in problem.tensors[2:4]:
        of_heads.mul_(0.25)
    return problem, [t.float() for t in problem.tensors]


def calls(
    row: Row, function: Callable, backward: bool, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Callable:
    """A call of `function`, which takes what `functional.ntm` takes, with the gradients by x and all weights."""
    problem, tensors = drawn(row)
    x, *weights = (t.to(device, dtype) for t in tensors[:STATES])
    states = [t.to(device, dtype) for t in tensors[STATES:]]
    weights = [w.requires_grad_(backward) for w in weights]
    conventions = row.case.conventions

    def forward(x: Tensor) -> Tensor:
        return function(x, *weights, *states, None, conventions)[0]

    return finish(forward, x, problem.weights[0].to(device, dtype), weights, backward)


def ticking(tick: Callable) -> Callable:
    """The machine over a sequence in a loop over this tick."""

    def run(x: Tensor, controller: Tensor, *rest: Tensor) -> list[Tensor]:
        *weights, h, c, memory, reads, weightings, _, conventions = rest
        layers = reference.ntm.controller_layers(
            controller, x.size(2) + reads.size(1) * reads.size(2), h.size(2), conventions
        )
        state, ys = (list(h.unbind(0)), list(c.unbind(0)), memory, reads, weightings), []
        for x_t in x.unbind(0):
            y, *state = tick(x_t, layers, *weights, *state, conventions)
            ys.append(y)
        return [torch.stack(ys)]

    return run


def contestants(row: Row, backward: bool, compiles: bool) -> list[Contestant]:
    """Everyone who can run the row, rnnkernels last."""
    entrants = [Contestant("eager", calls(row, reference.ntm.ntm, backward))]
    if compiles and row in COMPILED:
        warm_compiler()
        torch._dynamo.reset()
        begin = time.perf_counter()
        call = calls(row, ticking(torch.compile(reference.ntm.tick, fullgraph=True, dynamic=False)), backward)
        with torch.inference_mode(not backward):
            call()  # states from the call's beginning have no gradient, the next ticks' do: both are compiled here
        entrants.append(Contestant("compiled", call, prepare_s=time.perf_counter() - begin))
    return [*entrants, Contestant("rnnkernels", calls(row, functional.ntm, backward))]


def exact(row: Row, backward: bool) -> list[Tensor]:
    """The output, and the gradients, from plain torch in float64."""
    return [t.detach() for t in calls(row, reference.ntm.ntm, backward, torch.float64)()]


def expected(row: Row, backward: bool) -> list[Expected]:
    """What the output, and the gradients, are held against."""
    return expected_of(calls(row, reference.ntm.ntm, backward, torch.float64), SAMPLES)
