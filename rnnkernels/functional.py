"""The one function all layers and cells go through."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from .ops import LAYERS, Layer, warn_once
from .options import PLAIN, Options

__all__ = ["layer"]


def layer(
    cell: str,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor | None = None,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    w_hr: Tensor | None = None,
    states: Sequence[Tensor] = (),
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    *,
    unit: Tensor | None = None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reset_states: Sequence[Tensor | None] = (),
    options: Options = PLAIN,
) -> tuple[Tensor, ...]:
    """Runs one direction of one layer over a whole sequence.

    Axes: T ticks, B rows of the batch, I inputs, G gates of the cell, H hidden units, P fed back (H without `w_hr`).
    All floating point tensors share one dtype (float32, float64, bfloat16 or float16; the last two are computed and
    carried in float32) and one device. Under autocast they are cast to its dtype. Strides are free.

    Args:
        cell: one of `rnnkernels.info()["cells"]`: "lstm", "gru", "rnn_tanh", ...
        x: input (T,B,I); packed frames (N,I), with `batch_sizes`; or sequences one after another (N,I), with
            `lengths`.
        w_ih: input weights (G*H,I), gates in torch.nn's order; only the gates that take inputs have rows.
        w_hh: recurrent weights (G*H,P); None for cells without a recurrent product.
        b_ih, b_hh: biases (G*H), each may be None.
        w_hr: projection of the hidden state (P,H), LSTM only, or None.
        states: initial states, zero where none are given: h (B,P), and for LSTM c (B,H).
        batch_sizes: rows alive at each tick, int64 (T,) on the CPU, non-increasing, as in `PackedSequence`.
        reverse: walk from each row's own last tick to its first.
        unit: parameters of each hidden unit (K*H) of cells that have such: peepholes, gains, ...
        lengths: ticks of each row, int64 (B,) on the CPU, in any order, 0 allowed. Past its end a row's state stays,
            its output is zero, and so are all gradients.
        resets: bool, (T,B) or (N,), as x lies: where True, the states become `reset_states` before that tick; walking
            in reverse, between that tick and the one before it.
        reset_states: one for each state, (P) or (H), None for zero; or none at all.
        options: regularisers, limits, masks and what is remembered.

    Returns:
        `(out, *final states)`: out (T,B,P) or (N,P), and each row's states after its last tick, shaped as `states`.
        With `options.all_states` also every state but the first after every tick, laid out as out.

    Raises:
        ValueError: an unknown cell.
        RuntimeError: wrong rank, size, dtype, device, number of states, batch sizes or lengths; an option the cell
            cannot have; a double backward through a truncated or clipped gradient.
    """
    op = LAYERS.get(cell)
    if op is None:
        raise ValueError(f"cell: expected one of {', '.join(LAYERS)}, got {cell!r}")
    if not states:
        states = _zero_states(op, x, w_ih, w_hh, w_hr, batch_sizes, lengths, options.block_size)
    elif len(states) != op.states:
        raise RuntimeError(f"states: expected {op.states} for {cell}, got {len(states)}")
    if not reset_states:
        reset_states = (None,) * op.states
    elif len(reset_states) != op.states:
        raise RuntimeError(f"reset_states: expected {op.states} for {cell}, got {len(reset_states)}")
    tensors = (x, w_ih, w_hh, b_ih, b_hh, w_hr, unit, *states, *reset_states)
    if autocasts(x):
        tensors = _autocast(tensors, torch.get_autocast_dtype(x.device.type))
    if not (x.is_cpu or x.is_meta):
        warn_once(f"{cell} runs in plain torch, tick by tick: there is no kernel for device {x.device.type!r} yet")
        initial, resetting = tensors[7 : 7 + op.states], tensors[7 + op.states :]
        return reference.layer(
            cell, *tensors[:6], initial, batch_sizes, reverse, unit=tensors[6], lengths=lengths, resets=resets,
            reset_states=resetting, options=options,
        )  # fmt: skip
    if options is PLAIN and not reverse and batch_sizes is None and lengths is None and resets is None:
        return op(*tensors)
    return op(*tensors, batch_sizes, reverse, lengths, resets, *options.flat(), all_states=options.all_states)


def _zero_states(
    op: Layer,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor | None,
    w_hr: Tensor | None,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    block_size: int,
) -> list[Tensor]:
    flat_rows = lengths.size(0) if lengths is not None else None if batch_sizes is None else int(batch_sizes[0])
    rows = x.size(1) if x.dim() == 3 else flat_rows
    if w_hr is None and op.fed == 1:
        return [x.new_zeros(rows, w_hh.size(1))] * op.states
    inputs = range(op.first_input, op.gates)
    shared = sum(op.shared >> g & 1 for g in inputs)
    hidden = w_ih.size(0) * block_size // ((len(inputs) - shared) * block_size + shared)
    h = x.new_zeros(rows, hidden if w_hr is None else w_hr.size(0))
    c = h if w_hr is None else x.new_zeros(rows, hidden)
    gate = h if block_size == 1 else x.new_zeros(rows, hidden // block_size)
    return [h, *(gate if s < op.fed else c for s in range(1, op.states))]


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of `x`."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def _autocast(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    """Casts what autocast casts: floating point tensors, float64 excepted."""
    cast = (torch.float32, torch.bfloat16, torch.float16)
    return [t.to(dtype) if t is not None and t.dtype in cast else t for t in tensors]
