"""Embedded Reber strings, one at a time or as an endless stream.

The automaton (choices even): 0 -B-> 1; 1 -T-> 2, -P-> 3; 2 -S-> 2, -X-> 4; 3 -T-> 3, -V-> 5; 4 -X-> 3, -S-> 6;
5 -P-> 4, -V-> 6; 6 -E-> end. An embedded string is B, then T or P, a string of the automaton, the same T or P again, E.
The only long lag is that between the two outer T or P.

Source: Hochreiter and Schmidhuber, "Long short-term memory", 1997, experiment 1 (sets of 256 strings); Gers,
Schmidhuber and Cummins, "Learning to forget", 2000 (the continual stream).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from .sequences import Batch, one_hot, pad

__all__ = ["AUTOMATON", "SYMBOLS", "Sets", "batch", "continual", "embedded", "encode", "is_embedded", "legal", "sets"]

SYMBOLS = "BTPSXVE"
# state -> what may be said there, and where that leads
AUTOMATON: dict[int, dict[str, int]] = {
    0: {"B": 1},
    1: {"T": 2, "P": 3},
    2: {"S": 2, "X": 4},
    3: {"T": 3, "V": 5},
    4: {"X": 3, "S": 6},
    5: {"P": 4, "V": 6},
    6: {"E": 7},
}
END = 7


class Sets(NamedTuple):
    """Strings to train on and others to test on."""

    train: list[str]
    test: list[str]


def _coins(generator: Generator) -> Iterator[int]:
    while True:
        yield from torch.randint(2, (32,), generator=generator).tolist()


def embedded(generator: Generator) -> str:
    """One embedded Reber string, such as BTBPVPSETE."""
    coins = _coins(generator)
    outer, state, inner = "TP"[next(coins)], 0, ""
    while state != END:
        choices = list(AUTOMATON[state])
        symbol = choices[next(coins)] if len(choices) == 2 else choices[0]
        inner, state = inner + symbol, AUTOMATON[state][symbol]
    return f"B{outer}{inner}{outer}E"


def legal(string: str) -> list[frozenset[str]]:
    """After each symbol of an embedded string, the symbols that may follow; after its last E, B: the next string's.

    Raises:
        ValueError: not an embedded Reber string.
    """
    after, inner, state = [], string[2:-2], 0
    if len(string) < 5 or string[0] != "B" or string[1] not in "TP" or string[-2:] != string[1] + "E":
        raise ValueError(f"string: expected an embedded Reber string, got {string!r}")
    after += [frozenset("TP"), frozenset("B")]
    for symbol in inner:
        if symbol not in AUTOMATON.get(state, ()):
            raise ValueError(f"string: expected an embedded Reber string, got {string!r}")
        state = AUTOMATON[state][symbol]
        after.append(frozenset(string[1]) if state == END else frozenset(AUTOMATON[state]))
    if state != END:
        raise ValueError(f"string: expected an embedded Reber string, got {string!r}")
    return [*after, frozenset("E"), frozenset("B")]


def is_embedded(string: str) -> bool:
    """Whether this is an embedded Reber string."""
    try:
        legal(string)
    except ValueError:
        return False
    return True


def sets(generator: Generator, size: int = 256, distinct: bool = True) -> Sets:
    """`size` random strings to train on and `size` to test on; no string is in both.

    Args:
        distinct: no string twice within a set either; otherwise only the test strings are new ones, and short strings
            come as often as the automaton makes them.
    """
    train: list[str] = []
    test: list[str] = []
    seen: set[str] = set()
    for part in (train, test):
        known = set(seen)  # what this part may not contain
        while len(part) < size:
            string = embedded(generator)
            if string not in (seen if distinct else known):
                part.append(string)
                seen.add(string)
    return Sets(train, test)


def encode(string: str) -> Tensor:
    """int64 (T,): each symbol's place in `SYMBOLS`."""
    return torch.tensor([SYMBOLS.index(symbol) for symbol in string], dtype=torch.int64)


def _legal_mask(string: str) -> Tensor:
    return torch.tensor([[symbol in allowed for symbol in SYMBOLS] for allowed in legal(string)])


def batch(strings: Sequence[str]) -> tuple[Batch, Tensor]:
    """Strings as a batch whose targets are the symbols that follow, and what may follow.

    Returns:
        x (T,B,7) one-hot, without the last E; target (T,B,7) one-hot; and legal next symbols, bool (T,B,7), false past
        a string's end.
    """
    codes = [encode(string) for string in strings]
    x, lengths = pad([one_hot(code[:-1], len(SYMBOLS)) for code in codes])
    target, _ = pad([one_hot(code[1:], len(SYMBOLS)) for code in codes])
    allowed, _ = pad([_legal_mask(string)[:-1] for string in strings])
    return Batch(x, target, lengths), allowed


class Piece(NamedTuple):
    """One string of the endless stream.

    x: (T,1,7) one-hot, its last E included.
    target: (T,7) one-hot, the symbols that follow; after E the next string's B.
    legal: bool (T,7).
    outer: the tick after which the second outer T or P is due.
    """

    x: Tensor
    target: Tensor
    legal: Tensor
    outer: int


def continual(generator: Generator) -> Iterator[Piece]:
    """Embedded Reber strings one after the other, without end and without any mark between them but their own."""
    known: dict[str, Piece] = {}  # short strings come again and again
    while True:
        string = embedded(generator)
        if string not in known:
            follows = encode(string[1:] + "B")
            known[string] = Piece(
                one_hot(encode(string), len(SYMBOLS)).unsqueeze(1),
                one_hot(follows, len(SYMBOLS)),
                _legal_mask(string),
                len(string) - 3,
            )
        yield known[string]
