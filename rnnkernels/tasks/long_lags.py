"""The tasks with long time lags of Hochreiter and Schmidhuber, "Long short-term memory", 1997, experiments 2 to 6.

Positions count from 1, as the paper's minimal lags ask for: 40 in 6a is from position 60 to the end of the shortest
string, 100. A sequence to be classified at its end has a target (B,O), one predicted throughout (T,B,O).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from .sequences import Batch, integers, one_hot

__all__ = [
    "ORDER_SYMBOLS",
    "adding",
    "long_lag_2a",
    "long_lag_2b",
    "long_lag_2c",
    "multiplication",
    "temporal_order_6a",
    "temporal_order_6b",
    "two_sequences_3a",
    "two_sequences_3b",
    "two_sequences_3c",
]

ORDER_SYMBOLS = "EBabcdXY"


def _outer(generator: Generator, batch: int, middle: Tensor, p: int) -> Batch:
    """Strings (s, middle, s) with s one of x and y, to be predicted symbol by symbol; middle (p-1,B)."""
    ends = integers(generator, p - 1, p, (1, batch))
    string = one_hot(torch.cat((ends, middle, ends)), p + 1)
    return Batch(string[:-1], string[1:], torch.full((batch,), p))


def long_lag_2a(generator: Generator, batch: int, p: int = 100) -> Batch:
    """2a, noise-free: only (x, a1, ..., a_p-1, x) and (y, a1, ..., a_p-1, y), equally often.

    Returns:
        x (T=p,B,p+1) and target (T,B,p+1), one-hot: a1, ..., a_p-1, x, y. Every symbol after the first is predictable.
    """
    return _outer(generator, batch, torch.arange(p - 1).unsqueeze(1).expand(-1, batch), p)


def long_lag_2b(generator: Generator, batch: int, p: int = 100) -> Batch:
    """2b, no local regularities: as 2a, the middle p-1 random ones of a1, ..., a_p-1. Only the last is predictable."""
    return _outer(generator, batch, integers(generator, 0, p - 2, (p - 1, batch)), p)


def long_lag_2c(generator: Generator, batch: int, q: int = 50, p: int = 50) -> Batch:
    """2c, no bound on the lag: (b, s, q distractors, ..., e, s), s one of x and y, distractors of a1, ..., a_p.

    After q distractors another follows with probability 9/10, e with 1/10: the string's length is at least q + 4 and
    q + 13 in the mean (the paper says q + 14).

    Returns:
        x (T,B,p+4), one-hot a1, ..., a_p, e, b, x, y, up to e; target (B,2): is the last symbol x or y.
    """
    more = torch.empty(batch).geometric_(0.1, generator=generator).long() - 1
    lengths = q + more + 3
    string = integers(generator, 0, p - 1, (int(lengths.max()), batch))
    which, rows = integers(generator, 0, 1, (batch,)), torch.arange(batch)
    string[0], string[1] = p + 1, p + 2 + which
    string[lengths - 1, rows] = p
    return Batch(_cut(one_hot(string, p + 4), lengths), one_hot(which, 2), lengths)


def _cut(x: Tensor, lengths: Tensor) -> Tensor:
    """x (T,B,I) with zeros past each row's end."""
    return x * (torch.arange(x.size(0)).unsqueeze(1) < lengths).unsqueeze(2)


def _lengths(generator: Generator, batch: int, T: int) -> Tensor:
    return integers(generator, T, T + T // 10, (batch,))


def _two_sequences(generator: Generator, batch: int, T: int, N: int, noisy_start: bool) -> tuple[Batch, Tensor]:
    """The sequences, their targets to be filled in, and whether each is of class 1 (B,1)."""
    lengths = _lengths(generator, batch, T)
    first = integers(generator, 0, 1, (batch, 1))
    noise = torch.randn(int(lengths.max()), batch, generator=generator) * 0.2**0.5  # 0.2 is the variance
    sign = 2.0 * first.T - 1.0
    noise[:N] = sign + noise[:N] if noisy_start else sign
    return Batch(_cut(noise.unsqueeze(2), lengths), first.float(), lengths), first == 1


def two_sequences_3a(generator: Generator, batch: int, T: int = 100, N: int = 3) -> Batch:
    """3a: the first N elements are +1 (class 1) or -1, the rest Gaussian noise of variance 0.2.

    The length is one of T, ..., 1.1 T. Returns x (T,B,1) and target (B,1): 1 for class 1, else 0.
    """
    return _two_sequences(generator, batch, T, N, False)[0]


def two_sequences_3b(generator: Generator, batch: int, T: int = 100, N: int = 3) -> Batch:
    """3b: as 3a, the same noise added to the first N elements too."""
    return _two_sequences(generator, batch, T, N, True)[0]


def two_sequences_3c(generator: Generator, batch: int, T: int = 100, N: int = 3) -> tuple[Batch, Tensor]:
    """3c: as 3a, targets 0.2 (class 1) and 0.8, with Gaussian noise of variance 0.1.

    Returns:
        The batch, and the targets without noise (B,1), by which learning is judged.
    """
    sequences, first = _two_sequences(generator, batch, T, N, False)
    clean = torch.where(first, 0.2, 0.8)
    return sequences._replace(target=clean + torch.randn(batch, 1, generator=generator) * 0.1**0.5), clean


def _pairs(generator: Generator, batch: int, T: int, low: float, counts_as: float) -> tuple[Tensor, Tensor, ...]:
    """x (T,B,2), lengths, and the two marked values (B); a marked first pair counts as `counts_as`."""
    if T < 22:
        raise ValueError(f"T: expected at least 22, so that ten pairs lie in its first half, got {T}")
    lengths, rows = _lengths(generator, batch, T), torch.arange(batch)
    values = low + (1.0 - low) * torch.rand(int(lengths.max()), batch, generator=generator)
    first = integers(generator, 0, 9, (batch,))
    second = integers(generator, 0, T // 2 - 2, (batch,))  # the so-manieth of those not marked yet
    second = second + (second >= first)
    marks = torch.zeros_like(values)
    marks[first, rows] = marks[second, rows] = 1.0
    marks[0] = marks[lengths - 1, rows] = -1.0
    x1, x2 = (torch.where(at == 0, counts_as, values[at, rows]) for at in (first, second))
    return _cut(torch.stack((values, marks), 2), lengths), lengths, x1, x2


def adding(generator: Generator, batch: int, T: int = 100) -> Batch:
    """4: pairs of a value in [-1, 1] and a mark; at the end 0.5 + (X1 + X2) / 4 is wanted of the two marked values.

    The length is one of T, ..., 1.1 T. X1 is marked among the first ten pairs, then X2 among the first T/2 - 1 pairs
    still unmarked, so that at least T/2 pairs lie from there to the end. Marks are 1, at the first and the last pair
    -1, else 0. A marked first pair keeps its -1 and counts as 0, whichever of the two it is: the paper says so of X1,
    and a net could not tell otherwise.

    Returns:
        x (T,B,2) and target (B,1).
    """
    x, lengths, x1, x2 = _pairs(generator, batch, T, -1.0, 0.0)
    return Batch(x, (0.5 + (x1 + x2) / 4).unsqueeze(1), lengths)


def multiplication(generator: Generator, batch: int, T: int = 100) -> Batch:
    """5: as 4 with values in [0, 1] and target X1 X2; a marked first pair counts as 1."""
    x, lengths, x1, x2 = _pairs(generator, batch, T, 0.0, 1.0)
    return Batch(x, (x1 * x2).unsqueeze(1), lengths)


def _temporal_order(generator: Generator, batch: int, spans: tuple[tuple[int, int], ...]) -> Batch:
    lengths, rows = integers(generator, 100, 110, (batch,)), torch.arange(batch)
    string = integers(generator, 2, 5, (int(lengths.max()), batch))
    string[0] = 0
    string[lengths - 1, rows] = 1
    label = torch.zeros(batch, dtype=torch.int64)
    for low, high in spans:
        which = integers(generator, 0, 1, (batch,))
        string[integers(generator, low, high, (batch,)) - 1, rows] = 6 + which
        label = 2 * label + which
    return Batch(_cut(one_hot(string, len(ORDER_SYMBOLS)), lengths), one_hot(label, 2 ** len(spans)), lengths)


def temporal_order_6a(generator: Generator, batch: int) -> Batch:
    """6a: a string of 100 to 110 symbols, E first, B last, X or Y at two places, at random a, b, c, d else.

    The places are one of positions 10 to 20 and one of 50 to 60. Returns x (T,B,8), one-hot in the order of
    `ORDER_SYMBOLS`, and target (B,4), one-hot: XX, XY, YX, YY.
    """
    return _temporal_order(generator, batch, ((10, 20), (50, 60)))


def temporal_order_6b(generator: Generator, batch: int) -> Batch:
    """6b: as 6a with three places, positions 10 to 20, 33 to 43 and 66 to 76; target (B,8): XXX, XXY, ..., YYY."""
    return _temporal_order(generator, batch, ((10, 20), (33, 43), (66, 76)))
