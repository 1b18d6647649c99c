"""The bench on a card: ``python -m rnnkernels bench --device cuda``.

The grid of the CPU and larger sizes, in float32, bfloat16 and float16, and the Neural Turing Machine; peers are cuDNN
(with and without TF32), the eager loop, that loop in a CUDA graph, and its compiled tick. ``--short`` is a grid of
minutes: LSTM, GRU and the machine at the sizes that say most, beside cuDNN alone.

Times are those of CUDA events around calls in a row, after a warm-up; contestants take turns. Each row is held against
the float64 reference first; a contestant that is far from it is timed all the same, and said to be far. Results go to
``bench/results/cards/<card>.json`` or the folder that is named, written anew after each row; ``bench.report`` renders
what lies in that folder.
"""

from __future__ import annotations

import json
import math
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import rnnkernels as rk
from rnnkernels import functional, reference
from rnnkernels.testing import cuda_algo

from . import ntm
from .cases import GATES, GRID, Case, Problem, square
from .check import NAMES, exact
from .contestants import TORCH, compiled_tick, of_loop, of_module, our_class, reference_tick
from .results import FOLDER, now, revision, rounded, summary

CARDS = FOLDER / "cards"
LARGE = (square(100, 128, 512), square(100, 256, 512), square(100, 64, 2048), square(100, 256, 2048))
# T and half of it: the difference is the cost of time steps alone. The most telling first, for who stops early.
SHORT = (
    *(square(100, B, H) for B, H in ((32, 256), (1, 256), (64, 512))),
    square(50, 32, 256),
    square(50, 64, 1024),
    square(100, 8, 128),
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MODES = {"inference": False, "training": True}
ROUNDS, TURN_S, WARM = 15, 0.02, 3
SHORT_ROUNDS, SHORT_TURN_S = 7, 0.008
# Further from the reference than this a result is said to be far: another function, or a precision that matters.
FAR = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 5e-2}

Call = Callable[[], Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Row:
    """A cell, or "ntm", with its sizes."""

    cell: str
    case: Case | ntm.Row
    dtype: str
    mode: str

    def __str__(self) -> str:
        return f"{self.cell} {self.case} {self.dtype} {self.mode}"


def rows() -> Iterator[Row]:
    """Every row there is."""
    for cell in GATES:
        for case in (*GRID, *LARGE):
            for dtype in DTYPES:
                for mode in MODES if case.T > 1 else ("inference",):
                    yield Row(cell, case, dtype, mode)
    for case in ntm.ROWS:
        for mode in MODES:
            yield Row("ntm", case, "float32", mode)


def short_rows() -> Iterator[Row]:
    """The grid of minutes."""
    for case in SHORT:
        for cell in ("lstm", "gru"):
            for dtype in DTYPES:
                yield from (Row(cell, case, dtype, mode) for mode in MODES)
        if case == SHORT[0]:
            for machine in ntm.ROWS[:3]:
                yield from (Row("ntm", machine, "float32", mode) for mode in MODES)


def chosen(every: Iterable[Row], patterns: Sequence[str]) -> list[Row]:
    """Rows whose name has all words of one of the patterns ("gru" is not minimal_gru); all if there are none."""
    wanted = [[re.compile(rf"(?<!\w){re.escape(word)}(?!\w)") for word in pattern.split()] for pattern in patterns]
    return [row for row in every if not wanted or any(all(w.search(str(row)) for w in words) for words in wanted)]


@contextmanager
def tf32(backend, allowed: bool) -> Iterator[None]:
    before, backend.allow_tf32 = backend.allow_tf32, allowed
    try:
        yield
    finally:
        backend.allow_tf32 = before


def with_tf32(backend, allowed: bool, call: Call) -> Call:
    """The same with products of float32 by tensor cores, rounded to TF32, or without."""

    def run() -> Sequence[torch.Tensor]:
        with tf32(backend, allowed):
            return call()

    return run


def on_path(name: str, call: Call) -> Call:
    def run() -> Sequence[torch.Tensor]:
        with cuda_algo(name):
            return call()

    return run


def graphed(call: Call) -> Call:
    """The same as a CUDA graph: one launch for all."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()

    def replay() -> Sequence[torch.Tensor]:
        graph.replay()
        return results

    return replay


# -- contestants -------------------------------------------------------------------------------------------------------


def layer_calls(row: Row, device: torch.device, loops: bool = True) -> Iterator[tuple[str, Callable[[], Call]]]:
    """Everyone who can run a layer's row, with or without loops in plain torch; ours are named rnnkernels."""
    problem, backward, ours = (
        Problem(row.cell, row.case).to(device, DTYPES[row.dtype]),
        MODES[row.mode],
        our_class(row.cell),
    )
    on_card, cudnn, cublas = device.type == "cuda", torch.backends.cudnn, torch.backends.cuda.matmul

    def mine() -> Call:
        return of_module(problem, ours, backward)

    if row.cell in TORCH:
        theirs = TORCH[row.cell][0]
        yield "cuDNN", lambda: with_tf32(cudnn, True, of_module(problem, theirs, backward))
        if on_card and row.dtype == "float32":
            yield "cuDNN, no TF32", lambda: with_tf32(cudnn, False, of_module(problem, theirs, backward))
        if on_card:
            yield "cuDNN, graph", lambda: graphed(with_tf32(cudnn, True, of_module(problem, theirs, backward)))
    if loops or not on_card:
        yield "eager loop", lambda: of_loop(problem, reference_tick(row.cell), backward)
    if loops and on_card:
        yield "eager loop, graph", lambda: graphed(of_loop(problem, reference_tick(row.cell), backward))
        yield "compiled loop", lambda: of_loop(problem, compiled_tick(row.cell), backward)
    if on_card:
        for name in ("tick", "persistent"):
            yield f"rnnkernels {name}", lambda name=name: on_path(name, mine())
        if row.dtype == "float32":
            yield "rnnkernels tick, TF32", lambda: on_path("tick", with_tf32(cublas, True, mine()))
        yield "rnnkernels, graph", lambda: graphed(mine())
    yield "rnnkernels", mine


def ntm_calls(row: Row, device: torch.device, loops: bool = True) -> Iterator[tuple[str, Callable[[], Call]]]:
    """Everyone who can run a Neural Turing Machine's row."""

    def of(function: Callable) -> Call:
        return ntm.calls(row.case, function, MODES[row.mode], device=device)

    yield "eager loop", lambda: of(reference.ntm.ntm)
    if device.type == "cuda":
        if loops:
            yield "eager loop, graph", lambda: graphed(of(reference.ntm.ntm))
        yield "rnnkernels, graph", lambda: graphed(of(functional.ntm))
    yield "rnnkernels", lambda: of(functional.ntm)


# -- timing ------------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds per call of calls in a row: a card's by its own events, elsewhere the wall's; and the caller's own."""

    def __init__(self, device: torch.device) -> None:
        self.on_card = device.type == "cuda"

    def __call__(self, call: Call, number: int) -> float:
        if not self.on_card:
            begin = time.perf_counter()
            for _ in range(number):
                call()
            return (time.perf_counter() - begin) / number
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(number):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / number

    def host(self, call: Call, number: int) -> float:
        """What the calling thread is busy with, which does not wait for the card."""
        if self.on_card:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(number):
            call()
        return (time.perf_counter() - begin) / number


def measure(
    row: Row, device: torch.device, rounds: int = ROUNDS, turn: float = TURN_S, loops: bool = True
) -> dict[str, Any]:
    """Checks and times a row: medians with their quartiles, and each contestant's distance from the reference.

    What goes wrong with a contestant is its result: `refused` says who could not run, `far` whose result is far from
    the reference's, and in what; neither keeps others from being measured.

    Args:
        row: the row.
        device: where it runs.
        rounds: of turns.
        turn: seconds that a contestant's calls of one turn take about.
        loops: whether loops in plain torch take part.
    """
    clock, backward = Clock(device), MODES[row.mode]
    if row.cell == "ntm":
        calls, wanted, labels = ntm_calls(row, device, loops), ntm.exact(row.case, backward), ntm.NAMES
    else:
        calls, labels = layer_calls(row, device, loops), NAMES
        wanted = exact(row.cell, row.case)[1]
    built: dict[str, Call] = {}
    errors: dict[str, float | None] = {}
    refused: dict[str, str] = {}
    far: dict[str, str] = {}
    kernels: dict[str, str] = {}
    numbers: dict[str, int] = {}

    def attempt(name: str, does: Callable[[], Any]) -> None:
        try:
            does()
        except Exception as error:  # no room on the card, no such path, a compiler's trouble
            built.pop(name, None)
            refused[name] = (str(error) or type(error).__name__).splitlines()[0]

    def prepare(name: str, make: Callable[[], Call]) -> None:
        call = make()
        results = [t.detach().cpu().double() for t in call()]
        apart = [float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in zip(results, wanted)]
        worst = max(range(len(apart)), key=lambda i: apart[i] if math.isfinite(apart[i]) else math.inf)
        if not apart[worst] <= FAR[row.dtype]:
            far[name] = f"{labels[worst]} is {apart[worst]:.1e} from the reference"
        errors[name] = apart[worst] if math.isfinite(apart[worst]) else None  # JSON knows no NaN
        if name.startswith("rnnkernels"):
            kernels[name] = rk.info()["last_kernel"].get("split", "")
        clock(call, WARM)
        numbers[name] = max(1, round(turn / max(clock(call, 1), 1e-6)))
        built[name] = call

    seconds: dict[str, list[float]] = {}
    with torch.inference_mode(not backward):
        for name, make in calls:
            attempt(name, lambda name=name, make=make: prepare(name, make))

        def take_turn(name: str) -> None:
            built[name]()
            seconds.setdefault(name, []).append(clock(built[name], numbers[name]))

        for _ in range(rounds):
            for name in list(built):
                attempt(name, lambda name=name: take_turn(name))
        hosts = {name: clock.host(call, numbers[name]) for name, call in built.items()}
        if "rnnkernels" in built:
            built["rnnkernels"]()
    times = {
        name: {**summary(seconds[name]), "host": hosts[name], "error": errors[name], "kernel": kernels.get(name, "")}
        for name in built
    }
    return {"kernel": rk.info()["last_kernel"], "times": times, "refused": refused, "far": far}


def in_words(measured: dict) -> str:
    """Ours in ms, and the others' times over it; what went wrong."""
    times = {name: t["median"] for name, t in measured["times"].items()}
    ours = times.pop("rnnkernels", None)
    if ours is None:
        said = "not timed | " + "  ".join(f"{name} {t * 1e3:.3f} ms" for name, t in times.items())
    else:
        said = f"{ours * 1e3:.3f} ms | " + "  ".join(f"{name} {t / ours:.2f}x" for name, t in times.items())
    said += "".join(f"  {name}: refused" for name in measured["refused"])
    return said + "".join(f"  {name}: FAR, {what}" for name, what in measured["far"].items())


def wrong(measured: dict) -> bool:
    """Whether ours did not run, or is far from the reference and twice as far as the best peer, if there is one."""
    errors = {name: math.inf if t["error"] is None else t["error"] for name, t in measured["times"].items()}
    peers = min((e for name, e in errors.items() if not name.startswith("rnnkernels")), default=0.0)
    ours = (errors[name] for name in measured["far"] if name in errors and name.startswith("rnnkernels"))
    return "rnnkernels" not in errors or any(not error <= 2 * peers for error in ours)


class Results:
    """The rows of one card, written anew after each: an interrupted run leaves a whole file, and goes on in it."""

    def __init__(self, device: torch.device, folder: Path = CARDS) -> None:
        self.header: dict[str, Any] = {
            "card": f"{platform.machine()} CPU, for tests",
            "capability": "0.0",
            "system": f"{platform.system()} {platform.release()}",
            "software": {"torch": torch.__version__, "cuda": torch.version.cuda, "rnnkernels": rk.__version__},
        }
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            self.header |= {
                "card": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "processors": properties.multi_processor_count,
                "memory": properties.total_memory,
            }
            self.header["software"]["cudnn"] = torch.backends.cudnn.version()
        slug = re.sub(r"[^a-z0-9]+", "-", self.header["card"].lower()).strip("-")
        self.path = folder / f"{slug}.json"
        self.revision = revision()
        self.rows: dict[str, dict] = json.loads(self.path.read_text())["rows"] if self.path.exists() else {}

    def add(self, row: Row, measured: dict) -> None:
        self.rows[str(row)] = rounded({**measured, "date": now(), "revision": self.revision})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({**self.header, "rows": dict(sorted(self.rows.items()))}, indent=1) + "\n")
        part.replace(self.path)


class ContextLost(RuntimeError):
    """The card's context is gone with a contestant: what else this process runs there fails."""


def run(
    device: torch.device,
    every: Iterable[Row],
    again: bool = False,
    out: Path = CARDS,
    short: bool = False,
    seconds: float = math.inf,
) -> int:
    """Measures rows that have no result yet; 1 if we could not run one of them, or were `wrong` in it.

    Args:
        device: where.
        every: the rows.
        again: those that have a result, too.
        out: folder of the results.
        short: in shorter turns, and without loops in plain torch.
        seconds: after which no row is begun.

    Raises:
        ContextLost: after the row's result is written: another process can go on.
    """
    begin, results, bad = time.monotonic(), Results(device, out), 0
    todo = [row for row in every if again or str(row) not in results.rows]
    timing = {"rounds": SHORT_ROUNDS, "turn": SHORT_TURN_S, "loops": False} if short else {}
    for i, row in enumerate(todo, 1):
        if time.monotonic() - begin > seconds:
            print(f"{len(todo) - i + 1} of {len(todo)} rows left: {seconds:.0f} s are over", flush=True)
            break
        measured = measure(row, device, **timing)
        results.add(row, measured)
        print(f"[{i}/{len(todo)}] {row}: {in_words(measured)}", flush=True)
        bad += wrong(measured)
        if lost := [f"{name}: {why}" for name, why in measured["refused"].items() if "CUDA error" in why]:
            raise ContextLost(f"{row}: {lost[0]}: run it again to go on after this row")
    print(f"{results.path}: {len(results.rows)} rows, {bad} of this run wrong")
    return 1 if bad else 0


# -- report ------------------------------------------------------------------------------------------------------------


def graphs(path: Path) -> str:
    """A GPU's own time beside cuDNN's, both in a CUDA graph, so that the host's pace does not count: a row a layer."""
    body = json.loads(path.read_text())
    ours, theirs = "rnnkernels, graph", "cuDNN, graph"
    table: dict[str, dict[str, str]] = {}
    for name, row in body["rows"].items():
        layer, dtype, mode = name.rsplit(" ", 2)
        if {ours, theirs} <= row["times"].keys():
            own, other = (row["times"][who]["median"] for who in (ours, theirs))
            ratio = f"{other / own:.2f}x"
            ratio = ratio if own <= other else f"**{ratio}**"
            table.setdefault(layer, {})[f"{dtype}, {mode}"] = f"{own * 1e6:.0f} us, {ratio}"
    columns = [f"{dtype}, {mode}" for dtype in DTYPES for mode in MODES]
    lines = [f"{body['card']}, torch {body['software']['torch']}, cuDNN {body['software']['cudnn']}:", ""]
    lines += ["| layer | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for layer in sorted(table, key=lambda name: (name.split()[0], [int(n) for n in re.findall(r"\d+", name)[1:]])):
        lines.append(f"| {layer} | " + " | ".join(table[layer].get(column, "-") for column in columns) + " |")
    return "\n".join(lines) + "\n"


def section(path: Path) -> str:
    """A card's rows as a table: ours in ms, the others' times over it; those that win against us in bold.

    "far" stands beside the time of a result that is far from the reference's.
    """
    body = json.loads(path.read_text())
    names = list(dict.fromkeys(n for row in body["rows"].values() for n in row["times"] if n != "rnnkernels"))
    lines = [f"## {body['card']} (sm {body['capability']}, torch {body['software']['torch']})", ""]
    lines += ["| row | rnnkernels, ms | " + " | ".join(names) + " | kernel |", "|---" * (len(names) + 3) + "|"]
    for name, row in body["rows"].items():
        ours, far = row["times"].get("rnnkernels"), row.get("far", {})
        cells = ["-"]
        if ours:
            cells = [f"{ours['median'] * 1e3:.3f} ({ours['q1'] * 1e3:.3f} to {ours['q3'] * 1e3:.3f})"]
        cells[0] += " far" * ("rnnkernels" in far)
        for other in names:
            theirs = row["times"].get(other)
            if not theirs:
                cells.append("-")
                continue
            text = f"{theirs['median'] / ours['median']:.2f}x" if ours else f"{theirs['median'] * 1e3:.3f} ms"
            text = f"**{text}**" if ours and theirs["median"] < ours["median"] else text
            cells.append(text + " far" * (other in far))
        lines.append(f"| {name} | " + " | ".join([*cells, row["kernel"].get("split", "")]) + " |")
    return "\n".join(lines) + "\n"
