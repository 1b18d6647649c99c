"""No number without a green gate: a row's contestants against the float64 reference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from rnnkernels.reference import layer
from rnnkernels.testing import assert_as_good_as

from .cases import Case, Problem
from .contestants import Contestant

NAMES = ("out", "grad_x", "grad_w_ih", "grad_w_hh", "grad_b_ih", "grad_b_hh")
SAME_FUNCTION = 1e-3  # a peer further away computes something else; its own precision is its own affair, and reported


@lru_cache(maxsize=1)  # rows of one cell and case stand together
def exact(cell: str, case: Case) -> tuple[Problem, list[torch.Tensor]]:
    """The float32 problem, and its output and gradients from the reference in float64."""
    problem = Problem(cell, case)
    leaves = [t.requires_grad_() for t in problem.tensors[:5]]
    out = problem.run(layer, *problem.tensors)[0]
    return problem, [out.detach(), *torch.autograd.grad(out, leaves, problem.weights[0])]


def errors(
    entrants: list[Contestant],
    reference: list[torch.Tensor],
    backward: bool,
    names: Sequence[str] = NAMES,
    plain: list[torch.Tensor] | None = None,
) -> dict[str, float]:
    """Largest error of every contestant relative to the largest value of each tensor; raises where ours breaks the
    error rule (at most twice plain torch's error plus 8 eps) or a peer computes another function.

    Args:
        entrants: whose names begin with "rnnkernels" if they are ours.
        reference: out, and with backward the gradients, in float64.
        backward: whether they are asked for gradients.
        names: of the results.
        plain: plain torch's results in float32, where no contestant's serve.
    """
    with torch.inference_mode(not backward):
        results = {e.name: [torch.as_tensor(t).detach() for t in (e.check or e.call)()] for e in entrants}
    if plain is None:
        plain = next(results[who] for who in ("torch", "eager loop", "eager") if who in results)
    worst = {}
    for name, tensors in results.items():
        worst[name] = 0.0
        for label, got, torchs, want in zip(names, tensors, plain, reference, strict=False):
            if name.startswith("rnnkernels"):
                assert_as_good_as(got, torchs, want, f"{name} {label}")
            largest = want.abs().max()
            error = ((got.double() - want).abs().max() / largest).item() if largest else 0.0
            assert error <= SAME_FUNCTION, f"{name}: {label} is {error:.1e} away from the reference"
            worst[name] = max(worst[name], error)
    return worst
