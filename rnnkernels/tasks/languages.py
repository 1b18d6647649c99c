"""Formal languages, to be predicted: after each symbol, the set of those that may follow.

A string stands between S and T. It is accepted if the predicted set is right after every symbol; T itself is not read.

Source: Gers and Schmidhuber, "LSTM recurrent networks learn simple context-free and context-sensitive languages", 2001.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from .sequences import Batch, integers, one_hot, pad

__all__ = ["ABBA", "AN_BN", "AN_BN_CN", "Language"]


class Language(NamedTuple):
    """Blocks of equal symbols, each as long as one of the string's counts says.

    name: such as a^n b^n.
    blocks: symbol and which count, for each block. The first block of a count may go on for ever; the later ones end
        where that count is reached.
    """

    name: str
    blocks: tuple[tuple[str, int], ...]

    @property
    def symbols(self) -> str:
        """S, the symbols of the blocks, T: their places in the one-hot vectors."""
        return "S" + "".join(symbol for symbol, _ in self.blocks) + "T"

    @property
    def counts(self) -> int:
        """How many numbers say which string it is."""
        return 1 + max(count for _, count in self.blocks)

    def string(self, *counts: int) -> str:
        """The string of these counts, S and T included."""
        self._check(counts)
        return "S" + "".join(symbol * counts[count] for symbol, count in self.blocks) + "T"

    def legal(self, *counts: int) -> list[str]:
        """After each symbol but the last T, those that may follow, in the order of `symbols`."""
        self._check(counts)
        after, followers = [self.blocks[0][0]], [symbol for symbol, _ in self.blocks[1:]] + ["T"]
        free: set[int] = set()
        for (symbol, count), follower in zip(self.blocks, followers, strict=True):
            if count in free:
                after += [symbol] * (counts[count] - 1) + [follower]
            else:
                after += [symbol + follower] * counts[count]
                free.add(count)
        return after

    def sequence(self, *counts: int) -> tuple[Tensor, Tensor]:
        """x (T,1,K), one-hot without the last T, and what may follow, (T,K) of zeros and ones."""
        codes = torch.tensor([self.symbols.index(symbol) for symbol in self.string(*counts)[:-1]])
        allowed = torch.tensor([[float(s in after) for s in self.symbols] for after in self.legal(*counts)])
        return one_hot(codes, len(self.symbols)).unsqueeze(1), allowed

    def batch(self, counts: Sequence[Sequence[int]]) -> Batch:
        """The strings of all these counts: x (T,B,K), target (T,B,K)."""
        rows = [self.sequence(*c) for c in counts]
        x, lengths = pad([x.squeeze(1) for x, _ in rows])
        return Batch(x, pad([allowed for _, allowed in rows])[0], lengths)

    def draw(self, generator: Generator, low: int, high: int) -> tuple[int, ...]:
        """Counts, each of low, ..., high equally likely."""
        return tuple(integers(generator, low, high, (self.counts,)).tolist())

    def _check(self, counts: Sequence[int]) -> None:
        if len(counts) != self.counts or min(counts) < 1:
            raise ValueError(f"counts: expected {self.counts} of at least 1, got {tuple(counts)}")


AN_BN = Language("a^n b^n", (("a", 0), ("b", 0)))
AN_BN_CN = Language("a^n b^n c^n", (("a", 0), ("b", 0), ("c", 0)))
ABBA = Language("a^n b^m B^m A^n", (("a", 0), ("b", 1), ("B", 1), ("A", 0)))
