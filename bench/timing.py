"""Interleaved timing: contestants take turns in one process, so that the machine's moods meet them all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from rnnkernels import _C

from .contestants import Contestant
from .results import summary

TURN_S = 0.01  # a turn repeats a short call to last about this long
ROUNDS = (3, 30)  # fewest and most turns of a row
BUSY_CORES = 0.1  # others using more than this made a row unquiet
TASKS = Path("/proc/self/task")


def settle(limit_s: float = 0.1) -> None:
    """Wait until this process's worker threads sleep: libgomp's spin for 10 ms after a call, ONNX Runtime's for 40,
    and would take a core from the next contestant (twice the time of its first calls)."""
    end = time.perf_counter() + limit_s
    me = threading.get_native_id()
    while True:
        time.sleep(0.001)
        if not TASKS.exists():  # not Linux: no cheap way to see a thread's state
            time.sleep(limit_s / 2)
            return
        if time.perf_counter() > end or not any(_runs(task) for task in TASKS.iterdir() if task.name != str(me)):
            return


def _runs(task: Path) -> bool:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0] == "R"
    except OSError:  # the thread ended
        return False


class Turns:
    """Turns of one contestant: ``call`` timed ``number`` times in a row after an untimed one."""

    def __init__(self, contestant: Contestant):
        self.contestant = contestant
        self.seconds: list[float] = []  # per call, one entry a turn
        once = self._time(1)
        if once < 10 * TURN_S:
            once = self._time(3) / 3  # the first calls after a sleep are slow ones
        self.number = max(1, round(TURN_S / once))
        self.turn_s = (self.number + self.warm) * once + 0.015

    @property
    def warm(self) -> bool:
        return self.number > 1  # a call of 10 ms warms itself

    def _time(self, number: int) -> float:
        call = self.contestant.call
        begin = time.perf_counter()
        for _ in range(number):
            call()
        return time.perf_counter() - begin

    def prepare(self) -> None:
        settle()
        if self.warm:
            self.contestant.call()

    def run(self) -> None:
        """The timed part alone."""
        call = self.contestant.call
        for _ in range(self.number):
            call()

    def take(self) -> None:
        self.prepare()
        self.seconds.append(self._time(self.number) / self.number)


def rounds_for(turns: list[Turns], seconds: float) -> int:
    fewest, most = ROUNDS
    return int(min(most, max(fewest, seconds / sum(t.turn_s for t in turns))))


def interleave(contestants: list[Contestant], seconds: float, backward: bool) -> dict[str, list[float]]:
    """Seconds per call of every contestant, one entry a round, for about ``seconds`` in all."""
    with torch.inference_mode(not backward):
        turns = [Turns(c) for c in contestants]
        for _ in range(rounds_for(turns, seconds)):
            for turn in turns:
                turn.take()
    return {t.contestant.name: t.seconds for t in turns}


def measured(entrants: list[Contestant], error: dict[str, float], seconds: float, backward: bool) -> dict:
    """What a row says of its contestants, rnnkernels the last: times, errors, kernel, and how busy the machine was."""
    with Others() as rest:
        times = interleave(entrants, seconds, backward)
    with torch.inference_mode(not backward):
        entrants[-1].call()
    return {
        "kernel": _C.last_kernel(),
        "other_cores": rest.cores,
        "times": {e.name: {**summary(times[e.name]), "prepare": e.prepare_s, "error": error[e.name]} for e in entrants},
    }


def in_words(row: dict) -> str:
    """Ours in ms, the peers' times over it, and whether others used the machine."""
    ours = row["times"]["rnnkernels"]["median"]
    peers = "  ".join(f"{who} {t['median'] / ours:.2f}x" for who, t in row["times"].items() if who != "rnnkernels")
    noisy = f"   others used {row['other_cores']:.1f} cores" if row["other_cores"] > BUSY_CORES else ""
    return f"{ours * 1e3:.3f} ms | {peers}{noisy}"


class Others:
    """``with Others() as others``: afterwards ``others.cores`` is how many cores the rest of the machine kept busy."""

    cores = 0.0

    def __enter__(self) -> Others:
        self.begin = self._clocks()
        return self

    def __exit__(self, *_) -> None:
        wall, everyone, own = (b - a for a, b in zip(self.begin, self._clocks(), strict=True))
        self.cores = max(0.0, (everyone - own) / wall)

    @staticmethod
    def _clocks() -> tuple[float, float, float]:
        machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        guests = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)  # counted in user already
        return time.perf_counter(), sum(machine) - idle - guests, own.user + own.system


def fma_peak(threads: int) -> tuple[float, str]:
    """GFLOP/s of float32 multiply-adds on this many threads, and how it was measured."""
    op = getattr(torch.ops.rnnkernels, "_fma_peak", None)
    if op is not None:
        return max(op(threads, False) for _ in range(2)), "fma"
    torch.set_num_threads(threads)
    a = torch.randn(2048, 2048)
    run: Callable[[], object] = lambda: a @ a  # noqa: E731
    run()
    best = min(Turns(Contestant("matmul", run))._time(1) for _ in range(3))
    return 2 * 2048**3 / best / 1e9, "torch matmul 2048^3, a lower bound"
