"""The one function all layers and cells go through."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from .ops import LAYERS, warn_once

__all__ = ["layer"]


def layer(
    cell: str,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    w_hr: Tensor | None = None,
    states: Sequence[Tensor] = (),
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, ...]:
    """Runs one direction of one layer over a whole sequence.

    Axes: T ticks, B rows of the batch, I inputs, G gates of the cell, H hidden units, P fed back (H without `w_hr`).
    All tensors but `batch_sizes` share one dtype (float32, float64, bfloat16 or float16; the last two are computed and
    carried in float32) and one device. Under autocast they are cast to its dtype. Strides are free.

    Args:
        cell: one of `rnnkernels.info()["cells"]`: "lstm", "gru", "rnn_tanh", ...
        x: input (T,B,I); or packed frames (N,I), with `batch_sizes`.
        w_ih: input weights (G*H,I), gates in torch.nn's order.
        w_hh: recurrent weights (G*H,P).
        b_ih, b_hh: biases (G*H), each may be None.
        w_hr: projection of the hidden state (P,H), LSTM only, or None.
        states: initial states, zero where none are given: h (B,P), and for LSTM c (B,H).
        batch_sizes: rows alive at each tick, int64 (T,) on the CPU, non-increasing, as in `PackedSequence`.
        reverse: walk from each row's own last tick to its first.

    Returns:
        `(out, *final states)`: out (T,B,P) or (N,P), and each row's states after its last tick, shaped as `states`.

    Raises:
        ValueError: an unknown cell.
        RuntimeError: wrong rank, size, dtype, device, number of states or batch sizes.
    """
    op = LAYERS.get(cell)
    if op is None:
        raise ValueError(f"cell: expected one of {', '.join(LAYERS)}, got {cell!r}")
    if not states:
        rows = x.size(1) if batch_sizes is None else int(batch_sizes[0])
        h = x.new_zeros(rows, w_hh.size(1))
        states = [h, *[h if w_hr is None else x.new_zeros(rows, w_hr.size(1))] * (op.states - 1)]
    elif len(states) != op.states:
        raise RuntimeError(f"states: expected {op.states} for {cell}, got {len(states)}")
    tensors = (x, w_ih, w_hh, b_ih, b_hh, w_hr, *states)
    if autocasts(x):
        tensors = _autocast(tensors, torch.get_autocast_dtype(x.device.type))
    if not (x.is_cpu or x.is_meta):
        warn_once(f"{cell} runs in plain torch, tick by tick: there is no kernel for device {x.device.type!r} yet")
        return reference.layer(cell, *tensors[:6], tensors[6:], batch_sizes, reverse)
    return op(*tensors, batch_sizes, reverse)


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of `x`."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def _autocast(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    """Casts what autocast casts: floating point tensors, float64 excepted."""
    cast = (torch.float32, torch.bfloat16, torch.float16)
    return [t.to(dtype) if t is not None and t.dtype in cast else t for t in tensors]
