"""The bench on a card: ``python -m rnnkernels bench --device cuda``.

The grid of the CPU and larger sizes, in float32 and bfloat16, and the Neural Turing Machine; peers are cuDNN, the eager
loop, that loop in a CUDA graph, and its compiled tick.

Times are those of CUDA events around calls in a row, after a warm-up; contestants take turns. Each row is checked
against the float64 reference first. Results go to ``bench/results/cards/<card>.json``, which ``bench.report`` renders.
"""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import rnnkernels as rk
from rnnkernels import functional, reference
from rnnkernels.testing import cuda_path

from . import ntm
from .cases import GATES, GRID, Case, Problem, square
from .check import NAMES, exact
from .contestants import TORCH, compiled_tick, of_loop, of_module, our_class, reference_tick
from .results import FOLDER, now, revision, rounded, summary

CARDS = FOLDER / "cards"
LARGE = (square(100, 128, 512), square(100, 256, 512), square(100, 64, 2048), square(100, 256, 2048))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODES = {"inference": False, "training": True}
ROUNDS, TURN_S, WARM = 15, 0.02, 3
FAR = {"float32": 1e-3, "bfloat16": 5e-2}  # a peer further from the reference computes another function

Call = Callable[[], Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Row:
    """A cell, or "ntm", with its sizes; cases of the grid in float32, and the larger ones in both precisions."""

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


def on_path(name: str, call: Call) -> Call:
    def run() -> Sequence[torch.Tensor]:
        with cuda_path(name):
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


def layer_calls(row: Row, device: torch.device) -> Iterator[tuple[str, Callable[[], Call]]]:
    """Everyone who can run a layer's row; ours are named rnnkernels."""
    problem, backward, ours = (
        Problem(row.cell, row.case).to(device, DTYPES[row.dtype]),
        MODES[row.mode],
        our_class(row.cell),
    )
    if row.cell in TORCH:
        yield "cuDNN", lambda: of_module(problem, TORCH[row.cell][0], backward)
    yield "eager loop", lambda: of_loop(problem, reference_tick(row.cell), backward)
    if device.type == "cuda":
        yield "eager loop, graph", lambda: graphed(of_loop(problem, reference_tick(row.cell), backward))
        yield "compiled loop", lambda: of_loop(problem, compiled_tick(row.cell), backward)
        for name in ("tick", "persistent"):
            yield f"rnnkernels {name}", lambda name=name: on_path(name, of_module(problem, ours, backward))
        yield "rnnkernels, graph", lambda: graphed(of_module(problem, ours, backward))
    yield "rnnkernels", lambda: of_module(problem, ours, backward)


def ntm_calls(row: Row, device: torch.device) -> Iterator[tuple[str, Callable[[], Call]]]:
    """Everyone who can run a Neural Turing Machine's row."""

    def of(function: Callable) -> Call:
        return ntm.calls(row.case, function, MODES[row.mode], device=device)

    yield "eager loop", lambda: of(reference.ntm.ntm)
    if device.type == "cuda":
        yield "eager loop, graph", lambda: graphed(of(reference.ntm.ntm))
        yield "rnnkernels, graph", lambda: graphed(of(functional.ntm))
    yield "rnnkernels", lambda: of(functional.ntm)


# -- timing ------------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds per call of calls in a row: a card's by its own events, elsewhere the wall's."""

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


def measure(row: Row, device: torch.device, rounds: int = ROUNDS) -> dict:
    """Checks and times a row: medians with their quartiles, and each contestant's distance from the reference."""
    clock, backward = Clock(device), MODES[row.mode]
    if row.cell == "ntm":
        calls, wanted, labels = ntm_calls(row, device), ntm.exact(row.case, backward), ntm.NAMES
    else:
        calls, labels = layer_calls(row, device), NAMES
        wanted = exact(row.cell, row.case)[1]
    built, errors, refused = {}, {}, {}
    with torch.inference_mode(not backward):
        for name, make in calls:
            try:
                call = make()
                results = [t.detach().cpu().double() for t in call()]
            except RuntimeError as error:  # no room on the card, no such path: shown as it is
                refused[name] = str(error).splitlines()[0]
                continue
            far = [float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in zip(results, wanted)]
            worst = max(range(len(far)), key=far.__getitem__)
            if not far[worst] <= FAR[row.dtype]:
                raise AssertionError(f"{row}: {name}: {labels[worst]} is {far[worst]:.1e} from the reference")
            built[name], errors[name] = call, max(far)
        numbers = {}
        for name, call in built.items():
            clock(call, WARM)
            numbers[name] = max(1, round(TURN_S / max(clock(call, 1), 1e-6)))
        seconds: dict[str, list[float]] = {name: [] for name in built}
        for _ in range(rounds):
            for name, call in built.items():
                call()
                seconds[name].append(clock(call, numbers[name]))
        built["rnnkernels"]()
    times = {name: {**summary(of_rounds), "error": errors[name]} for name, of_rounds in seconds.items()}
    return {"kernel": rk.info()["last_kernel"], "times": times, "refused": refused}


def in_words(measured: dict) -> str:
    """Ours in ms, and the others' times over it."""
    times = {name: t["median"] for name, t in measured["times"].items()}
    ours = times.pop("rnnkernels")
    others = "  ".join(f"{name} {t / ours:.2f}x" for name, t in times.items())
    return f"{ours * 1e3:.3f} ms | {others}" + "".join(f"  {name}: refused" for name in measured["refused"])


class Results:
    """The rows of one card, written anew after each: an interrupted run leaves a whole file, and goes on in it."""

    def __init__(self, device: torch.device, folder: Path = CARDS) -> None:
        properties = torch.cuda.get_device_properties(device)
        slug = re.sub(r"[^a-z0-9]+", "-", properties.name.lower()).strip("-")
        self.path = folder / f"{slug}.json"
        self.rows: dict[str, dict] = json.loads(self.path.read_text())["rows"] if self.path.exists() else {}
        self.header = {
            "card": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "processors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "system": f"{platform.system()} {platform.release()}",
            "software": {"torch": torch.__version__, "cuda": torch.version.cuda, "rnnkernels": rk.__version__},
        }

    def add(self, row: Row, measured: dict) -> None:
        self.rows[str(row)] = rounded({**measured, "date": now(), "revision": revision()})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({**self.header, "rows": dict(sorted(self.rows.items()))}, indent=1) + "\n")
        part.replace(self.path)


def run(device: torch.device, words: str = "", again: bool = False) -> None:
    """Measures the rows whose name holds `words`, and that have no result yet unless `again`."""
    results = Results(device)
    todo = [row for row in rows() if words in str(row) and (again or str(row) not in results.rows)]
    for i, row in enumerate(todo, 1):
        measured = measure(row, device)
        results.add(row, measured)
        print(f"[{i}/{len(todo)}] {row}: {in_words(measured)}", flush=True)
    print(f"{results.path}: {len(results.rows)} rows; python -m bench.report renders them")


# -- report ------------------------------------------------------------------------------------------------------------


def section(path: Path) -> str:
    """A card's rows as a table: ours in ms, the others' times over it; those that win against us in bold."""
    body = json.loads(path.read_text())
    names = list(dict.fromkeys(n for row in body["rows"].values() for n in row["times"] if n != "rnnkernels"))
    lines = [f"## {body['card']} (sm {body['capability']}, torch {body['software']['torch']})", ""]
    lines += ["| row | rnnkernels, ms | " + " | ".join(names) + " | kernel |", "|---" * (len(names) + 3) + "|"]
    for name, row in body["rows"].items():
        ours = row["times"]["rnnkernels"]
        cells = [f"{ours['median'] * 1e3:.3f} ({ours['q1'] * 1e3:.3f} to {ours['q3'] * 1e3:.3f})"]
        for other in names:
            ratio = row["times"][other]["median"] / ours["median"] if other in row["times"] else None
            text = "-" if ratio is None else f"{ratio:.2f}x"
            cells.append(f"**{text}**" if ratio is not None and ratio < 1 else text)
        lines.append(f"| {name} | " + " | ".join([*cells, row["kernel"].get("split", "")]) + " |")
    return "\n".join(lines) + "\n"
