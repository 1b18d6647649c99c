"""Runs trials, several at a time, and keeps what they found: ``<folder>/<entry>.json``."""

from __future__ import annotations

import datetime
import json
import math
import multiprocessing
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy
import torch

from ..modules.checks import is_number
from ..training.files import alone, finite, replace
from ..training.interrupts import undisturbed
from .entry import Clock, Entry, Outcome, Trial, Variant

__all__ = ["Job", "Run", "facts", "keep", "load", "outcomes", "run"]


@dataclass(frozen=True)
class Job:
    """One trial to be run, in words that travel to another process."""

    entry: str
    variant: str
    options: dict[str, Any]
    seed: int
    cap: int
    data: Path | None


@dataclass
class Run:
    """What one call for one entry found.

    Attributes:
        found: outcomes by variant, by seed.
        interrupted: it was ended by hand, or goes on; trials not finished by then are left out.
        errors: one line for each trial that raised.
        measured: when, where and by what.
        kept: as it is on file, where it is.
        unkept: why the latest trials are not.
    """

    entry: Entry
    variants: list[Variant]
    cap: int
    limit: float
    jobs: int
    found: dict[str, list[Outcome]] = field(default_factory=dict)
    interrupted: bool = False
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    measured: dict[str, Any] = field(default_factory=lambda: facts())
    kept: dict[str, Any] | None = None
    unkept: Exception | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it is kept on file."""
        return {
            **self.measured,
            "cap": self.cap,
            "limit": self.limit,
            "jobs": self.jobs,
            "seconds": round(self.seconds, 1),
            "interrupted": self.interrupted,
            "variants": {
                variant.name: {
                    "options": self.entry.options_of(variant),
                    "trials": [o.as_dict() for o in self.found[variant.name]],
                }
                for variant in self.variants
                if self.found.get(variant.name)
            },
        }

    def trouble(self) -> list[str] | None:
        """What the gate finds wrong, or None where there is none or too little was run to judge."""
        return judge(self.entry, self.found, self.cap)


def judge(entry: Entry, found: dict[str, list[Outcome]], cap: int) -> list[str] | None:
    """What the gate finds wrong in these outcomes; None: no gate, or other than the entry's own cap, or too few."""
    if entry.gate is None or cap != entry.cap:
        return None
    if any(len(found.get(name, ())) < entry.trials for name in entry.gate.variants):
        return None
    return entry.gate.check({name: found[name] for name in entry.gate.variants})


def _trial(job: Job, clock: Clock) -> Outcome:
    from . import ENTRIES

    start = time.perf_counter()
    outcome = ENTRIES[job.entry].run(Trial(job.seed, job.cap, dict(job.options), job.data, clock))
    clock.finish()
    json.dumps(finite(outcome.as_dict()))  # what cannot be kept is this trial's fault, and no other's
    return changed(outcome, seed=job.seed, seconds=round(time.perf_counter() - start, 2))


_shared: dict[str, Any] = {}  # of a process that runs trials


def _begin(stop: Any, done: Any) -> None:
    """In a new process. Its trials are nobody's once the parent is killed, which could not say so."""

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _shared.update(stop=stop, done=done)


def _elsewhere(job: Job) -> Outcome:
    def heard(part: float) -> None:
        with _shared["done"].get_lock():
            _shared["done"].value += part

    return _trial(job, Clock(_shared["stop"].is_set, heard))


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started here hear no Ctrl-C: it is for their parent, which hears it at the end, and stops them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _here(jobs: Iterable[Job], limit: float, done: Callable[[Job, Outcome | Exception], None], moved) -> bool:
    """One trial after the other in this process; whether it was interrupted."""
    end = time.monotonic() + limit
    with _one_thread():
        for job in jobs:
            if time.monotonic() >= end:
                break
            try:
                try:
                    outcome = _trial(job, Clock(lambda: time.monotonic() >= end, moved))
                except Exception as error:  # one trial's trouble is not another's
                    outcome = error
                with undisturbed():
                    done(job, outcome)
            except KeyboardInterrupt:
                return True
    return False


def _side_by_side(jobs: Iterable[Job], limit: float, count: int, done, moved) -> bool:
    """As `_here`, `count` trials at a time in processes of their own."""
    context = multiprocessing.get_context("spawn")  # a fork of a process that has threads may hang
    stop, progress = context.Event(), context.Value("d", 0.0)
    end, told, interrupted, waiting = time.monotonic() + limit, 0.0, False, iter(jobs)
    job = next(waiting, None)
    pool = ProcessPoolExecutor(count, context, _begin, (stop, progress))
    running: dict[Any, Job] = {}
    try:
        while job or running:
            try:
                while job and len(running) < count and not stop.is_set():
                    with _deaf():
                        running[pool.submit(_elsewhere, job)] = job
                    job = next(waiting, None)
                finished, _ = wait(running, 0.2, FIRST_COMPLETED)
                for future in finished:
                    with undisturbed():
                        ended, error = running.pop(future), future.exception()
                        if isinstance(error, BrokenExecutor):  # a process died, and the others with it
                            stop.set()
                        if not interrupted or error or future.result().stopped != "time":  # else cut off, not late
                            done(ended, error or future.result())
                moved(progress.value - told)
                told = progress.value
                if time.monotonic() >= end:
                    stop.set()
            except KeyboardInterrupt:
                interrupted = True
                stop.set()
            if stop.is_set():
                job = None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    return interrupted


def run(
    entry: Entry,
    variants: Sequence[Variant],
    trials: int,
    cap: int,
    seed: int,
    seconds: float,
    jobs: int,
    data: Path | None = None,
    moved: Callable[[float], None] = lambda _: None,
    told: Callable[[str, Outcome], None] = lambda *_: None,
    kept: Callable[[Run], None] = lambda _: None,
) -> Run:
    """Runs `trials` of each variant, seeds `seed`, `seed` + 1, ..., every variant's first before any's second.

    Args:
        seconds: after so long no trial begins, and those that run end as unsolved, "time".
        jobs: trials at a time, each on one thread; 1: in this process.
        data: folder of data sets.
        moved: told how many trials, or parts of one, are done since it was last told.
        told: told of each trial's variant and outcome.
        kept: keeps what was found so far, after each trial and at the end; where it raises ValueError or OSError the
            run goes on and says so in `unkept`, and the next time everything is to be kept again.
    """
    result = Run(entry, list(variants), cap, seconds, jobs, {variant.name: [] for variant in variants})
    todo = (
        Job(entry.name, variant.name, entry.options_of(variant), seed + k, cap, data)
        for k in range(trials)
        for variant in variants
    )
    start = time.monotonic()

    def keep_all() -> None:
        result.seconds = time.monotonic() - start
        try:
            kept(result)
            result.unkept = None
        except (OSError, ValueError) as error:
            result.unkept = error

    def done(job: Job, outcome: Outcome | BaseException) -> None:
        if isinstance(outcome, BaseException):
            text = " ".join(f"{type(outcome).__name__}: {outcome}".split())
            result.errors.append(f"{job.entry}/{job.variant}, seed {job.seed}: {text}")
            return
        found = result.found[job.variant]
        found.append(outcome)
        found.sort(key=lambda o: o.seed)
        keep_all()
        told(job.variant, outcome)

    result.interrupted = True  # until it has ended otherwise
    if jobs == 1:
        result.interrupted = _here(todo, seconds, done, moved)
    else:
        result.interrupted = _side_by_side(todo, seconds, jobs, done, moved)
    with undisturbed():
        keep_all()
    return result


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return name[1] if name else platform.processor() or platform.machine()


def _revision() -> str | None:
    """The git revision of these sources, "+" where they differ from it; None without git."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head = git("rev-parse", "--short=12", "HEAD") if git("ls-files", "--error-unmatch", "__init__.py") else None
    return head and head + ("+" if git("status", "--porcelain", "--", ".", "../csrc") else "")


def facts() -> dict[str, Any]:
    """When, where and by what something was measured."""
    from .. import __version__, get_isa

    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
        },
        "isa": get_isa(),
        "versions": {
            "rnnkernels": __version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "python": sys.version.split()[0],
        },
        "revision": _revision(),
    }


def outcomes(trials: Iterable[Mapping[str, Any]]) -> list[Outcome]:
    """Trials as they are on file, which holds null for what was not finite."""

    def number(value: Any) -> float:
        if value is not None and not is_number(value):
            raise ValueError(f"expected a number, got {value!r}")
        return math.nan if value is None else value

    found = []
    for trial in trials:
        o = Outcome(**trial)
        for name in ("count", "seconds", "seed"):
            if not is_number(getattr(o, name)):
                raise ValueError(f"{name}: expected a number, got {getattr(o, name)!r}")
        figures = {name: number(value) for name, value in o.figures.items()}
        curve = {name: [number(value) for value in column] for name, column in o.curve.items()}
        if curve and len(curve["sequences"]) != len(curve["loss"]):
            raise ValueError("expected as many losses as sequences")
        found.append(changed(o, figures=figures, curve=curve))
    return found


_KEPT = {"date": str, "machine": dict, "isa": str, "versions": dict, "cap": int, "jobs": int, "interrupted": bool}


def load(path: Path) -> list[dict[str, Any]]:
    """The runs on file, the oldest first; none if there is no file; ValueError, which names it, if it is damaged."""
    if not path.exists():
        return []
    content = path.read_bytes()
    try:
        runs = json.loads(content)["runs"]
        for run in runs:
            if wrong := [name for name, kind in _KEPT.items() if not isinstance(run[name], kind)]:
                raise ValueError(f"{wrong[0]}: {run[wrong[0]]!r}")
            for part, name in ((run, "revision"), (run["machine"], "processor"), (run["machine"], "cores")):
                part[name]  # which the page shows
            for held in run["variants"].values():
                dict(held["options"])
                if not outcomes(held["trials"]):
                    raise ValueError("trials: none")
        return list(runs)
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{path}: expected the runs of `reproduce`, got a damaged file: {text}") from error


def keep(path: Path, found: Run) -> None:
    """Adds a run to those on file, or brings it up to date there; a call cut off leaves the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.parent):  # others may add theirs meanwhile
        runs, fresh = load(path), json.loads(json.dumps(finite(found.as_dict()), allow_nan=False))
        if found.kept in runs:
            runs[runs.index(found.kept)] = fresh
        else:
            runs.append(fresh)
        text = json.dumps({"entry": found.entry.name, "runs": finite(runs)}, indent=1, allow_nan=False)
        columns = re.compile(r"\[[-+.\denul,\s]+\]")  # of curves: on one line
        replace(path, (columns.sub(lambda numbers: " ".join(numbers[0].split()), text) + "\n").encode())
        found.kept = fresh
