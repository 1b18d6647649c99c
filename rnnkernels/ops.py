"""The ops as torch sees them: fake kernels, derivatives and batching rules, one loop over the list of cells.

A cell has two ops, `rnnkernels::{cell}` and `rnnkernels::{cell}_backward`. torch.compile and torch.export trace them as
they are, with the autograd formulas registered here. Eager code reaches them through an `autograd.Function` of the same
formulas, because `torch.func` transforms refuse registered ones. What the kernels cannot differentiate (double
backward, forward mode) goes through the plain torch reference, with one warning.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from . import _C, reference

__all__ = ["LAYERS", "Layer", "warn_once"]


@functools.cache
def warn_once(message: str) -> None:
    """Warns at the first call with `message` in this process."""
    warnings.warn(f"rnnkernels: {message}", stacklevel=3)


class Layer:
    """One direction of one layer of one cell: its pair of ops, and how torch differentiates and batches them.

    Arguments stand in one order everywhere: the tensors x, w_ih, w_hh, b_ih, b_hh, w_hr, *states; batch_sizes; reverse.
    Shapes are those of `rnnkernels.functional.layer`.

    Attributes:
        name: the cell's, and its op's.
        gates, states, saved_rows: how many of each (G, S, and rows of H saved for backward; one more with w_hr, one
            more in half precision).
        projection: whether w_hr may be given.
    """

    def __init__(self, name: str, gates: int, states: int, saved_rows: int, projection: bool, **_: Any) -> None:
        self.name, self.gates, self.states = name, gates, states
        self.saved_rows, self.projection = saved_rows, projection
        self.op = getattr(torch.ops.rnnkernels, name).default
        self.op_backward = getattr(torch.ops.rnnkernels, f"{name}_backward").default

        self.run, self.run_backward = _below_autograd(self.op), _below_autograd(self.op_backward)

        for op, fake, vmap in (
            (self.op, self._fake, self._vmap),
            (self.op_backward, self._backward_fake, self._backward_vmap),
        ):
            torch.library.register_fake(op, fake)
            torch.library.register_vmap(op, functools.partial(vmap, op))
        torch.library.register_autograd(
            self.op, functools.partial(self._backward, self.op_backward), setup_context=self._setup
        )
        # Opaque to tracers, which would unroll it, and an error rather than a wrong third derivative.
        opaque = torch.library.custom_op(
            f"rnnkernels::{name}_double_backward",
            functools.partial(_above_autograd, self._double),
            mutates_args=(),
            schema="(Tensor[] tensors, int[] where, Tensor[] grads, int[] arrived, Tensor? batch_sizes, bool reverse)"
            " -> Tensor[]",
        )
        opaque.register_fake(lambda tensors, *_: [torch.empty_like(t) for t in tensors])
        torch.library.register_autograd(
            self.op_backward, functools.partial(self._double_backward, opaque), setup_context=self._backward_setup
        )

        class FusedGrad(Function):
            forward = staticmethod(self.run_backward)
            setup_context = staticmethod(self._backward_setup)
            backward = staticmethod(functools.partial(self._double_backward, self._double))
            jvp = staticmethod(self._backward_jvp)

            @staticmethod
            def vmap(*args: Any) -> tuple[tuple, tuple]:
                return self._backward_vmap(FusedGrad.apply, *args)

        class Fused(Function):
            forward = staticmethod(self.run)
            setup_context = staticmethod(self._setup)
            backward = staticmethod(functools.partial(self._backward, self._apply_backward))
            jvp = staticmethod(self._jvp)

            @staticmethod
            def vmap(*args: Any) -> tuple[tuple, tuple]:
                return self._vmap(Fused.apply, *args)

        self.apply, self.apply_grad = Fused.apply, FusedGrad.apply

    def __call__(self, *args: Any) -> tuple[Tensor, ...]:
        """Runs `args` (see the class), saving for backward only what somebody may ask for: `(out, *final states)`."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            # An exported program is mostly served: it saves nothing, and backward recomputes should somebody train it.
            exported = torch.compiler.is_exporting() or torch.jit.is_tracing()
            return self.op(*args, torch.is_grad_enabled() and not exported and _any_requires_grad(args))[:-1]
        if _is_transformed():
            return self.apply(*args, torch.is_grad_enabled())[:-1]
        if torch.is_grad_enabled() and _any_requires_grad(args):
            return self.apply(*args, True)[:-1]
        return self.run(*args, False)[:-1]

    # Shapes

    def _fake(self, *args: Any) -> tuple[Tensor, ...]:
        x, _, w_hh, _, _, w_hr, *states, _, _, save = args
        frames = x.size(0) * x.size(1) if x.dim() == 3 else x.size(0)
        wide = torch.promote_types(x.dtype, torch.float32)
        rows = self.saved_rows + (w_hr is not None) + (wide != x.dtype)  # the last: h before it is rounded
        saved = (frames, rows, w_hh.size(0) // self.gates) if save else (0,)
        return (
            x.new_empty((*x.shape[:-1], w_hh.size(1))),
            *(s.new_empty(s.shape) for s in states),
            x.new_empty(saved, dtype=wide),
        )

    def _backward_fake(self, *args: Any) -> tuple[Tensor, ...]:
        *tensors, _, _, _, _, needs_x, needs_w = args[1 + self.states :]
        return tuple(
            tensors[0].new_empty(t.shape if given else (0,))
            for t, given in zip(tensors, self._given(tensors, needs_x, needs_w), strict=True)
        )

    def _given(self, tensors: Sequence[Tensor | None], needs_x: bool, needs_w: bool) -> list[bool]:
        """Which gradients the backward op computes; the others come back with shape (0,)."""
        needs = (needs_x, *[needs_w] * 5, *[True] * self.states)
        return [need and t is not None for need, t in zip(needs, tensors, strict=True)]

    # The first derivative is the backward op

    def _setup(self, ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        *tensors, batch_sizes, ctx.reverse, ctx.save = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[-1])
        _save(ctx, *tensors, output[0], output[-1], batch_sizes)

    def _backward(self, backward: Callable, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, out, saved, batch_sizes = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if not ctx.save:
            saved = self.op(*tensors, batch_sizes, ctx.reverse, True)[-1]
        result = backward(*grads[:-1], *tensors, out, saved, batch_sizes, ctx.reverse, needs[0], any(needs[1:6]))
        return *(g if need else None for g, need in zip(result, needs)), None, None, None

    def _apply_backward(self, *args: Any) -> tuple[Tensor, ...]:
        derived = torch.is_grad_enabled() or _is_transformed()
        return self.apply_grad(*args) if derived else self.run_backward(*args)

    # Every other derivative goes through the reference

    def _plain(self, batch_sizes: Tensor | None, reverse: bool) -> Callable[..., tuple[Tensor, ...]]:
        """The forward op as a differentiable function of its tensors."""

        def run(*tensors: Tensor | None) -> tuple[Tensor, ...]:
            with torch.autocast(tensors[0].device.type, enabled=False):
                return reference.layer(self.name, *tensors[:6], tensors[6:], batch_sizes, reverse)

        return run

    def _plain_backward(self, batch_sizes: Tensor | None, reverse: bool) -> Callable[..., list[Tensor | None]]:
        """The backward op as a differentiable function of its gradients and tensors."""

        def run(*args: Tensor | None) -> list[Tensor | None]:
            grads, tensors = args[: 1 + self.states], args[1 + self.states :]
            where = [i for i, t in enumerate(tensors) if t is not None]
            plain = _of(self._plain(batch_sizes, reverse), tensors, where)
            outs, vjp = torch.func.vjp(plain, *(tensors[i] for i in where))
            result = vjp(tuple(torch.zeros_like(o) if g is None else g for g, o in zip(grads, outs, strict=True)))
            return _scatter(result, where, len(tensors))

        return run

    def _backward_setup(self, ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        *tensors, _, _, batch_sizes, ctx.reverse, needs_x, needs_w = inputs
        ctx.given = self._given(tensors[1 + self.states :], needs_x, needs_w)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(o for o, given in zip(output, ctx.given, strict=True) if not given))
        _save(ctx, *tensors, batch_sizes)

    def _double_backward(self, double: Callable, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, batch_sizes = ctx.saved_tensors
        where = [i for i, t in enumerate(tensors) if t is not None]
        arrived = [k for k, g in enumerate(grads) if g is not None and ctx.given[k]]
        if not arrived:
            return (None,) * len(ctx.needs_input_grad)
        present, grads = [tensors[i] for i in where], [grads[k] for k in arrived]
        result = double(present, where, grads, arrived, batch_sizes, ctx.reverse)
        # out and saved follow from the other tensors, whose gradients are therefore whole without theirs.
        return *_scatter(result, where, len(tensors)), *[None] * 6

    def _double(
        self,
        tensors: Sequence[Tensor],
        where: Sequence[int],
        grads: Sequence[Tensor],
        arrived: Sequence[int],
        batch_sizes: Tensor | None,
        reverse: bool,
    ) -> list[Tensor]:
        """Gradients of the backward op's tensors at `where`, from those of its results `arrived`."""
        warn_once(f"double backward of {self.name} runs in plain torch, tick by tick: no kernel computes it")
        plain = self._plain_backward(batch_sizes, reverse)
        absent = [None] * (7 + 2 * self.states)
        _, vjp = torch.func.vjp(_of(plain, absent, where, arrived), *tensors)
        return list(vjp(tuple(grads)))

    def _jvp(self, ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, _, _, batch_sizes = ctx.saved_tensors
        return *self._push(self._plain(batch_sizes, ctx.reverse), tensors, tangents, range(1 + self.states)), None

    def _backward_jvp(self, ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, batch_sizes = ctx.saved_tensors
        given = [k for k, given in enumerate(ctx.given) if given]
        result = self._push(self._plain_backward(batch_sizes, ctx.reverse), tensors, tangents, given)
        return tuple(_scatter(result, given, len(ctx.given)))

    def _push(self, plain: Callable, tensors: Sequence, tangents: Sequence, outputs: Sequence[int]) -> tuple:
        warn_once(f"forward-mode derivatives of {self.name} run in plain torch, tick by tick: no kernel computes them")
        where = [i for i, t in enumerate(tensors) if t is not None]
        primals = [tensors[i] for i in where]
        # Two reverse passes: torch.func.jvp does not nest in torch.autograd.forward_ad.
        outs, vjp = torch.func.vjp(_of(plain, tensors, where, outputs), *primals)
        _, push = torch.func.vjp(vjp, tuple(map(torch.zeros_like, outs)))
        given = (tangents[i] for i in where)
        return push(tuple(torch.zeros_like(p) if t is None else t for p, t in zip(primals, given)))[0]

    # Batching: the vmapped axis joins the batch, unless weights or their gradients carry it

    def _vmap(self, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        *tensors, batch_sizes, reverse, save = args
        if any(d is not None for d in in_dims[1:6]):
            return _one_by_one(call, info.batch_size, in_dims, args)
        rows = 1 if batch_sizes is None else 0  # the axis of x and out that holds the batch
        states = [0] * self.states
        inputs = (rows, *[None] * 5, *states)
        outputs = (rows, *states, 0 if save else None)
        return _folded(call, info.batch_size, in_dims, inputs, outputs, tensors, (batch_sizes, reverse, save))

    def _backward_vmap(self, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        *tensors, batch_sizes, reverse, needs_x, needs_w = args
        weights = slice(2 + self.states, 7 + self.states)
        if needs_w or any(d is not None for d in in_dims[weights]):
            return _one_by_one(call, info.batch_size, in_dims, args)
        rows = 1 if batch_sizes is None else 0
        states = [0] * self.states
        inputs = (rows, *states, rows, *[None] * 5, *states, rows, 0)
        outputs = (rows if needs_x else None, *[None] * 5, *states)
        flags = (batch_sizes, reverse, needs_x, needs_w)
        return _folded(call, info.batch_size, in_dims, inputs, outputs, tensors, flags)


def _is_transformed() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _any_requires_grad(args: Sequence[Any]) -> bool:
    return any(isinstance(a, Tensor) and a.requires_grad for a in args)


def _below_autograd(op: Callable) -> Callable:
    """`op` without its registered autograd formula, which lives in Python and costs a tick 6 us even unused."""

    def run(*args: Any) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    run.__signature__ = inspect.signature(run)  # Function.apply asks for it at every call: 20 us where it is not kept
    return run


def _above_autograd(function: Callable, *args: Any) -> Any:
    """Calls `function` with autograd and `torch.func` at work again, which the dispatcher shuts off inside an op."""
    nothing = torch._C.DispatchKeySet(torch._C.DispatchKey.Undefined)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), nothing):
        return function(*args)


def _save(ctx: Any, *tensors: Tensor | None) -> None:
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def _scatter(values: Sequence[Any], where: Sequence[int], size: int) -> list[Any]:
    """A list of `size` with `values` at the places `where` and None elsewhere."""
    result = [None] * size
    for i, value in zip(where, values, strict=True):
        result[i] = value
    return result


def _of(function: Callable, args: Sequence, where: Sequence[int], outputs: Sequence[int] | None = None) -> Callable:
    """`function(*args)` as a function of the arguments at `where`, returning the results at `outputs` (None: all)."""

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        changed = dict(zip(where, values, strict=True))
        result = function(*(changed.get(i, a) for i, a in enumerate(args)))
        return tuple(result if outputs is None else (result[k] for k in outputs))

    return run


def _one_by_one(call: Callable, size: int, in_dims: tuple, args: tuple) -> tuple[tuple, tuple]:
    """The batching rule where weights or their gradients are batched: one fused call per sample."""
    if size == 0:
        raise ValueError("vmap: expected at least one sample where weights or their gradients are batched, got none")
    calls = [call(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims))) for i in range(size)]
    outs = tuple(torch.stack(parts) for parts in zip(*calls))
    return outs, (0,) * len(outs)


def _folded(
    call: Callable, size: int, in_dims: tuple, inputs: tuple, outputs: tuple, tensors: list, flags: tuple
) -> tuple[tuple, tuple]:
    """The batching rule otherwise: one call in which row b of sample v is row b * size + v.

    `inputs` and `outputs` give each tensor's axis of rows (None: it has none); packed rows stay sorted by length.
    """

    def fold(t: Tensor | None, dim: int | None, axis: int | None) -> Tensor | None:
        if t is None or axis is None:
            return t
        t = t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
        return t.movedim(0, axis + 1).flatten(axis, axis + 1)

    batch_sizes, *flags = flags
    outs = call(
        *(fold(t, d, axis) for t, d, axis in zip(tensors, in_dims, inputs)),
        None if batch_sizes is None else batch_sizes * size,
        *flags,
    )
    outs = zip(outs, outputs, strict=True)
    outs = tuple(o if axis is None else o.unflatten(axis, (o.size(axis) // size, size)) for o, axis in outs)
    return outs, tuple(None if axis is None else axis + 1 for axis in outputs)


def _layers() -> dict[str, Layer]:
    missing = [cell["name"] for cell in _C.cells() if cell["name"] not in reference.CELLS]
    if missing:
        raise ImportError(f"rnnkernels/reference/cells.py: expected a function for every cell, none for {missing}")
    return {cell["name"]: Layer(**cell) for cell in _C.cells()}


LAYERS: dict[str, Layer] = _layers()
