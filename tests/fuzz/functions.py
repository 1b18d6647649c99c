"""`rnnkernels.functional`: right calls against the reference, with gradients, and calls with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rnnkernels import functional, reference
from rnnkernels.ops import LAYERS

from .cases import (
    DTYPES,
    INTEGERS,
    NUMBERS,
    anything,
    check_devices,
    layer_problem,
    machine_problem,
    relaid,
    spoil_tensor,
)
from .harness import Draw, Fault, Misfit, examine, poisoned, target, tensors_of
from .ops import close, set_machine


def with_gradients(function: Callable[..., Any], weights: Sequence[Tensor] = ()) -> Callable[..., Any]:
    """`function`, returning its results and the gradients of their sum by its tensors and by `weights`."""

    def run(*args: Any, **keywords: Any) -> Any:
        args, keywords = _fresh(args), _fresh(keywords)
        data = [args, *(value for name, value in keywords.items() if name not in ("options", "masks"))]
        leaves = [t.requires_grad_() for t in tensors_of(data) if t.is_floating_point() or t.is_complex()]
        results = list(tensors_of(function(*args, **keywords)))
        sums = [r.sum() for r in results if r.requires_grad]
        if not sums:  # nothing was computed
            return results, [torch.zeros_like(t) for t in (*leaves, *weights)]
        grads = torch.autograd.grad(sums, [*leaves, *weights], allow_unused=True, materialize_grads=True)
        return [r.detach() for r in results], list(grads)

    return run


def _fresh(value: Any) -> Any:
    """The same with new tensors, that share memory with the old ones."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {name: _fresh(v) for name, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value._replace(**{name: _fresh(v) for name, v in zip(value._fields, value)})
    return type(value)(map(_fresh, value)) if type(value) in (tuple, list) else value


def check_gradients(problem: Any, function: Callable, theirs: Callable) -> None:
    """float64 results and gradients against the reference's, with fresh memory poisoned."""
    with poisoned():
        ours = problem.outputs_and_gradients(function, torch.float64)
    exact = problem.outputs_and_gradients(theirs, torch.float64)
    for label, value in exact.items():
        close(ours[label], value, label)


def spoil_argument(draw: Draw, value: Any) -> Any:
    """Another value for an argument of a Python function, of the kind that is annotated."""
    if isinstance(value, Tensor):
        return spoil_tensor(draw, value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        name = draw.choice(value._fields)
        if name == "squash":
            return value._replace(squash=draw.pick(("tanh", "gelu"), ("tanh",), (), ("relu", "relu", "relu"), "tanh"))
        part = spoil_argument(draw, getattr(value, name))
        part = part.value if isinstance(part, Misfit) else part
        spoilt = value._replace(**{name: part})
        return Misfit(spoilt) if part is None else spoilt
    if isinstance(value, (list, tuple)) and value:
        parts = list(value)
        k = draw.randrange(len(parts))
        kind = draw.pick("part", "part", "fewer", "more")
        if kind == "part":
            parts[k] = spoil_argument(draw, parts[k])
            if parts[k] is None:
                return Misfit(tuple(parts))
        return tuple(parts[:k] if kind == "fewer" else [*parts, parts[k]] if kind == "more" else parts)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice(INTEGERS)
    if isinstance(value, float):
        return draw.choice(NUMBERS)
    if isinstance(value, str):
        return draw.pick("", "tanh", "lstn", "GRU", value.upper(), value + "x", "a\nb")
    if value is None:
        return draw.pick(torch.zeros(draw.size(), draw.size()), torch.tensor(3), torch.zeros(2, 3, 4))
    return Misfit(anything(draw))


def spoil_one(draw: Draw, args: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The arguments with one of them spoilt, and which."""
    name = draw.choice(list(args))
    if draw.chance(0.1):
        return args | {name: Misfit(anything(draw))}, f"{name}: "
    value = spoil_argument(draw, args[name])
    return args | {name: Misfit(None) if value is None else value}, f"{name}: "


@target(2)
def layer(draw: Draw) -> None:
    """`functional.layer`, forward and backward."""
    set_machine(draw)
    problem = layer_problem(draw)
    check_gradients(problem, functional.layer, reference.layer)
    states = LAYERS[problem.cell].states
    dtype = draw.choice(DTYPES)
    tensors = [t if t is None else t.to(dtype) for t in problem.tensors]
    tensors = [relaid(draw, t) if t is not None and draw.chance(0.5) else t for t in tensors]
    names = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "w_hr", "unit")
    args: dict[str, Any] = {"cell": problem.cell, **dict(zip(names, tensors))}
    args |= {"states": tensors[7 : 7 + states], "reset_states": tensors[7 + states :], "resets": problem.resets}
    args |= {"batch_sizes": problem.batch_sizes, "lengths": problem.lengths, "reverse": problem.case.reverse}
    args["options"] = problem.options
    _try_wrong(draw, functional.layer, args, problem.title)


@target(2)
def ntm(draw: Draw) -> None:
    """`functional.ntm`, forward and backward."""
    set_machine(draw)
    problem = machine_problem(draw)
    check_gradients(problem, functional.ntm, reference.ntm.ntm)
    names = ("x", "controller", "w_heads", "b_heads", "w_out", "b_out", "h0", "c0", "memory0", "reads0", "weightings0")
    args: dict[str, Any] = {name: t.float() for name, t in zip(names, problem.tensors)}
    args |= {"lengths": problem.lengths, "conventions": problem.case.conventions}
    _try_wrong(draw, functional.ntm, args, problem.title)


@target()
def ntm_step(draw: Draw) -> None:
    """`functional.ntm_step`, forward and backward."""
    set_machine(draw)
    problem = machine_problem(draw, step=True)
    check_gradients(problem, functional.ntm_step, reference.ntm.step)
    args: dict[str, Any] = {name: t.float() for name, t in zip(("parameters", "memory", "weightings"), problem.tensors)}
    _try_wrong(draw, functional.ntm_step, args | {"conventions": problem.case.conventions}, problem.title)


@target(0.5)
def ntm_parts(draw: Draw) -> None:
    """`ntm_address`, `ntm_read` and `ntm_write`."""
    B, K, N, M, S = draw.size(4), max(1, draw.size(3)), max(1, draw.size(8)), max(1, draw.size(6)), draw.randint(0, 2)
    memory, weighting = torch.randn(B, N, M), torch.rand(B, K, N).softmax(-1)
    if draw.chance(0.3):
        _try_wrong(draw, functional.ntm_read, {"memory": memory, "weighting": weighting})
    elif draw.chance(0.4):
        args = {"memory": memory, "weighting": weighting, "erase": torch.rand(B, K, M), "add": torch.randn(B, K, M)}
        _try_wrong(draw, functional.ntm_write, args)
    else:
        args = {"memory": memory, "weighting": weighting, "key": torch.randn(B, K, M), "strength": torch.rand(B, K)}
        args |= {"gate": torch.rand(B, K), "shifts": torch.rand(B, K, 2 * S + 1).softmax(-1)}
        args["sharpening"] = 1 + torch.rand(B, K)
        if 2 * S + 1 <= N:
            _try_wrong(draw, functional.ntm_address, args)


def _try_wrong(draw: Draw, function: Callable[..., Any], args: dict[str, Any], title: str = "") -> None:
    """The call as it is, and with one thing wrong, with or without gradients; under autocast now and then."""
    run = with_gradients(function) if draw.chance(0.6) else function
    if draw.chance(0.15):
        inner, dtype = run, draw.pick(torch.bfloat16, torch.float16)

        def run(**keywords: Any) -> Any:
            with torch.autocast("cpu", dtype):
                return inner(**keywords)

    _, error = examine(lambda **keywords: run(**keywords), **args, separate=False)
    if error is not None:
        raise Fault(f"{title}: refused right arguments: {error}") from error
    for _ in range(3):
        wrong, what = spoil_one(draw, args)
        results, error = examine(lambda **keywords: run(**keywords), **wrong, what=what, separate=False)
        if error is None:
            check_devices(wrong, results, what)
