"""`vmap`, second derivatives and forward mode of what `rnnkernels.functional` has, against the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rnnkernels import functional, reference

from .cases import layer_problem, machine_problem
from .harness import Draw, Fault, attempt, examine, target, tensors_of
from .ops import close, set_machine


def _problem(draw: Draw) -> tuple[Any, Callable, Callable]:
    """A small problem, and who computes it: the kernels and the reference."""
    kind = draw.pick("layer", "layer", "ntm", "ntm_step")
    if kind == "layer":
        problem = layer_problem(draw, draw.choice(list(reference.CELLS)))
        return problem, functional.layer, reference.layer
    problem = machine_problem(draw, step=kind == "ntm_step")
    if kind == "ntm":
        return problem, functional.ntm, reference.ntm.ntm
    return problem, functional.ntm_step, reference.ntm.step


def _fill_padding(problem: Any) -> None:
    """NaN past the rows' ends, where there is room for them: nothing may depend on it."""
    x, lengths = problem.tensors[0], problem.lengths
    if lengths is not None and x.dim() == 3:
        past = torch.arange(x.size(0)).unsqueeze(1) >= lengths
        problem.tensors[0] = torch.where(past.unsqueeze(2), math.nan, x)


def _some(draw: Draw, tensors: list[Tensor | None]) -> list[int]:
    """Places of some tensors, at least one."""
    there = [k for k, t in enumerate(tensors) if t is not None]
    return sorted(draw.sample(there, draw.randint(1, min(3, len(there)))))


@target()
def vmap(draw: Draw) -> None:
    """Samples side by side are the same calls one by one; of no sample the result is empty, or refused."""
    set_machine(draw)
    problem, ours, _ = _problem(draw)
    where, size = _some(draw, problem.tensors), draw.pick(0, 1, 2, 3)
    dims = [draw.randint(0, problem.tensors[k].dim()) for k in where]
    stacks = [torch.stack([problem.tensors[k] * (1 - 0.1 * n) for n in range(max(size, 1))], d)[_first(d, size)]
              for k, d in zip(where, dims)]  # fmt: skip

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        tensors = list(problem.tensors)
        for k, value in zip(where, values):
            tensors[k] = value
        return tuple(problem.run(ours, *tensors))

    derived = draw.chance(0.4)
    if derived:
        inner = call

        def call(*values: Tensor) -> tuple[Tensor, ...]:
            return torch.func.grad(lambda *v: sum(r.sum() for r in inner(*v)), tuple(range(len(values))))(*values)

    what = f"{problem.title}, {size} samples along {dims} of tensors {where}{', gradient' * derived}: "
    results, error = examine(torch.func.vmap(call, tuple(dims)), *stacks, what=what, separate=False)
    if error is not None:
        if size:
            raise Fault(f"{what}{error}") from error
        return
    for n in range(size):
        alone = call(*(s.select(d, n) for s, d in zip(stacks, dims)))
        for k, (sample, one) in enumerate(zip(results, alone, strict=True)):
            close(sample[n], one, f"{what}result {k} of sample {n}")


def _first(dim: int, size: int) -> tuple[slice, ...]:
    return (*[slice(None)] * dim, slice(0, size))


def _double(problem: Any, function: Callable, where: list[int], dtype: torch.dtype) -> list[Tensor]:
    """Gradients, by tensors at `where`, of the square sum of the gradients by the same."""
    tensors = [None if t is None else t.to(dtype) for t in problem.tensors]
    for k in where:
        tensors[k] = tensors[k].requires_grad_()
    results = [r for r in problem.run(function, *tensors) if r.requires_grad]
    if not results:
        return []
    leaves = [tensors[k] for k in where]
    first = torch.autograd.grad([(r * r).sum() for r in results], leaves, create_graph=True, allow_unused=True)
    total = sum((g * g).sum() for g in first if g is not None and g.requires_grad)
    if not isinstance(total, Tensor):
        return []
    return list(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))


@target()
def second_derivatives(draw: Draw) -> None:
    """Double backward, with NaN in the padding."""
    set_machine(draw)
    problem, ours, theirs = _problem(draw)
    where = _some(draw, problem.tensors)
    exact = _double(problem, theirs, where, torch.float64)
    _fill_padding(problem)
    what = f"{problem.title}, tensors {where}: "
    true = getattr(problem, "options", None) is None or problem.options.is_true_gradient
    result, error = attempt(_double, problem, ours, where, torch.float64, what=what)
    if error is not None:
        if true:
            raise Fault(f"{what}{error}") from error
        return
    for k, (a, b) in enumerate(zip(result, exact)):
        if not true:
            raise Fault(f"{what}a double backward through a gradient that is none was not refused")
        close(a, b, f"{what}result {k}")


@target()
def forward_mode(draw: Draw) -> None:
    """Jacobian times vector, with NaN in the padding."""
    set_machine(draw)
    problem, ours, theirs = _problem(draw)
    where = _some(draw, problem.tensors)
    tangents = tuple(torch.randn_like(problem.tensors[k]) for k in where)

    def pushed(function: Callable) -> tuple[Tensor, ...]:
        def call(*values: Tensor) -> tuple[Tensor, ...]:
            tensors = list(problem.tensors)
            for k, value in zip(where, values):
                tensors[k] = value
            return tuple(problem.run(function, *tensors))

        return torch.func.jvp(call, tuple(problem.tensors[k] for k in where), tangents)

    options = getattr(problem, "options", None)
    if options is not None and not options.is_true_gradient:
        return
    exact = pushed(theirs)
    _fill_padding(problem)
    what = f"{problem.title}, tensors {where}: "
    result, error = attempt(pushed, ours, what=what)
    if error is not None:
        raise Fault(f"{what}{error}") from error
    for k, (a, b) in enumerate(zip(tensors_of(result), tensors_of(exact), strict=True)):
        close(a, b, f"{what}result {k}")
