"""The walk through time in plain torch: what one op does, one tick after the other."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from .cells import CELLS


def layer(
    cell: str | Callable[..., tuple[Tensor, ...]],
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, ...]:
    """One direction of one layer, differentiable to any order and under every `torch.func` transform.

    Args:
        cell: a name in `CELLS`, or a function of that kind.
        x: input (T,B,I), or (N,I) packed frames with `batch_sizes`.
        w_ih, w_hh, b_ih, b_hh: weights (G*H,I) and (G*H,P), biases (G*H) or None.
        w_hr: projection (P,H) of the fed-back state, or None (then P = H).
        states: initial states (B,P), (B,H), ..., the one that feeds back first.
        batch_sizes: int64 (T,) on the CPU, rows alive at each tick, non-increasing, as in `PackedSequence`.
        reverse: walk from each row's own last tick to its first.

    Returns:
        `(out, *final states)`: out (T,B,P) or (N,P), and the states after each row's own last tick.
        bfloat16 and float16 are computed in float32 and rounded once, at the end.
    """
    tick = CELLS[cell] if isinstance(cell, str) else cell
    dtype, wide = x.dtype, torch.promote_types(x.dtype, torch.float32)
    x, w_ih, w_hh, b_ih, b_hh, w_hr, *states = (
        None if t is None else t.to(wide) for t in (x, w_ih, w_hh, b_ih, b_hh, w_hr, *states)
    )
    hidden = (states[-1] if w_hr is None else w_hr).size(-1)

    def rec(operand: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        rows = slice(first * hidden, None if last is None else last * hidden)
        return linear(operand, w_hh[rows], None if b_hh is None else b_hh[rows])

    sizes = [x.size(1)] * x.size(0) if batch_sizes is None else batch_sizes.tolist()
    frames = linear(x if batch_sizes is not None else x.flatten(0, 1), w_ih, b_ih).split(sizes)
    outs, ended = [], []  # ended: states of the rows that are over, the longest last
    current = [s[: sizes[-1]] for s in states] if reverse and sizes else states
    for t in reversed(range(len(sizes))) if reverse else range(len(sizes)):
        alive, size = current[0].size(0), sizes[t]
        if size < alive:
            ended.append([s[size:] for s in current])
            current = [s[:size] for s in current]
        elif size > alive:
            current = [torch.cat((now, s[alive:size])) for now, s in zip(current, states, strict=True)]
        current = tick(frames[t], rec, *current)
        if w_hr is not None:
            current = (linear(current[0], w_hr), *current[1:])
        outs.append(current[0])
    finals = [torch.cat(parts) for parts in zip(current, *reversed(ended), strict=True)]
    out = torch.cat(outs[::-1] if reverse else outs) if outs else x.new_empty(0, w_hh.size(1))
    out = out.reshape(*x.shape[:-1], w_hh.size(1))
    return tuple(t.to(dtype) for t in (out, *finals))
