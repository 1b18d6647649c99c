"""The ops themselves, below all Python checks: right calls against the reference, and calls with one thing wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

import rnnkernels as rk
from rnnkernels import reference
from rnnkernels.ops import LAYERS, NTM, NTM_STEP

from .cases import DTYPES, check_devices, layer_problem, machine_problem, relaid, spoil
from .harness import Draw, Fault, attempt, examine, poisoned, target, tensors_of


def schema(op: Any) -> list[tuple[str, str]]:
    """Name and type of every argument."""
    return [(a.name, str(a.type)) for a in op._schema.arguments]


def set_machine(draw: Draw) -> None:
    """Any instruction set, one thread or two."""
    rk.set_isa(draw.choice(rk.info()["available"]))
    torch.set_num_threads(draw.pick(1, 1, 2))


def run_fake(op: Any, args: list) -> tuple[Any, Exception | None]:
    """What the op's fake says."""
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in args]
        return attempt(op, *fakes, what="fake: ")


def check_fake(op: Any, args: list, results: Any) -> None:
    """Raises `Fault` where the op's fake gives other shapes, dtypes or devices than the op."""
    result, error = run_fake(op, args)
    if error:
        raise Fault(f"fake: raised {error!r} where the op does not")
    for k, (fake, real) in enumerate(zip(tensors_of(result), tensors_of(results), strict=True)):
        for fact in ("shape", "dtype", "device"):
            if getattr(fake, fact) != getattr(real, fact):
                raise Fault(f"fake: result {k} has {fact} {getattr(fake, fact)}, the op's {getattr(real, fact)}")


def close(ours: Tensor, exact: Tensor, what: str) -> None:
    """Holds float64 results of two ways to the same number together; other dtypes have `test_ops.py`."""
    if ours.shape != exact.shape:
        raise Fault(f"{what}: shape {tuple(ours.shape)}, the reference's is {tuple(exact.shape)}")
    scale = max(1.0, float(exact.abs().nan_to_num(0, 0, 0).max())) if exact.numel() else 1.0
    tolerance = 1e-6 if ours.dtype == torch.float64 else 2e-3 if ours.dtype == torch.float32 else 0.1
    off = ~torch.isclose(ours.double(), exact.double(), rtol=0, atol=tolerance * scale, equal_nan=True)
    if off.any():
        at = tuple(off.nonzero()[0].tolist())
        raise Fault(f"{what}{list(at)}: {float(ours[at])}, the reference has {float(exact[at])}")


def try_op(draw: Draw, op: Any, args: list, expected: list[Tensor | None], hidden: int = 0, fake: bool = True) -> None:
    """The op on right arguments however they lie, and then with one of them spoilt.

    Args:
        expected: what the first results must be; None: unknown.
        hidden: results at the end that are for backward.
        fake: whether the op has one.
    """
    relaid_args = [relaid(draw, a) if isinstance(a, Tensor) and draw.chance(0.5) else a for a in args]
    results, error = examine(op, *relaid_args, hidden=hidden)
    if error:
        raise Fault(f"refused right arguments: {error}") from error
    results = [results] if isinstance(results, Tensor) else list(results)
    for k, (result, exact) in enumerate(zip(results, expected)):
        if exact is not None:
            close(result, exact, f"result {k}")
    if fake:
        check_fake(op, args, results)
    names = schema(op)
    for _ in range(3):
        of_lists = [k for k, (_, kind) in enumerate(names) if kind.startswith("List")]
        where = draw.choice(of_lists) if of_lists and draw.chance(0.25) else draw.randrange(len(args))
        name, kind = names[where]
        wrong = list(args)
        wrong[where] = spoil(draw, args[where], kind)
        what = f"{name} = {_said(wrong[where])}: "
        results, error = examine(op, *wrong, what=what, hidden=hidden)
        if error is None:
            check_devices(wrong, results, what)
        if fake and _differs_in_kind(args[where], wrong[where]):
            _, other = run_fake(op, wrong)
            if (error is None) != (other is None):
                raise Fault(f"{what}the op said {error!r}, its fake {other!r}")


def _differs_in_kind(a: Any, b: Any) -> bool:
    """Whether two tensors differ in dtype or device alone, which fakes must look at."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or b.layout != torch.strided or b.is_nested:
        return False
    return a.shape == b.shape and (a.dtype, a.device) != (b.dtype, b.device)


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        text = f"{str(value.layout).removeprefix('torch.')} {value.dtype} on {value.device}"
        return f"{text} {'nested' if value.is_nested else tuple(value.shape)}"
    return repr(value)


def layer_arguments(problem: Any, dtype: torch.dtype, save: bool) -> list:
    """Of the forward op, with what `Problem` leaves out."""
    op = LAYERS[problem.cell]
    tensors = [None if t is None else t.to(dtype) for t in problem.tensors]
    tensors += [None] * (op.tensors - len(tensors))
    lies = problem.batch_sizes, problem.case.reverse, problem.lengths, problem.resets
    return [*tensors, *lies, *problem.options.flat(), save, problem.options.all_states]


@target(3)
def layer_op(draw: Draw) -> None:
    """The forward op of any cell."""
    set_machine(draw)
    problem, dtype = layer_problem(draw), draw.pick(torch.float64, torch.float64, *DTYPES)
    op = LAYERS[problem.cell].op
    expected = problem.run(reference.layer, *problem.tensors)
    states = LAYERS[problem.cell].states
    expected = [*expected, *[None] * (2 * states - len(expected)), None]
    try_op(draw, op, layer_arguments(problem, dtype, draw.chance(0.5)), expected, hidden=1)


@target(3)
def layer_backward_op(draw: Draw) -> None:
    """The backward op of any cell."""
    set_machine(draw)
    problem, dtype = layer_problem(draw), draw.pick(torch.float64, torch.float64, *DTYPES)
    layer = LAYERS[problem.cell]
    args = layer_arguments(problem, dtype, True)
    tensors, config = args[: layer.tensors], args[layer.tensors : -2]
    with poisoned():
        out, *_, saved = layer.op(*args)
    grads = [w.to(dtype) for w in problem.weights]
    grads += [None] * (layer.grads - len(grads))
    flags = draw.chance(0.8), draw.chance(0.8)
    expected: list[Tensor | None] = []
    if dtype == torch.float64:
        named = problem.outputs_and_gradients(reference.layer, torch.float64)
        gradients = iter([named[k] for k in named if k.startswith("grad_")])
        expected = [None if t is None else next(gradients) for t in tensors]
        given = layer._given(tensors, *flags)
        expected = [e if g else None for e, g in zip(expected, given)]
    try_op(draw, layer.op_backward, [*grads, *tensors, out, saved, *config, *flags], expected)


def machine_arguments(problem: Any, dtype: torch.dtype, save: bool) -> list:
    tensors = [None if t is None else t.to(dtype) for t in problem.tensors]
    if problem.step:
        return [*tensors, *problem.case.conventions._replace(layers=0).flat(), save]
    return [*tensors, problem.lengths, *problem.case.conventions.flat(), save]


def _try_machine(draw: Draw, step: bool) -> None:
    set_machine(draw)
    problem, dtype = machine_problem(draw, step), draw.pick(torch.float64, torch.float32)
    theirs = reference.ntm.step if step else reference.ntm.ntm
    with torch.no_grad():
        expected = list(problem.run(theirs, *problem.tensors))
    try_op(
        draw, (NTM_STEP if step else NTM).op, machine_arguments(problem, dtype, draw.chance(0.5)), expected, hidden=1
    )


def _try_machine_backward(draw: Draw, step: bool) -> None:
    set_machine(draw)
    problem, dtype = machine_problem(draw, step), draw.pick(torch.float64, torch.float32)
    machine = NTM_STEP if step else NTM
    args = machine_arguments(problem, dtype, True)
    tensors, config = args[: machine.tensors], args[machine.tensors : -1]
    with poisoned():
        first, *_, saved = machine.op(*args)
    flags = draw.chance(0.8), draw.chance(0.8)
    expected: list[Tensor | None] = []
    if dtype == torch.float64:
        named = problem.outputs_and_gradients(reference.ntm.step if step else reference.ntm.ntm, torch.float64)
        gradients = iter([named[k] for k in named if k.startswith("grad_")])
        given = machine._given(tensors, *flags)
        expected = [None if t is None else next(gradients) for t in tensors]
        expected = [e if g else None for e, g in zip(expected, given)]
    grads = [w.to(dtype) for w in problem.weights]
    try_op(draw, machine.op_backward, [*grads, *tensors, first, saved, *config, *flags], expected)


@target(2)
def ntm_op(draw: Draw) -> None:
    """The Neural Turing Machine over a sequence."""
    _try_machine(draw, step=False)


@target(2)
def ntm_backward_op(draw: Draw) -> None:
    """Its backward."""
    _try_machine_backward(draw, step=False)


@target()
def ntm_step_op(draw: Draw) -> None:
    """One tick of its heads."""
    _try_machine(draw, step=True)


@target()
def ntm_step_backward_op(draw: Draw) -> None:
    """The backward of one tick."""
    _try_machine_backward(draw, step=True)


@target(0.3)
def math_op(draw: Draw) -> None:
    """The words of the vector code, elementwise."""
    set_machine(draw)
    word = draw.pick("exp", "log", "tanh", "sigmoid", "softplus")
    x = torch.randn([draw.size(40) for _ in range(draw.randint(0, 3))], dtype=torch.float64) * draw.pick(1, 30, 1e3)
    x = x.abs() + 1e-3 if word == "log" else x  # of others it is never asked
    exact = torch.logaddexp(x, torch.zeros(())) if word == "softplus" else getattr(torch, word)(x)
    try_op(draw, torch.ops.rnnkernels._math.default, [x, word], [exact], fake=False)
