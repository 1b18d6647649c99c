"""The words in which an experiment is written down.

An `Entry` is a paper's figure and what to measure beside it; a `Variant` one form of its protocol; a `Trial` one run
with one seed, as the entry's function sees it; an `Outcome` what came of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch

__all__ = ["Clock", "Entry", "Gate", "Outcome", "Trial", "Variant"]


@dataclass(frozen=True)
class Variant:
    """A form of the protocol: what it changes of the entry's options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a trial found.

    Attributes:
        solved: whether the paper's criterion was met; None where there is none.
        count: sequences, updates or epochs until then, or until the end.
        stopped: "" (done), "cap" or "time": why it ended without having met the criterion.
        figures: further numbers, by name.
        curve: columns of numbers, by name, one of them "sequences" and one "loss"; none where there is no curve.
        seconds, seed: of the trial; filled in by who ran it.
    """

    solved: bool | None
    count: int
    stopped: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seconds: float = 0.0
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Clock:
    """Tells a trial when to stop, and hears how far it is.

    Args:
        stop: says whether it is time to stop; asked at most every 50 ms.
        heard: told by how much of the whole a trial has moved on.
    """

    def __init__(self, stop: Callable[[], bool] = lambda: False, heard: Callable[[float], None] = lambda _: None):
        self._stop, self._heard = stop, heard
        self._next = self._told = 0.0
        self.stopped = False

    def going(self, part: float) -> bool:
        """Whether to go on, `part` in [0, 1] of the whole being done. Costs next to nothing."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 0.05
            self.stopped = self.stopped or self._stop()
            self._tell(part)
        return not self.stopped

    def _tell(self, part: float) -> None:
        if part > self._told:
            self._heard(part - self._told)
            self._told = part

    def finish(self) -> None:
        """The trial is over, however far it came."""
        self._tell(1.0)


@dataclass
class Trial:
    """One run. `generator` is the only source of chance.

    Attributes:
        seed: of everything drawn.
        cap: after so many sequences, updates or epochs a trial ends.
        options: the entry's, as the variant changes them.
        data: folder of data sets, or None.
        clock: asked in every loop.
    """

    seed: int
    cap: int
    options: dict[str, Any]
    data: Path | None = None
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def going(self, count: int) -> bool:
        """Whether another one may begin, `count` being done."""
        return count < self.cap and self.clock.going(count / self.cap)

    def unsolved(self, count: int, **figures: float) -> Outcome:
        """Ended without having met the criterion."""
        return Outcome(False, count, "time" if self.clock.stopped else "cap", figures)


@dataclass(frozen=True)
class Gate:
    """What must hold.

    Attributes:
        text: in words.
        variants: those it judges.
        check: given the outcomes of each of these, one line for everything that does not hold.
    """

    text: str
    variants: tuple[str, ...]
    check: Callable[[Mapping[str, list[Outcome]]], list[str]]


@dataclass(frozen=True)
class Entry:
    """An experiment.

    Attributes:
        name: on the command line.
        title: one line.
        paper: the figure it stands beside, with its source.
        unit: what is counted: sequences, updates, epochs.
        trial: runs one trial.
        options: what variants may change, with defaults.
        variants: tried one beside the other.
        trials, cap, seconds: of each variant; of each trial; of the whole entry.
        gate: or None where it is only reported.
        needs_data: runs only when a folder of data sets is given.
        notes: what a reader has to know to judge the numbers.
    """

    name: str
    title: str
    paper: str
    unit: str
    trial: Callable[[Trial], Outcome]
    variants: tuple[Variant, ...]
    trials: int
    cap: int
    seconds: int
    options: Mapping[str, Any] = field(default_factory=dict)
    gate: Gate | None = None
    needs_data: bool = False
    notes: str = ""

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise ValueError(f"{self.name}: two variants of one name")
        for variant in self.variants:
            if unknown := set(variant.options) - set(self.options):
                raise ValueError(f"{self.name}/{variant.name}: options {sorted(unknown)} are none of the entry's")
        if self.gate and not set(self.gate.variants) <= set(names):
            raise ValueError(f"{self.name}: the gate judges variants that do not exist")

    def variant(self, name: str) -> Variant:
        """The variant of this name, or ValueError."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise ValueError(f"{self.name}: variant one of {', '.join(v.name for v in self.variants)} expected, got {name}")

    def run(self, trial: Trial) -> Outcome:
        """One trial."""
        with numpy.errstate(over="ignore"):  # e to a large number is infinite, and its logistic the 0 it should be
            return self.trial(trial)

    def options_of(self, variant: Variant) -> dict[str, Any]:
        """All options of a trial of this variant."""
        return {**self.options, **variant.options}
