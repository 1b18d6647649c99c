"""Masks from a seed, in plain torch: a number of its own for every kind of mask, layer, tick, row and unit.

Nothing is drawn in an order, so any tick and any unit can be had alone, on any device, with the same result. Source of
the generator: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011 (Philox4x32-10).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..options import KINDS, Masks, Options

__all__ = ["mask", "masks", "philox"]

WORD = 0xFFFFFFFF
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # what the two words of the key grow by each round


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The four words Philox4x32-10 makes of four words `counter` and two words `key`, int64 that broadcast."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = _multiply(MULTIPLIERS[0], c0)
        high1, low1 = _multiply(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return c0, c1, c2, c3


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of the product of two words, by halves of `b`: the whole does not fit int64."""
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    return (high + (low >> 16)) >> 16, (((high & 0xFFFF) << 16) + low) & WORD


def mask(
    kind: str, p: float, seed: Tensor, shape: Sequence[int], stream: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """The mask of one kind that a layer draws from `seed`.

    Unit u of row b at tick t (0 without ticks) has word u % 64 // 16 of what Philox makes of the counter
    (u // 64 * 16 + u % 16, b, t, kind * 2**24 + stream) under the two words of the seed, the low one first. Its event,
    kept old or dropped, happens where that is less than floor(p * 2**32).

    Args:
        kind: one of `rnnkernels.options.KINDS`.
        p: probability of the event, 0 to 1.
        seed: int64, one number.
        shape: (T,B,H) for the two zoneouts; (B,P) or (T,B,P) and (B,I) or (T,B,I) for recurrent and input; that of
            `w_hh` for weight, whose rows and columns are b and u.
        stream: layer * directions + direction, below 2**24.
        dtype: of the result.

    Returns:
        For zoneout 1 where the old state is kept, else 0; for the others 0 where dropped, else 1 / (1 - p).
    """
    *ticks, rows, units = shape
    count = lambda n: torch.arange(n, device=seed.device)  # noqa: E731
    tag = torch.tensor(KINDS.index(kind) * 2**24 + stream, device=seed.device)
    counter = count((units + 63) // 64 * 16), count(rows)[:, None], count(*ticks or (1,))[:, None, None], tag
    seed = seed.reshape(())
    words = torch.stack(philox(counter, (seed & WORD, (seed >> 32) & WORD)), -2)  # (T, B, 4, 16 for each 64 units)
    words = words.unflatten(-1, (-1, 16)).transpose(-3, -2).flatten(-3)[..., :units].reshape(shape)
    happens = words < int(p * 2**32)
    return happens.to(dtype) if kind.startswith("zoneout") else (~happens).to(dtype) * (1 / (1 - p) if p < 1 else 0.0)


def masks(
    options: Options, T: int, B: int, I: int, H: int, P: int, weight: Sequence[int] | None, dtype: torch.dtype
) -> Masks:
    """The explicit masks of `options`, completed from its seed, if any, where a probability is positive.

    Args:
        options: of the layer.
        T, B, I, H, P: ticks of the longest row, rows, inputs, hidden units, units fed back.
        weight: the shape of `w_hh`, or None where the layer has none.
        dtype: of the masks.
    """
    ticks = (T,) if options.step else ()
    wanted = (
        (options.zoneout, (T, B, H)),
        (options.zoneout_cell, (T, B, H)),
        (options.recurrent_dropout, (*ticks, B, P)),
        (options.input_dropout, (*ticks, B, I)),
        (options.weight_dropout, weight),
    )
    result = []
    for kind, given, (p, shape) in zip(KINDS, options.masks, wanted, strict=True):
        if given is None and options.seed is not None and p and shape:
            given = mask(kind, p, options.seed, shape, options.stream)
        result.append(None if given is None else given.to(dtype))
    return Masks(*result)
