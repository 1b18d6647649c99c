"""A pair of fused ops as torch sees it: derivatives and batching, whatever the ops compute.

torch.compile and torch.export trace ops as they are, with the autograd formulas registered here. Eager code reaches
them through an `autograd.Function` of the same formulas, because `torch.func` transforms refuse registered ones. What
the kernels cannot differentiate (double backward, forward mode) goes through the plain torch reference, with one
warning.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

__all__ = ["Fused", "warn_once"]


@functools.cache
def warn_once(message: str) -> None:
    """Warns at the first call with `message` in this process."""
    warnings.warn(f"rnnkernels: {message}", stacklevel=3)


class Fused:
    """A forward op `rnnkernels::{name}` and its backward `rnnkernels::{name}_backward`.

    Forward takes tensors, the configuration, and flags, of which the first says whether to save for backward; it
    returns results, and last of all what it saved. Backward takes the gradients of the results, the tensors, the first
    result, what was saved, the configuration, and whether the gradients of the first tensor, and of weights, are asked
    for; it returns the gradients of the tensors, of shape (0,) where nobody asked.

    A subclass says what the ops' fake kernels return, which function in plain torch they compute, and how a vmapped
    axis joins the batch.

    Attributes:
        name: of the forward op.
        tensors: how many there are.
        grads: how many results may have gradients.
        config: the schema of the configuration, which the ops' own must match.
        defaults: of the configuration and the flags, as far as the schemas have them: tracers leave such out.
        weights: the places of tensors that carry no axis of the batch, in the eyes of `needs_w`.
    """

    name: str
    tensors: int
    grads: int
    config: str
    defaults: tuple = ()
    weights: range
    dtypes = (torch.float32, torch.float64)  # of the first tensor
    wide: tuple[str, ...] = ()  # arguments that may be float32 beside a first tensor in half precision

    def register(self) -> None:
        """Tells torch all this."""
        self.settings = self.config.count(",") + 1  # arguments of the configuration
        self.required = self.settings - len(self.defaults)  # those that have no default
        self.op = getattr(torch.ops.rnnkernels, self.name).default
        self.op_backward = getattr(torch.ops.rnnkernels, f"{self.name}_backward").default
        self.run, self.run_backward = _below_autograd(self.op), _below_autograd(self.op_backward)

        for op, fake, vmap in (
            (self.op, self._fake, self._vmap),
            (self.op_backward, self._backward_fake, self._backward_vmap),
        ):
            torch.library.register_fake(op, functools.partial(self._checked, op, fake))
            torch.library.register_vmap(op, functools.partial(vmap, op))
        torch.library.register_autograd(
            self.op, functools.partial(self._backward, self.op_backward), setup_context=self._setup
        )
        # Opaque to tracers, which would unroll it, and an error rather than a wrong third derivative.
        opaque = torch.library.custom_op(
            f"rnnkernels::{self.name}_double_backward",
            functools.partial(_above_autograd, self._own_double),
            mutates_args=(),
            schema=f"(Tensor[] tensors, int[] where, Tensor[] grads, int[] arrived, {self.config}) -> Tensor[]",
        )
        opaque.register_fake(self._double_fake)
        torch.library.register_autograd(
            self.op_backward, functools.partial(self._double_backward, opaque), setup_context=self._backward_setup
        )

        class OfGradient(Function):
            forward = staticmethod(self.run_backward)
            setup_context = staticmethod(self._backward_setup)
            backward = staticmethod(functools.partial(self._double_backward, self._double))
            jvp = staticmethod(self._backward_jvp)

            @staticmethod
            def vmap(*args: Any) -> tuple[tuple, tuple]:
                return self._backward_vmap(OfGradient.apply, *args)

        class Forward(Function):
            forward = staticmethod(self.run)
            setup_context = staticmethod(self._setup)
            backward = staticmethod(functools.partial(self._backward, self._apply_backward))
            jvp = staticmethod(self._jvp)

            @staticmethod
            def vmap(*args: Any) -> tuple[tuple, tuple]:
                return self._vmap(Forward.apply, *args)

        self.apply, self.apply_grad = Forward.apply, OfGradient.apply
        # Outside `torch.func`, without its look at every argument, which costs a short sequence a tenth of its time.
        self.apply_plain = super(Function, Forward).apply

    # What a subclass says

    def _fake(self, *args: Any) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def _plain(self, config: tuple, all_results: bool) -> Callable[..., tuple[Tensor, ...]]:
        """The forward op, without what it saves, as a differentiable function of its tensors."""
        raise NotImplementedError

    def _vmap(self, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        raise NotImplementedError

    def _backward_vmap(self, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        raise NotImplementedError

    def _results(self, flags: Sequence[Any]) -> int:
        """How many results there are, and have gradients, under these flags; the others are empty."""
        return self.grads

    def _arrives_all(self, grads: Sequence[Tensor | None]) -> bool:
        """Whether these are gradients of all results."""
        return True

    def _refuse_double(self, config: tuple) -> None:
        """Raises where backward is not the derivative of forward."""

    # Running

    def call(self, args: tuple, flags: tuple, derived: bool) -> tuple[Tensor, ...]:
        """All results of forward, run as the moment asks: traced, under a transform, with autograd or without."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            # An exported program is mostly served: it saves nothing, and backward recomputes should somebody train it.
            exported = torch.compiler.is_exporting() or torch.jit.is_tracing()
            return self.op(*args, derived and not exported, *flags)
        if is_transformed():
            return self.apply(*args, torch.is_grad_enabled(), *flags)
        if derived:
            return self.apply_plain(*args, True, *flags)
        return self.run(*args, False, *flags)

    def _whole(self, args: tuple, required: int, flags: tuple) -> tuple:
        """`args` with what tracers drop because it is the schema's default: configuration and flags at the end."""
        return *args, *(*self.defaults, *flags)[len(args) - required :]

    def _given(self, tensors: Sequence[Tensor | None], needs_x: bool, needs_w: bool) -> list[bool]:
        """Which gradients the backward op computes; the others come back with shape (0,)."""
        needs = [needs_x, *(needs_w if i in self.weights else True for i in range(1, self.tensors))]
        return [need and t is not None for need, t in zip(needs, tensors, strict=True)]

    def _checked(self, op: Any, fake: Callable, *args: Any) -> tuple[Tensor, ...]:
        """`fake(*args)`, having refused the devices and dtypes that the kernels refuse.

        A tensor on the meta device among others makes torch call the fake instead of the kernel: without these checks
        what comes back would be uninitialised memory.
        """
        named = [(a.name, t) for a, t in zip(op._schema.arguments, args) if isinstance(t, Tensor)]
        first, x = next((name, t) for name, t in named if name in ("x", "parameters"))
        if x.dtype not in self.dtypes:
            *most, last = (str(d).removeprefix("torch.") for d in self.dtypes)
            raise RuntimeError(f"{op.name()}: {first}: expected {', '.join(most)} or {last}, got {x.dtype}")
        wide = torch.promote_types(x.dtype, torch.float32)
        for name, t in named:
            device, dtypes = x.device, (x.dtype,)
            if name in ("batch_sizes", "lengths", "seed"):
                dtypes = (torch.int64,)
                if name != "seed" or t.device.type == "cpu":
                    device = torch.device("cpu")
            elif name == "resets":
                dtypes = (torch.bool,)
            elif name.endswith("_mask"):
                dtypes = (t.dtype,) if t.is_floating_point() else (torch.bool,)
            elif name == "saved":
                dtypes = (wide,)
            elif name in self.wide:
                dtypes = (x.dtype, wide)
            if t.device != device:
                raise RuntimeError(f"{op.name()}: {name}: expected device {device}, got {t.device}")
            if t.dtype not in dtypes:
                raise RuntimeError(f"{op.name()}: {name}: expected dtype {dtypes[0]}, got {t.dtype}")
        return fake(*args)

    def _double_fake(self, tensors: Sequence[Tensor], where: Sequence[int], *rest: Any) -> list[Tensor]:
        devices = {t.device for t in (*tensors, *rest[0])}
        if len(devices) > 1:
            got = " and ".join(sorted(map(str, devices)))
            raise RuntimeError(f"rnnkernels::{self.name}_double_backward: expected tensors on one device, got {got}")
        return [torch.empty_like(t) for t in tensors]

    def _backward_fake(self, *args: Any) -> tuple[Tensor, ...]:
        args = self._whole(args, self.grads + self.tensors + 2 + self.required, (True, True))
        tensors, needs_x, needs_w = args[self.grads :][: self.tensors], *args[-2:]
        return tuple(
            t.new_empty(t.shape) if given else tensors[0].new_empty((0,))
            for t, given in zip(tensors, self._given(tensors, needs_x, needs_w), strict=True)
        )

    # The first derivative is the backward op

    def _setup(self, ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        inputs, ctx.flags = _split(inputs, self.tensors + self.settings)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[self._results(ctx.flags) :])
        tensors, ctx.config = _split(inputs, self.tensors)
        _save(ctx, *tensors, output[0], output[-1])

    def _backward(self, backward: Callable, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors, (out, saved), config = _join(_unpack(ctx, self.tensors), self.tensors, 2, ctx.config)
        needs, flags = ctx.needs_input_grad, ctx.flags
        if not flags[0] or out is None:
            results = self.op(*tensors, *config, True, *[False] * (len(flags) - 1))
            out, saved = results[0], results[-1]
        count = self._results(flags)
        grads = [g if k < count else None for k, g in enumerate(grads[:-1])]
        result = backward(*grads, *tensors, out, saved, *config, needs[0], any(needs[i] for i in self.weights))
        result = [g if need and t is not None else None for g, need, t in zip(result, needs, tensors)]
        return *result, *[None] * (len(config) + len(flags))

    def _apply_backward(self, *args: Any) -> tuple[Tensor, ...]:
        derived = torch.is_grad_enabled() or is_transformed()
        return self.apply_grad(*args) if derived else self.run_backward(*args)

    # Every other derivative goes through the reference

    def _plain_backward(self, config: tuple, all_results: bool) -> Callable[..., list[Tensor | None]]:
        """The backward op as a differentiable function of its gradients and tensors."""

        def run(*args: Tensor | None) -> list[Tensor | None]:
            grads, tensors = args[: self.grads], args[self.grads :]
            where = [i for i, t in enumerate(tensors) if t is not None]
            plain = _of(self._plain(config, all_results), tensors, where)
            outs, vjp = torch.func.vjp(plain, *(tensors[i] for i in where))
            result = vjp(tuple(torch.zeros_like(o) if g is None else g for g, o in zip(grads, outs)))
            return _scatter(result, where, len(tensors))

        return run

    def _backward_setup(self, ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        n = self.grads + self.tensors
        *inputs, needs_x, needs_w = inputs
        tensors, ctx.config = _split([*inputs[:n], *inputs[n + 2 :]], n)  # but out and saved
        ctx.given = self._given(tensors[self.grads : n], needs_x, needs_w)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(o for o, given in zip(output, ctx.given, strict=True) if not given))
        _save(ctx, *tensors)

    def _double_backward(self, double: Callable, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        n = self.grads + self.tensors
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
        self._refuse_double(config)
        warn_once(f"double backward of {self.name} runs in plain torch, tick by tick: no kernel computes it")
        absent = [None] * (self.grads + self.tensors)
        there = _scatter(tensors, where, len(absent))[: self.grads]
        plain = self._plain_backward(config, self._arrives_all(there))
        _, vjp = torch.func.vjp(_of(plain, absent, where, arrived), *tensors)
        return list(vjp(tuple(grads)))

    def _own_double(self, *args: Any) -> list[Tensor]:
        """The same for an op, which must return neither its inputs nor parts of one tensor."""
        return [g.clone(memory_format=torch.contiguous_format) for g in self._double(*args)]

    def _jvp(self, ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors, _, config = _join(ctx.saved_tensors, self.tensors, 2, ctx.config)
        count = self._results(ctx.flags)
        pushed = self._push(self._plain(config, count == self.grads), tensors, tangents, range(count))
        return *pushed, *[None] * (self.grads + 1 - count)

    def _backward_jvp(self, ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        n = self.grads + self.tensors
        tensors, _, config = _join(ctx.saved_tensors, n, 0, ctx.config)
        given = [k for k, given in enumerate(ctx.given) if given]
        plain = self._plain_backward(config, self._arrives_all(tensors[: self.grads]))
        return tuple(_scatter(self._push(plain, tensors, tangents, given), given, len(ctx.given)))

    def _push(self, plain: Callable, tensors: Sequence, tangents: Sequence, outputs: Sequence[int]) -> tuple:
        warn_once(f"forward-mode derivatives of {self.name} run in plain torch, tick by tick: no kernel computes them")
        where = [i for i, t in enumerate(tensors) if t is not None]
        primals = [tensors[i] for i in where]
        # Two reverse passes: torch.func.jvp does not nest in torch.autograd.forward_ad.
        outs, vjp = torch.func.vjp(_of(plain, tensors, where, outputs), *primals)
        _, push = torch.func.vjp(vjp, tuple(map(torch.zeros_like, outs)))
        given = (tangents[i] for i in where)
        return push(tuple(torch.zeros_like(p) if t is None else t for p, t in zip(primals, given)))[0]


def is_transformed() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def any_requires_grad(args: Sequence[Any]) -> bool:
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


def _unpack(ctx: Any, count: int) -> Sequence[Tensor | None]:
    """What `_save` kept; where the caller has since changed the result in place, None for it and for what was saved.

    Only the first `count` tensors and the configuration are then read, each with autograd's own check.
    """
    try:
        return ctx.saved_tensors
    except RuntimeError:
        kept = ctx._raw_saved_tensors
        return [None if i in (count, count + 1) else t.unpack() for i, t in enumerate(kept)]


def _split(args: Sequence[Any], count: int) -> tuple[Sequence[Any], Sequence[Any]]:
    return args[:count], args[count:]


def _join(saved: Sequence[Tensor | None], count: int, more: int, config: tuple) -> tuple[tuple, tuple, tuple]:
    """What `_save` kept: the first `count` tensors, the `more` after them, and the whole configuration."""
    kept = iter(saved[count + more :])
    return saved[:count], saved[count : count + more], tuple(next(kept) if c is _SAVED else c for c in config)


_SAVED = object()


def batched(in_dims: Sequence[Any]) -> bool:
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


def one_by_one(call: Callable, size: int, in_dims: tuple, args: tuple) -> tuple[tuple, tuple]:
    """The batching rule where weights or their gradients are batched: one fused call per sample."""
    if size == 0:
        raise ValueError("vmap: expected at least one sample where weights or their gradients are batched, got none")
    calls = [call(*(a.select(d, i) if isinstance(d, int) else a for a, d in zip(args, in_dims))) for i in range(size)]
    outs = tuple(torch.stack(parts) for parts in zip(*calls))
    return outs, (0,) * len(outs)


def folded(
    call: Callable,
    size: int,
    in_dims: tuple,
    inputs: tuple,
    outputs: tuple,
    tensors: Sequence[Tensor | None],
    rest: Sequence[Any],
) -> tuple[tuple, tuple]:
    """The batching rule otherwise: one call in which row b of sample v is row b * size + v.

    `inputs` and `outputs` give each tensor's axis of rows (None: it has none); packed rows stay sorted by length.
    """

    def fold(t: Tensor | None, dim: int | None, axis: int | None) -> Tensor | None:
        if t is None or axis is None:
            return t
        t = t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
        return t.movedim(0, axis + 1).flatten(axis, axis + 1)

    outs = call(*(fold(t, d, axis) for t, d, axis in zip(tensors, in_dims, inputs)), *rest)
    outs = zip(outs, outputs, strict=True)
    if size == 0:  # how many rows a sample has, no result tells: those of the first tensor that is batched
        known = zip(tensors, in_dims, inputs)
        rows = next(t.movedim(d, 0).size(axis + 1) for t, d, axis in known if None not in (axis, d))
        outs = tuple(o if axis is None else o.unflatten(axis, (rows, 0)) for o, axis in outs)
    else:
        outs = tuple(o if axis is None else o.unflatten(axis, (o.size(axis) // size, size)) for o, axis in outs)
    return outs, tuple(None if axis is None else axis + 1 for axis in outputs)
