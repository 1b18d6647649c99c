"""The walk through time in plain torch: what one op does, one tick after the other."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import linear, pad

from ..options import Options
from .cells import CELLS, STATES, Cell, Tick, state_names
from .random import masks

DEFAULTS = Options()


class ClipGradient(Function):
    """The identity, whose gradient is clamped to [-limit, limit]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, limit: float) -> Tensor:
        return h.view_as(h)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.limit = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.clamp(-ctx.limit, ctx.limit), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return tangent.view_as(tangent)


def layer(
    cell: str | Cell,
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
    options: Options = DEFAULTS,
) -> tuple[Tensor, ...]:
    """One direction of one layer, differentiable to any order and under every `torch.func` transform.

    With `options.truncated` or `options.gradient_clip` the derivatives are by definition not those of the result.

    Args:
        cell: a name in `CELLS`, or a function of that kind.
        x: input (T,B,I); packed frames (N,I) with `batch_sizes`; or with `lengths` the frames (N,I) of one row after
            the other.
        w_ih, w_hh, b_ih, b_hh: weights (G*H,I) and (G*H,P), biases (G*H) or None. What has fewer rows lacks those of
            the first gates. LSTM1997: one row for all cells of a block, and `b_ih` may lack the cells' rows.
        w_hr: projection (P,H) of the fed-back state, or None (then P = H).
        states: initial states (B,P), (B,H), ..., the one that feeds back first, or () for zeros.
        batch_sizes: int64 (T,) on the CPU, rows alive at each tick, non-increasing, as in `PackedSequence`.
        reverse: walk from each row's own last tick to its first.
        unit: parameters per unit of the cell (K*H).
        lengths: int64 (B,) on the CPU, ticks of each row in any order, zero allowed.
        resets: bool (T,B), or (N,) laid out as x: the states are replaced where an episode begins, that is before this
            tick; in reverse before the one that precedes it.
        reset_states: what by, for every state its (P) or (H) or None for zeros; () for zeros throughout.
        options: regularisers, limits, masks.

    Returns:
        `(out, *final states, *sequences)`: out (T,B,P) or (N,P), zero past a row's end; the states after each row's
        own last tick; with `options.all_states` every state but the first after each tick, laid out as out.
        bfloat16 and float16 are computed in float32 and rounded once, at the end; final states are of the dtype of
        `states`.
    """
    function, names = (CELLS[cell], STATES[cell]) if isinstance(cell, str) else (cell, state_names(cell))
    asks = "tick" in inspect.signature(function).parameters
    dtype, wide = x.dtype, torch.promote_types(x.dtype, torch.float32)
    state_dtypes = [s.dtype for s in states]
    x, w_ih, w_hh, b_ih, b_hh, w_hr, unit, *states = (
        None if t is None else t.to(wide) for t in (x, w_ih, w_hh, b_ih, b_hh, w_hr, unit, *states)
    )
    flat, N, alive = x.dim() == 2, x.size(0), None
    if batch_sizes is not None or lengths is not None:
        alive, frame = (t.to(x.device) for t in _timeline(x, batch_sizes, lengths))
        if flat:
            x = torch.cat((x, x.new_zeros(1, x.size(1))))[frame]
            resets = None if resets is None else torch.cat((resets, resets.new_zeros(1)))[frame]
        else:
            x = torch.where(alive, x, 0.0)  # whatever stands past a row's end, even NaN, has no part in a gradient
    T, B, I = x.shape
    H, *widths = _widths(names, w_ih, w_hh, w_hr, options.block_size)
    states = states or [x.new_zeros(B, width) for width in widths]
    state_dtypes = state_dtypes or [dtype] * len(states)

    if options.seed is not None:  # which may be on the CPU whatever the device of x
        options = options._replace(seed=options.seed.to(x.device))
    mask = masks(options, T, B, I, H, widths[0], None if w_hh is None else w_hh.shape, wide)
    x = x if mask.input is None else x * mask.input
    w_hh = w_hh if mask.weight is None else w_hh * mask.weight
    rows = (w_ih if w_hh is None else w_hh).size(0)
    if b_ih is not None and rows - b_ih.size(0) == H and "i" in names:  # LSTM1997: the gates have a bias, cells none
        before = sum(widths[names.index(name)] for name in names if name in ("i", "f"))
        b_ih = torch.cat((b_ih[:before], b_ih.new_zeros(H), b_ih[before:]))
    b_ih, b_hh = (None if b is None else pad(b, (rows - b.size(0), 0)) for b in (b_ih, b_hh))
    if w_ih.size(0) == rows:
        frames = linear(x.flatten(0, 1), w_ih, b_ih).split([B] * T)
    else:
        frames = pad(linear(x.flatten(0, 1), w_ih), (rows - w_ih.size(0), 0)).split([B] * T)
        frames = frames if b_ih is None else [f + b_ih for f in frames]
    tick = Tick(unit, mask.recurrent, options)

    def rec(operand: Tensor, first: int = 0, last: int | None = None, gates: Sequence[Tensor] = ()) -> Tensor | float:
        """The product of this tick; `gates` are the states that feed back beside h where `w_hh` has their columns."""
        if w_hh is None:
            return 0.0
        operand = tick.fed(operand)
        if w_hh.size(1) > operand.size(-1):
            operand = torch.cat((operand, *map(tick.stop, gates)), -1)
        if first == 0 and last is None:  # a slice of everything is not free
            return linear(operand, w_hh, b_hh)
        part = slice(first * H, None if last is None else last * H)
        return linear(operand, w_hh[part], None if b_hh is None else b_hh[part])

    if resets is not None:
        resets = resets.unsqueeze(-1) if alive is None else resets.unsqueeze(-1) & alive
        if reverse:  # what comes before tick t is tick t + 1
            resets = torch.cat((resets[1:], torch.zeros_like(resets[:1])))
        fresh = [0.0 if s is None else s.to(wide) for s in reset_states or [None] * len(states)]
    zoneout = [(0, mask.zoneout, options.zoneout), (len(states) - 1, mask.zoneout_cell, options.zoneout_cell)]
    zoneout = [(n, z, p) for n, z, p in zoneout[: len(states)] if z is not None or p]
    history = []
    for t in reversed(range(T)) if reverse else range(T):
        ended = states
        if resets is not None:
            states = [torch.where(resets[t], new, s) for new, s in zip(fresh, states, strict=True)]
        if options.gradient_clip:
            states = [ClipGradient.apply(states[0], options.gradient_clip), *states[1:]]
        if mask.recurrent is not None and mask.recurrent.dim() == 3:
            tick = tick._replace(mask=mask.recurrent[t])
        after = list(function(frames[t], rec, *states, **({"tick": tick} if asks else {})))
        if w_hr is not None:
            after[0] = linear(after[0], w_hr)
        for n, z, p in zoneout:
            keep = p if z is None else z[t]
            after[n] = keep * states[n] + (1 - keep) * after[n]
        states = after if alive is None else [torch.where(alive[t], a, e) for a, e in zip(after, ended, strict=True)]
        history.append(states)

    sequences = []
    for n in range(len(states) if options.all_states else 1):
        ticks = [s[n] for s in history]
        sequence = torch.stack(ticks[::-1] if reverse else ticks) if ticks else x.new_zeros(0, *states[n].shape)
        if flat:
            sequence = sequence.flatten(0, 1)[frame.flatten().argsort()[:N]]
        elif alive is not None:
            sequence = torch.where(alive, sequence, 0.0)
        sequences.append(sequence)
    finals = (s.to(state_dtype) for s, state_dtype in zip(states, state_dtypes, strict=True))
    return sequences[0].to(dtype), *finals, *(s.to(dtype) for s in sequences[1:])


def _timeline(x: Tensor, batch_sizes: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Whether a row has a tick, (T,B,1), and which frame of 2-D x that is, (T,B): one past the last where none."""
    if batch_sizes is not None:
        alive = torch.arange(int(batch_sizes[0]) if len(batch_sizes) else 0, device="cpu") < batch_sizes.unsqueeze(-1)
        frame = alive.flatten().cumsum(0).view_as(alive) - 1
    else:
        count = x.size(0) if x.dim() == 3 else max(lengths.tolist(), default=0)
        ticks = torch.arange(count, device="cpu").unsqueeze(-1)
        alive = ticks < lengths
        frame = lengths.cumsum(0) - lengths + ticks
    return alive.unsqueeze(-1), torch.where(alive, frame, x.size(0))


def _widths(
    names: Sequence[str], w_ih: Tensor, w_hh: Tensor | None, w_hr: Tensor | None, block_size: int
) -> tuple[int, ...]:
    """Hidden units (H), then the units of every state; the states i, f, o are gates, one unit a block."""
    gates = [name in ("i", "f", "o") for name in names]
    if any(gates):
        hidden = w_ih.size(0) * block_size // (block_size + sum(gates))
    else:
        hidden = w_ih.size(0) if w_hh is None else (w_hh if w_hr is None else w_hr).size(1)
    first = hidden if w_hr is None else w_hr.size(0)
    return hidden, first, *(hidden // block_size if gate else hidden for gate in gates[1:])
