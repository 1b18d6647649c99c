"""Targets that are wrong on purpose, each in one way: whether the harness sees it. Not among `TARGETS`."""

from __future__ import annotations

import ctypes
import os
import sys
import time

import torch
from torch import Tensor

from .harness import Draw, attempt, examine, target

kept = torch.zeros(5)


def _raises(error: BaseException) -> None:
    raise error


@target()
def right(draw: Draw) -> None:
    """Nothing wrong: a sum, and a refusal in one clear line."""
    examine(torch.add, torch.randn(draw.size()), 1.0)
    attempt(_raises, ValueError("size: expected 1 or more, got 0"))


@target()
def crash(_: Draw) -> None:
    ctypes.string_at(0)


@target()
def abort(_: Draw) -> None:
    os.abort()


@target()
def leaves(_: Draw) -> None:
    os._exit(0)


@target()
def hangs(_: Draw) -> None:
    time.sleep(100)


@target()
def wrong_exception(_: Draw) -> None:
    attempt(_raises, KeyError("h0"))


@target()
def unclear_message(_: Draw) -> None:
    attempt(_raises, RuntimeError("x INTERNAL ASSERT FAILED at y"))


@target()
def several_lines(_: Draw) -> None:
    attempt(_raises, ValueError("size: expected 1 or more,\ngot 0"))


@target()
def uninitialised(_: Draw) -> None:
    examine(lambda: torch.empty(1000))


@target()
def changes_argument(_: Draw) -> None:
    examine(lambda t: t.add_(1).clone(), torch.zeros(3))


@target()
def returns_argument(_: Draw) -> None:
    examine(lambda t: t[1:], torch.zeros(3))


@target()
def returns_twice(_: Draw) -> None:
    def run(t: Tensor) -> tuple[Tensor, Tensor]:
        out = t + 1
        return out, out[0]

    examine(run, torch.zeros(3))


@target()
def remembers(_: Draw) -> None:
    examine(lambda: kept.add_(1).clone())


@target()
def speaks(_: Draw) -> None:
    """Nothing wrong: what a command prints does not disturb the harness."""
    print("words", flush=True)
    print("words", file=sys.stderr)
