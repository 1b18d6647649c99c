"""No number without a green gate: a row's contestants against the float64 reference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from rnnkernels.reference import layer
from rnnkernels.testing import Expected, assert_as_good_as
from rnnkernels.testing import expected as expected_of

from .cases import Case, Problem
from .contestants import Contestant

NAMES = ("out", "grad_x", "grad_w_ih", "grad_w_hh", "grad_b_ih", "grad_b_hh")
SAMPLES = 4  # of the spread, whose largest is that of many numbers
SAME_FUNCTION = 1e-3  # a peer further away computes something else; its own precision is its own affair, and reported


def by_reference(problem: Problem) -> list[torch.Tensor]:
    """Output and gradients from the reference in float64."""
    leaves = [t.detach().requires_grad_() for t in problem.tensors[:5]]
    out = problem.run(layer, *leaves, *problem.tensors[5:])[0]
    return [out.detach(), *torch.autograd.grad(out, leaves, problem.weights[0])]


@lru_cache(maxsize=1)  # rows of one cell and case stand together
def exact(cell: str, case: Case) -> tuple[Problem, list[torch.Tensor]]:
    """The float32 problem, and its output and gradients from the reference in float64."""
    problem = Problem(cell, case)
    return problem, by_reference(problem)


@lru_cache(maxsize=1)
def expected(cell: str, case: Case) -> tuple[Problem, list[Expected]]:
    """The float32 problem, and what its output and gradients are held against."""
    problem = Problem(cell, case)
    return problem, expected_of(lambda: by_reference(problem), SAMPLES)


def errors(
    entrants: list[Contestant],
    reference: list[Expected],
    backward: bool,
    names: Sequence[str] = NAMES,
) -> dict[str, float]:
    """Largest error of every contestant relative to the largest value of each tensor; raises where ours breaks the
    error rule or a peer computes another function.

    Args:
        entrants: whose names begin with "rnnkernels" if they are ours.
        reference: what is expected of out, and with backward of the gradients.
        backward: whether they are asked for gradients.
        names: of the results.
    """
    with torch.inference_mode(not backward):
        results = {e.name: [torch.as_tensor(t).detach() for t in (e.check or e.call)()] for e in entrants}
    worst = {}
    for name, tensors in results.items():
        worst[name] = 0.0
        for label, got, want in zip(names, tensors, reference, strict=False):
            if name.startswith("rnnkernels"):
                assert_as_good_as(got, want, f"{name} {label}")
            largest = want.value.abs().max()
            error = ((got.double() - want.value).abs().max() / largest).item() if largest else 0.0
            assert error <= SAME_FUNCTION, f"{name}: {label} is {error:.1e} away from the reference"
            worst[name] = max(worst[name], error)
    return worst
