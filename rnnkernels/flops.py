"""What `torch.utils.flop_counter.FlopCounterMode` counts of the ops: their matrix products, as of torch.nn's layers."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from .fused import Fused
from .ops import LAYERS, NTM, NTM_STEP, Layer
from .options import Conventions

__all__: list[str] = []

Shape = Sequence[int]


def _whole(op: Any, args: tuple) -> tuple:
    """`args` with what the dispatcher leaves out because it is the schema's default."""
    return *args, *(a.default_value for a in op._schema.arguments[len(args) :])


def _layer(layer: Layer, tensors: Sequence[Shape | None]) -> tuple[int, int]:
    """Multiplications and additions with w_ih, and with what h passes through, over all frames."""
    x, w_ih, w_hh, _, _, w_hr = tensors[:6]
    frames = prod(x[:-1])
    back = sum(prod(w) for w in (w_hh, w_hr) if w is not None and len(w) == 2)
    return 2 * frames * prod(w_ih), 2 * frames * back


def _machine(tensors: Sequence[Shape | None], c: Conventions) -> tuple[int, int]:
    """The same of a whole machine: with the weights, and with the memory."""
    x, controller, w_heads, _, w_out = tensors[:5]
    hidden = w_heads[1]
    biases = c.layers * hidden * (4 if c.recurrent else 1)
    frames = 2 * x[0] * x[1]
    return frames * (prod(controller) - biases + prod(w_heads) + prod(w_out)), x[0] * _memory(tensors[8], c)


def _memory(memory: Shape, c: Conventions) -> int:
    """Keys with rows, weightings with shifts, what is read and written, at one time step of all rows of the batch."""
    batch, rows, width = memory
    return 2 * batch * rows * (c.heads * (width + c.shifts) + c.heads * width)


def _forward(fused: Fused, args: tuple) -> tuple[int, int]:
    tensors, config = args[: fused.tensors], args[fused.tensors :][: fused.settings]
    if isinstance(fused, Layer):
        return _layer(fused, tensors)
    c = Conventions.of_flat(*config[-2:])
    return _machine(tensors, c) if fused is NTM else (0, _memory(tensors[1], c))


def _register(fused: Fused) -> None:
    def forward(*args: Any, out_shape: Any = None, **_: Any) -> int:
        return sum(_forward(fused, _whole(fused.op, args)))

    def backward(*args: Any, out_shape: Any = None, **_: Any) -> int:
        *args, needs_x, needs_w = _whole(fused.op_backward, args)
        args = args[fused.grads :]
        config = args[fused.tensors + 2 :]
        outer, inner = _forward(fused, (*args[: fused.tensors], *config))
        recompute = bool(config[-1]) and config[-1][-1] > 0
        if isinstance(fused, Layer):
            return outer * (needs_x + needs_w) + inner * (1 + needs_w) + recompute * (outer + inner)
        return outer * (1 + needs_w) + 2 * inner + recompute * (outer + inner)

    register_flop_formula(getattr(torch.ops.rnnkernels, fused.name))(forward)
    register_flop_formula(getattr(torch.ops.rnnkernels, f"{fused.name}_backward"))(backward)


for _fused in (*LAYERS.values(), NTM, NTM_STEP):
    _register(_fused)
