"""What every generator hands out, and the few ways in which they draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

__all__ = ["Batch", "integers", "one_hot", "pad", "singles"]


class Batch(NamedTuple):
    """Sequences side by side. Axes: T ticks of the longest, B sequences, I inputs, O outputs.

    x: (T,B,I), zero past a sequence's end.
    target: (B,O), wanted at each sequence's last tick, or (T,B,O), wanted at every tick, zero past the end.
    lengths: int64 (B,), ticks of each sequence.
    mask: bool (T,B), the ticks whose target counts; None: it counts wherever there is one.
    """

    x: Tensor
    target: Tensor
    lengths: Tensor
    mask: Tensor | None = None

    def rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The sequences one at a time: x (T,1,I) of its own length, and its target (1,O) or (T,O)."""
        x = self.x.transpose(0, 1).contiguous()
        at_end = self.target.dim() == 2
        target = self.target if at_end else self.target.transpose(0, 1).contiguous()
        for b, length in enumerate(self.lengths.tolist()):
            yield x[b, :length].unsqueeze(1), target[b : b + 1] if at_end else target[b, :length]

    def ends(self, y: Tensor) -> Tensor:
        """What of y (T,B,O) stands at each sequence's last tick: (B,O)."""
        return y[self.lengths - 1, torch.arange(y.size(1))]


def singles(make, generator: Generator, **options) -> Iterator[tuple[Tensor, Tensor]]:
    """Sequences without end, one at a time, from a generator of batches: drawn many at once, which is cheaper.

    Args:
        make: `make(generator, batch, **options) -> Batch`.
    """
    while True:
        yield from make(generator, 256, **options).rows()


def integers(generator: Generator, low: int, high: int, size: Sequence[int]) -> Tensor:
    """int64 of shape `size`, each of low, ..., high equally likely: both ends belong to it."""
    return torch.randint(low, high + 1, tuple(size), generator=generator)


def one_hot(symbols: Tensor, size: int) -> Tensor:
    """float32 (..., size): 1 at each symbol's own place."""
    return torch.nn.functional.one_hot(symbols, size).float()


def pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows (T,...) of unequal length side by side, zero past their ends (T,B,...), and their lengths (B,)."""
    lengths = torch.tensor([row.size(0) for row in rows], dtype=torch.int64)
    return torch.nn.utils.rnn.pad_sequence(list(rows)), lengths
