"""The five tasks of the Neural Turing Machine: copy, repeat copy, associative recall, dynamic N-grams, priority sort.

A task is a dataclass of its sizes; the defaults are the paper's. Where the paper leaves the channels open they are
those that its parameter counts imply, as each class says.

Source: Graves, Wayne and Danihelka, "Neural Turing Machines", 2014 (arXiv 1410.5401), section 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from numpy import ndarray
from torch import Generator, Tensor
from torch.nn import functional as F

from .sequences import Batch, integers

__all__ = ["TASKS", "AssociativeRecall", "Copy", "DynamicNGrams", "PrioritySort", "RepeatCopy", "Task"]


def _vectors(generator: Generator, counts: Sequence[int], bits: int) -> Iterator[ndarray]:
    """For each count so many random vectors, float32 (count, bits), drawn all at once."""
    drawn = torch.randint(2, (sum(counts), bits), generator=generator, dtype=torch.float32).numpy()
    end = 0
    for count in counts:
        yield drawn[end : (end := end + count)]


class Task:
    """What the tasks share. Axes: T ticks of the longest sequence, B sequences, I inputs, O outputs.

    Attributes:
        inputs, outputs: channels I and O.
        sizes: what `batch` can be told of its sequences.
        tests: sizes the paper tried, or what lies beyond training in its manner.
    """

    sizes: ClassVar[tuple[str, ...]]
    tests: ClassVar[tuple[Mapping[str, int], ...]] = ()
    inputs: int
    outputs: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if type(value) is not kind or (kind is int and value < 1):
                expected = "True or False" if kind is bool else "a number >= 1"
                raise ValueError(f"{field.name}: expected {expected}, got {value!r}")
            low = field.name.replace("max_", "min_")
            if value < getattr(self, low):
                raise ValueError(f"{field.name}: expected at least {low}, {getattr(self, low)}, got {value}")

    @property
    def largest(self) -> dict[str, int]:
        """The sizes of the largest sequences that are learned from."""
        return {name: getattr(self, f"max_{name}", None) or getattr(self, name) for name in self.sizes}

    def _rows(self, generator: Generator, size: int, **sizes: int | None) -> Iterator[tuple[ndarray, ndarray]]:
        """Sequences one by one: x (T,I) of its own length, and what is wanted at its last K ticks (K,O or fewer)."""
        raise NotImplementedError

    def _drawn(self, generator: Generator, size: int, name: str, fixed: int | None) -> list[int]:
        """A size for each sequence."""
        if fixed is not None:
            return [fixed] * size
        return integers(generator, getattr(self, f"min_{name}"), getattr(self, f"max_{name}"), (size,)).tolist()

    def batch(self, generator: Generator, size: int, **sizes: int) -> Batch:
        """Fresh sequences, each of a size of its own.

        Args:
            generator: draws everything.
            size: how many (B).
            sizes: by the names in `sizes`, the same for all sequences, within the range of training or beyond it.

        Returns:
            x (T,B,I), target (T,B,O) of zeros and ones, lengths (B,), mask (T,B).

        Raises:
            ValueError: a size this task does not have, or one below 1.
        """
        for name, value in sizes.items():
            if name not in self.sizes:
                raise ValueError(f"sizes: expected {' or '.join(self.sizes)}, got {name}")
            if value < 1:
                raise ValueError(f"{name}: expected a number >= 1, got {value}")
        rows = list(self._rows(generator, size, **sizes))
        lengths = [len(inputs) for inputs, _ in rows]
        T = max(lengths, default=0)
        x, target = (np.zeros((T, size, width), np.float32) for width in (self.inputs, self.outputs))
        mask = np.zeros((T, size), bool)
        for b, (n, (inputs, wanted)) in enumerate(zip(lengths, rows)):
            x[:n, b] = inputs
            target[n - len(wanted) : n, b, : wanted.shape[1]] = wanted
            mask[n - len(wanted) : n, b] = True
        return Batch(*map(torch.from_numpy, (x, target)), torch.tensor(lengths), torch.from_numpy(mask))

    @staticmethod
    def loss(logits: Tensor, batch: Batch) -> Tensor:
        """Cross entropy of logits (T,B,O), in bits per sequence: a sum over the ticks that count, a mean over B."""
        weight = batch.mask.unsqueeze(-1).to(logits.dtype)
        nats = F.binary_cross_entropy_with_logits(logits, batch.target.to(logits.dtype), weight, reduction="sum")
        return nats / (math.log(2) * batch.mask.size(1))

    @staticmethod
    def errors(logits: Tensor, batch: Batch) -> Tensor:
        """Wrong bits per sequence: outputs above 1/2 are ones."""
        wrong = (logits > 0) != (batch.target > 0)
        return (wrong & batch.mask.unsqueeze(-1)).sum() / batch.mask.size(1)

    def optimal(self, batch: Batch) -> Tensor | None:
        """The bits (B,) that the best possible predictor loses on each sequence; None where it loses none."""
        return None


@dataclass(frozen=True)
class Copy(Task):
    """Vectors of random bits, a flag, and the same vectors again while nothing is shown (section 4.1).

    Inputs: the bits, a start flag before them, an end flag after them. Outputs: the bits and the flag, which is not to
    be copied and stays zero. These 10 and 9 channels are those of the paper's parameter counts; public code does
    without start and output flag: 9 and 8.
    """

    sizes = ("length",)
    tests = tuple({"length": n} for n in (10, 20, 30, 50, 120))

    bits: int = 8
    min_length: int = 1
    max_length: int = 20
    start_flag: bool = True
    output_flag: bool = True

    @property
    def inputs(self) -> int:
        return self.bits + self.start_flag + 1

    @property
    def outputs(self) -> int:
        return self.bits + self.output_flag

    def _rows(self, generator: Generator, size: int, length: int | None = None) -> Iterator[tuple[ndarray, ndarray]]:
        first = int(self.start_flag)
        for v in _vectors(generator, self._drawn(generator, size, "length", length), self.bits):
            end = first + len(v)
            x = np.zeros((end + 1 + len(v), self.inputs), np.float32)
            x[:first, self.bits] = 1
            x[first:end, : self.bits] = v
            x[end, -1] = 1
            yield x, v


@dataclass(frozen=True)
class RepeatCopy(Task):
    """Vectors of random bits, to be copied as many times as said, and an end marker after the last copy (4.2).

    Inputs: the bits, a delimiter after them, and at the tick that follows the number of repeats, scaled to mean 0 and
    variance 1 over training. Outputs: the bits and the end marker. The paper says 8 bits; its parameter counts, 8
    inputs and 7 outputs, fit 6.
    """

    sizes = ("length", "repeats")
    tests = ({"length": 10, "repeats": 10}, {"length": 20, "repeats": 10}, {"length": 10, "repeats": 20})

    bits: int = 6
    min_length: int = 1
    max_length: int = 10
    min_repeats: int = 1
    max_repeats: int = 10

    @property
    def inputs(self) -> int:
        return self.bits + 2

    @property
    def outputs(self) -> int:
        return self.bits + 1

    def _rows(
        self, generator: Generator, size: int, length: int | None = None, repeats: int | None = None
    ) -> Iterator[tuple[ndarray, ndarray]]:
        lengths = self._drawn(generator, size, "length", length)
        counts = self._drawn(generator, size, "repeats", repeats)
        mean, choices = (self.min_repeats + self.max_repeats) / 2, self.max_repeats - self.min_repeats + 1
        sd = math.sqrt((choices**2 - 1) / 12) or 1.0
        for v, count in zip(_vectors(generator, lengths, self.bits), counts):
            n = len(v)
            x = np.zeros((n + 2 + n * count + 1, self.inputs), np.float32)
            x[:n, : self.bits] = v
            x[n, self.bits] = 1
            x[n + 1, self.bits + 1] = (count - mean) / sd
            wanted = np.zeros((n * count + 1, self.outputs), np.float32)
            wanted[:-1, : self.bits] = np.tile(v, (count, 1))
            wanted[-1, self.bits] = 1
            yield x, wanted


@dataclass(frozen=True)
class AssociativeRecall(Task):
    """Items of several vectors each; shown one of them again, the answer is the item that followed it (4.3).

    Inputs: the bits, a delimiter before each item, a delimiter before and after the query. Outputs: the bits. The query
    is any item but the last.
    """

    sizes = ("items",)
    tests = tuple({"items": n} for n in (6, 8, 10, 12, 15, 20))

    bits: int = 6
    vectors: int = 3
    min_items: int = 2
    max_items: int = 6

    @property
    def inputs(self) -> int:
        return self.bits + 2

    @property
    def outputs(self) -> int:
        return self.bits

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_items < 2:
            raise ValueError(f"min_items: expected at least 2, one to ask for and one to follow, got {self.min_items}")

    def _rows(self, generator: Generator, size: int, items: int | None = None) -> Iterator[tuple[ndarray, ndarray]]:
        if items == 1:
            raise ValueError("items: expected at least 2, one to ask for and one to follow, got 1")
        counts, k = self._drawn(generator, size, "items", items), self.vectors
        asked = torch.rand(size, generator=generator, dtype=torch.float64).tolist()
        for v, n, u in zip(_vectors(generator, [k * n for n in counts], self.bits), counts, asked):
            v, query, shown = v.reshape(n, k, self.bits), int(u * (n - 1)), n * (k + 1)
            x = np.zeros((shown + k + 2 + k, self.inputs), np.float32)
            item = x[:shown].reshape(n, k + 1, self.inputs)
            item[:, 0, self.bits] = 1
            item[:, 1:, : self.bits] = v
            x[shown : shown + k + 2 : k + 1, self.bits + 1] = 1
            x[shown + 1 : shown + 1 + k, : self.bits] = v[query]
            yield x, v[query + 1]


@dataclass(frozen=True)
class DynamicNGrams(Task):
    """Bits whose probability depends on the `order` bits before, by a table drawn anew for each sequence (4.4).

    The table's entries are drawn from Beta(1/2, 1/2), the first `order` bits from a fair coin. One input, the bit
    before (0 at the first tick), and one output, the bit now. Every bit counts, the first `order` too, which cost one
    bit each.
    """

    sizes = ("length",)

    length: int = 200
    order: int = 5

    inputs = outputs = 1

    def _rows(self, generator: Generator, size: int, length: int | None = None) -> Iterator[tuple[ndarray, ndarray]]:
        length, order, contexts = length or self.length, self.order, 2**self.order
        u = torch.rand(size, contexts + length, generator=generator, dtype=torch.float64)
        u[:, :contexts] = (u[:, :contexts] * (math.pi / 2)).sin() ** 2  # inverse of Beta(1/2, 1/2)'s distribution
        for row in u.tolist():
            drawn, bits, context = row[contexts:], [], 0
            for t, chance in enumerate(drawn):
                bit = chance < (row[context] if t >= order else 0.5)
                context = (2 * context + bit) % contexts
                bits.append(bit)
            wanted = np.array(bits, np.float32)[:, None]
            yield np.concatenate((np.zeros((1, 1), np.float32), wanted[:-1])), wanted

    def optimal(self, batch: Batch) -> Tensor:
        """What the best predictor that does not know the table loses, float64 (B,): about 133 bits of 200.

        It says P(1) = (N1 + 1/2) / (N0 + N1 + 1), where the context was followed N1 times by a one and N0 times by a
        zero: over a sequence the product of these is a ratio of Beta functions of the last counts.
        """
        bits = batch.target[..., 0].long()  # (T,B)
        T, B = bits.shape
        n = min(self.order, T)
        context = sum(bits[n - 1 - k : T - 1 - k] << k for k in range(n))
        counts = torch.zeros(2, B, 2**n, dtype=torch.float64)
        one = torch.ones((), dtype=torch.float64)
        counts.index_put_((bits[n:], torch.arange(B).expand(T - n, B), context), one, accumulate=True)
        zeros, ones = counts
        nats = math.log(math.pi) + torch.lgamma(zeros + ones + 1) - torch.lgamma(zeros + 0.5) - torch.lgamma(ones + 0.5)
        return n + nats.sum(-1) / math.log(2)


@dataclass(frozen=True)
class PrioritySort(Task):
    """Vectors of random bits, each with a priority from U(-1, 1); wanted are the highest, the highest first (4.5).

    Inputs: the bits, the priority, a delimiter after the last vector. Outputs: the bits. The paper's parameter count
    fits no number of channels; 8 bits are public code's.
    """

    sizes = ("vectors",)

    bits: int = 8
    vectors: int = 20
    highest: int = 16

    @property
    def inputs(self) -> int:
        return self.bits + 2

    @property
    def outputs(self) -> int:
        return self.bits

    def _rows(self, generator: Generator, size: int, vectors: int | None = None) -> Iterator[tuple[ndarray, ndarray]]:
        n = vectors or self.vectors
        priorities = torch.rand(size, n, generator=generator).mul_(2).sub_(1).numpy()
        for v, priority in zip(_vectors(generator, [n] * size, self.bits), priorities):
            wanted = v[(-priority).argsort()[: self.highest]]  # whole vectors are sorted, not each channel
            x = np.zeros((n + 1 + len(wanted), self.inputs), np.float32)
            x[:n, : self.bits] = v
            x[:n, self.bits] = priority
            x[n, self.bits + 1] = 1
            yield x, wanted


# by the names of the command line
TASKS: dict[str, type[Task]] = {
    "copy": Copy,
    "repeat-copy": RepeatCopy,
    "associative-recall": AssociativeRecall,
    "dynamic-ngrams": DynamicNGrams,
    "priority-sort": PrioritySort,
}
