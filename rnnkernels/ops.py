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
from .options import PLAIN, Options

__all__ = ["LAYERS", "Layer", "warn_once"]


@functools.cache
def warn_once(message: str) -> None:
    """Warns at the first call with `message` in this process."""
    warnings.warn(f"rnnkernels: {message}", stacklevel=3)


class Layer:
    """One direction of one layer of one cell: its pair of ops, and how torch differentiates and batches them.

    Arguments stand in one order everywhere: the tensors x, w_ih, w_hh, b_ih, b_hh, w_hr, unit, *states, *reset states;
    then the configuration: batch_sizes, reverse, lengths, resets, and what `Options.flat` gives.
    Shapes are those of `rnnkernels.functional.layer`.

    Attributes:
        name: the cell's, and its op's.
        gates, states: how many of each (G, S).
        saved_rows, scales: numbers saved of a frame for backward are saved_rows * H + scales; and H more with w_hr,
            with zoneout of the cell state, and in half precision.
        projection: whether w_hr may be given.
        parameters: H-vectors in `unit`.
        fed: states, from the first, that may feed back; 0: no recurrent product.
        cell_state: index of the cell state, 0: none.
        first_input, first_bias_ih, first_bias_hh: gates before it have no rows in w_ih, b_ih, b_hh.
        shared: gates, as bits, that the cells of a memory block share.
    """

    def __init__(
        self,
        name: str,
        gates: int,
        states: int,
        saved_rows: int,
        scales: int,
        projection: bool,
        parameters: int,
        fed: int,
        cell_state: int,
        first_input: int,
        first_bias_ih: int,
        first_bias_hh: int,
        shared: int,
        **_: Any,
    ) -> None:
        self.name, self.gates, self.states = name, gates, states
        self.saved_rows, self.scales, self.projection, self.parameters = saved_rows, scales, projection, parameters
        self.fed, self.cell_state, self.first_input = fed, cell_state, first_input
        self.first_bias_ih, self.first_bias_hh, self.shared = first_bias_ih, first_bias_hh, shared
        self.tensors = 7 + 2 * states
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
            schema="(Tensor[] tensors, int[] where, Tensor[] grads, int[] arrived, Tensor? batch_sizes, bool reverse, "
            "Tensor? lengths, Tensor? resets, Tensor? seed, Tensor? zoneout_mask, Tensor? zoneout_cell_mask, "
            "Tensor? recurrent_mask, Tensor? input_mask, Tensor? weight_mask, float[] numbers, int[] choices)"
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
        # Outside `torch.func`, without its look at every argument, which costs a short sequence a tenth of its time.
        self.apply_plain = super(Function, Fused).apply

    def __call__(self, *args: Any, all_states: bool = False) -> tuple[Tensor, ...]:
        """Runs `args` (see the class), saving for backward only what somebody may ask for.

        `args` may end with the tensors: the configuration is then that of a layer without any option, walking forward.
        Returns `(out, *final states)`, with `all_states` the sequences of the states but the first as well.
        """
        eager = not (torch.compiler.is_compiling() or torch.jit.is_tracing() or _is_transformed())
        derived = torch.is_grad_enabled() and _any_requires_grad(args)
        if len(args) == self.tensors:
            if eager and not derived:  # what is left out costs nothing, and a tick is short
                return self.run(*args)[: 1 + self.states]
            args = (*args, None, False, None, None, *PLAIN.flat())
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            # An exported program is mostly served: it saves nothing, and backward recomputes should somebody train it.
            exported = torch.compiler.is_exporting() or torch.jit.is_tracing()
            results = self.op(*args, derived and not exported, all_states)
        elif _is_transformed():
            results = self.apply(*args, torch.is_grad_enabled(), all_states)
        elif derived:
            results = self.apply_plain(*args, True, all_states)
        else:
            results = self.run(*args, False, all_states)
        return results[: -1 if all_states else 1 + self.states]

    # Shapes

    def _saved_shape(self, tensors: Sequence[Tensor | None], config: tuple, save: bool) -> tuple[int, ...]:
        x, w_hr, states = tensors[0], tensors[5], tensors[7 : 7 + self.states]
        batch_sizes, options = config[0], Options.of_flat(*config[4:])
        hidden = states[0].size(1) if w_hr is None else w_hr.size(1)
        half = x.dtype in (torch.bfloat16, torch.float16)
        if not save:
            return (0,)
        raw = self.cell_state > 0 and (options.zoneout_cell > 0 or options.masks.zoneout_cell is not None)
        rows = self.saved_rows + (w_hr is not None) + raw
        if options.recompute:  # whose shape depends on the sizes' values
            ticks, batch = int(x.size(0) if batch_sizes is None else batch_sizes.size(0)), int(states[0].size(0))
            piece = options.recompute
            if piece == 1:
                piece = _C.recompute_piece(ticks, batch, rows * int(hidden) + self.scales)
            return (-(-ticks // piece), batch * (states[0].size(1) + (self.states - 1) * hidden))
        rows += half  # h before it is rounded
        return (x.size(0) * x.size(1) if x.dim() == 3 else x.size(0), rows * hidden + self.scales)

    def _fake(self, *args: Any) -> tuple[Tensor, ...]:
        *args, save, all_states = _whole(args, self.tensors, False)
        tensors, config = args[: self.tensors], args[self.tensors :]
        x, states = tensors[0], tensors[7 : 7 + self.states]
        wide = torch.promote_types(x.dtype, torch.float32)
        return (
            x.new_empty((*x.shape[:-1], states[0].size(1))),
            *(s.new_empty(s.shape) for s in states),
            *(x.new_empty((*x.shape[:-1], s.size(1)) if all_states else (0,)) for s in states[1:]),
            x.new_empty(self._saved_shape(tensors, config, save), dtype=wide),
        )

    def _backward_fake(self, *args: Any) -> tuple[Tensor, ...]:
        args = _whole(args, 2 * self.states + self.tensors + 2, True)
        tensors, needs_x, needs_w = args[2 * self.states :][: self.tensors], *args[-2:]
        return tuple(
            tensors[0].new_empty(t.shape if given else (0,))
            for t, given in zip(tensors, self._given(tensors, needs_x, needs_w), strict=True)
        )

    def _given(self, tensors: Sequence[Tensor | None], needs_x: bool, needs_w: bool) -> list[bool]:
        """Which gradients the backward op computes; the others come back with shape (0,)."""
        needs = (needs_x, *[needs_w] * 6, *[True] * 2 * self.states)
        return [need and t is not None for need, t in zip(needs, tensors, strict=True)]

    # The first derivative is the backward op

    def _setup(self, ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        *inputs, ctx.save, ctx.all_states = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(output[-1:] if ctx.all_states else output[1 + self.states :]))
        tensors, ctx.config = _split(inputs, self.tensors)
        _save(ctx, *tensors, output[0], output[-1])

    def _backward(self, backward: Callable, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved_tensors = ctx.saved_tensors
        tensors, rest, config = _join(saved_tensors, self.tensors, 2, ctx.config)
        out, saved = rest
        needs = ctx.needs_input_grad
        if not ctx.save:
            saved = self.op(*tensors, *config, True, False)[-1]
        grads = [None if g is None or k > self.states and not ctx.all_states else g for k, g in enumerate(grads[:-1])]
        result = backward(*grads, *tensors, out, saved, *config, needs[0], any(needs[1:7]))
        result = [g if need and t is not None else None for g, need, t in zip(result, needs, tensors)]
        return *result, *[None] * (len(config) + 2)

    def _apply_backward(self, *args: Any) -> tuple[Tensor, ...]:
        derived = torch.is_grad_enabled() or _is_transformed()
        return self.apply_grad(*args) if derived else self.run_backward(*args)

    # Every other derivative goes through the reference

    def _plain(self, config: tuple, all_states: bool) -> Callable[..., tuple[Tensor, ...]]:
        """The forward op as a differentiable function of its tensors."""
        batch_sizes, reverse, lengths, resets, *flat = config
        options = Options.of_flat(*flat)._replace(all_states=all_states)

        def run(*tensors: Tensor | None) -> tuple[Tensor, ...]:
            states, reset_states = tensors[7 : 7 + self.states], tensors[7 + self.states :]
            with torch.autocast(tensors[0].device.type, enabled=False):
                return reference.layer(
                    self.name, *tensors[:6], states, batch_sizes, reverse, unit=tensors[6], lengths=lengths,
                    resets=resets, reset_states=reset_states, options=options,
                )  # fmt: skip

        return run

    def _plain_backward(self, config: tuple, all_states: bool) -> Callable[..., list[Tensor | None]]:
        """The backward op as a differentiable function of its gradients and tensors."""

        def run(*args: Tensor | None) -> list[Tensor | None]:
            grads, tensors = args[: 2 * self.states], args[2 * self.states :]
            where = [i for i, t in enumerate(tensors) if t is not None]
            plain = _of(self._plain(config, all_states), tensors, where)
            outs, vjp = torch.func.vjp(plain, *(tensors[i] for i in where))
            result = vjp(tuple(torch.zeros_like(o) if g is None else g for g, o in zip(grads, outs)))
            return _scatter(result, where, len(tensors))

        return run

    def _backward_setup(self, ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        n = 2 * self.states + self.tensors
        *inputs, needs_x, needs_w = inputs
        tensors, ctx.config = _split([*inputs[:n], *inputs[n + 2 :]], n)  # but out and saved
        ctx.given = self._given(tensors[2 * self.states : n], needs_x, needs_w)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(o for o, given in zip(output, ctx.given, strict=True) if not given))
        _save(ctx, *tensors)

    def _double_backward(self, double: Callable, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        n = 2 * self.states + self.tensors
        tensors, _, config = _join(ctx.saved_tensors, n, 0, ctx.config)
        where = [i for i, t in enumerate(tensors) if t is not None]
        arrived = [k for k, g in enumerate(grads) if g is not None and ctx.given[k]]
        if not arrived:
            return (None,) * len(ctx.needs_input_grad)
        present, grads = [tensors[i] for i in where], [grads[k] for k in arrived]
        result = double(present, where, grads, arrived, *config)
        # out and saved follow from the other tensors, whose gradients are therefore whole without theirs.
        return *_scatter(result, where, len(tensors)), *[None] * (len(ctx.needs_input_grad) - n)

    def _double(
        self,
        tensors: Sequence[Tensor],
        where: Sequence[int],
        grads: Sequence[Tensor],
        arrived: Sequence[int],
        *config: Any,
    ) -> list[Tensor]:
        """Gradients of the backward op's tensors at `where`, from those of its results `arrived`."""
        if not Options.of_flat(*config[4:]).is_true_gradient:
            raise RuntimeError(
                f"{self.name}: expected gradient='full' and no gradient_clip for a double backward: a truncated or "
                "clipped gradient is not the derivative of the forward"
            )
        warn_once(f"double backward of {self.name} runs in plain torch, tick by tick: no kernel computes it")
        all_states = any(1 + self.states <= i < 2 * self.states for i in where)
        plain = self._plain_backward(config, all_states)
        absent = [None] * (2 * self.states + self.tensors)
        _, vjp = torch.func.vjp(_of(plain, absent, where, arrived), *tensors)
        return list(vjp(tuple(grads)))

    def _jvp(self, ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors, _, config = _join(ctx.saved_tensors, self.tensors, 2, ctx.config)
        count = 2 * self.states if ctx.all_states else 1 + self.states
        pushed = self._push(self._plain(config, ctx.all_states), tensors, tangents, range(count))
        return *pushed, *[None] * (2 * self.states + 1 - count)

    def _backward_jvp(self, ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        n = 2 * self.states + self.tensors
        tensors, _, config = _join(ctx.saved_tensors, n, 0, ctx.config)
        given = [k for k, given in enumerate(ctx.given) if given]
        all_states = any(g is not None for g in tensors[1 + self.states : 2 * self.states])
        result = self._push(self._plain_backward(config, all_states), tensors, tangents, given)
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

    # Batching: the vmapped axis joins the batch, unless weights or their gradients carry it, or rows differ

    @staticmethod
    def _rows_alike(config: tuple) -> bool:
        choices = config[-1]
        return all(part is None for part in config[2:-2]) and not (choices and choices[-1])

    def _vmap(self, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        args, in_dims = _whole(args, self.tensors, False), (*in_dims, *[None] * 14)
        tensors, config, flags = args[: self.tensors], args[self.tensors : -2], args[-2:]
        fixed = in_dims[1:7] + in_dims[7 + self.states : self.tensors]
        if _batched(fixed) or not self._rows_alike(config):
            return _one_by_one(call, info.batch_size, in_dims, args)
        save, all_states = flags
        rows = 1 if config[0] is None else 0  # the axis of x and out that holds the batch
        states = [0] * self.states
        inputs = (rows, *[None] * 6, *states, *[None] * self.states)
        outputs = (rows, *states, *[rows if all_states else None] * (self.states - 1), 0 if save else None)
        return _folded(call, info.batch_size, in_dims, inputs, outputs, tensors, config, flags)

    def _backward_vmap(self, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        n = 2 * self.states + self.tensors + 2
        args, in_dims = _whole(args, n, True), (*in_dims, *[None] * 14)
        tensors, config, flags = args[:n], args[n:-2], args[-2:]
        needs_x, needs_w = flags
        data = in_dims[2 * self.states :]
        fixed = data[1:7] + data[7 + self.states : self.tensors]
        if needs_w or _batched(fixed) or not self._rows_alike(config):
            return _one_by_one(call, info.batch_size, in_dims, args)
        rows = 1 if config[0] is None else 0
        states, none = [0] * self.states, [None] * self.states
        grads = (rows, *states, *[rows] * (self.states - 1))
        inputs = (*grads, rows, *[None] * 6, *states, *none, rows, 0)
        outputs = (rows if needs_x else None, *[None] * 6, *states, *none)
        return _folded(call, info.batch_size, in_dims, inputs, outputs, tensors, config, flags)


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
    tensors += tuple(c for c in ctx.config if isinstance(c, Tensor))
    ctx.config = tuple(_SAVED if isinstance(c, Tensor) else c for c in ctx.config)
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def _whole(args: tuple, required: int, flags: bool) -> tuple:
    """`args` with what tracers drop because it is the schema's default: configuration and two flags at the end."""
    defaults = (None, False, None, None, *PLAIN.flat(), flags, flags)
    return *args, *defaults[len(args) - required :]


def _split(args: Sequence[Any], count: int) -> tuple[Sequence[Any], Sequence[Any]]:
    return args[:count], args[count:]


def _join(saved: Sequence[Tensor | None], count: int, more: int, config: tuple) -> tuple[tuple, tuple, tuple]:
    """What `_save` kept: the first `count` tensors, the `more` after them, and the whole configuration."""
    kept = iter(saved[count + more :])
    return saved[:count], saved[count : count + more], tuple(next(kept) if c is _SAVED else c for c in config)


_SAVED = object()


def _batched(in_dims: Sequence[Any]) -> bool:
    return any(isinstance(d, int) for d in in_dims)


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
    calls = [call(*(a.select(d, i) if isinstance(d, int) else a for a, d in zip(args, in_dims))) for i in range(size)]
    outs = tuple(torch.stack(parts) for parts in zip(*calls))
    return outs, (0,) * len(outs)


def _folded(
    call: Callable,
    size: int,
    in_dims: tuple,
    inputs: tuple,
    outputs: tuple,
    tensors: Sequence[Tensor | None],
    config: tuple,
    flags: tuple,
) -> tuple[tuple, tuple]:
    """The batching rule otherwise: one call in which row b of sample v is row b * size + v.

    `inputs` and `outputs` give each tensor's axis of rows (None: it has none); packed rows stay sorted by length.
    """

    def fold(t: Tensor | None, dim: int | None, axis: int | None) -> Tensor | None:
        if t is None or axis is None:
            return t
        t = t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
        return t.movedim(0, axis + 1).flatten(axis, axis + 1)

    batch_sizes, *config = config
    outs = call(
        *(fold(t, d, axis) for t, d, axis in zip(tensors, in_dims, inputs)),
        None if batch_sizes is None else batch_sizes * size,
        *config,
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
