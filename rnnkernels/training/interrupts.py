"""Ctrl-C where it may come at any time and something must be finished first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["noted", "undisturbed"]


@contextlib.contextmanager
def noted() -> Iterator[list[int]]:
    """Notes a Ctrl-C, to be obeyed at a good moment; a second one acts at once."""
    found: list[int] = []
    usual = signal.default_int_handler

    def note(number: int, _: Any) -> None:
        found.append(number)
        signal.signal(signal.SIGINT, usual)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield found  # somebody else's to obey
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, usual)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A Ctrl-C within is a KeyboardInterrupt at the end."""
    with noted() as interrupts:
        yield
    if interrupts:
        raise KeyboardInterrupt
