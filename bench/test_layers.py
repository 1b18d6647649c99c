"""The grid: every cell at every case, inference and forward + backward, on one and two threads."""

from __future__ import annotations

import pytest
import torch

from rnnkernels import _C

from .cases import GATES, GRID, QUICK, flop, row_of
from .check import errors, expected
from .contestants import contestants
from .timing import BUSY_CORES, Others, Turns, rounds_for, summary

SECONDS = {1: 0.8, 2: 2.0}  # of timing a row, by threads: the targets are for two


def rows():
    for cell in GATES:
        for case in GRID:
            for mode in ("inference",) if case.T == 1 else ("inference", "training"):
                for threads in (2, 1):
                    marks = [pytest.mark.quick] if case in QUICK and threads == 2 else []
                    yield pytest.param(cell, case, mode, threads, marks=marks, id=f"{cell}-{case}-{mode}-{threads}thr")


@pytest.mark.parametrize("cell, case, mode, threads", list(rows()))
def test_layer(benchmark, results, peak, say, quick, cell, case, mode, threads):
    backward = mode == "training"
    torch.set_num_threads(threads)
    problem, reference = expected(cell, case)
    skip = {"op"} if threads == 2 and not quick else {"op", "compiled loop"}
    entrants = contestants(problem, backward, threads, skip)
    error = errors(entrants, reference, backward)
    with torch.inference_mode(not backward):
        turns = [Turns(entrant) for entrant in entrants]
        *peers, ours = turns

        def peers_turns():
            for turn in peers:
                turn.take()
            ours.prepare()

        rounds = rounds_for(turns, 0.7 if quick else SECONDS[threads])
        with Others() as rest:
            benchmark.pedantic(ours.run, setup=peers_turns, rounds=rounds)
        ours.seconds = [seconds / ours.number for seconds in benchmark.stats.stats.data]
        ours.contestant.call()
        kernel = _C.last_kernel()
    rate, how = peak(threads)
    row = {
        **row_of(cell, case, mode, threads),
        "gflop": flop(cell, case, backward) / 1e9,
        "peak_gflops": rate,
        "peak_how": how,
        "kernel": kernel,
        "other_cores": rest.cores,
        "times": {
            t.contestant.name: {
                **summary(t.seconds),
                "prepare": t.contestant.prepare_s,
                "error": error[t.contestant.name],
            }
            for t in turns
        },
    }
    benchmark.extra_info.update(row)
    results.add(f"layer {cell} {case} {mode} {threads}", row)
    say(describe(row))


def describe(row: dict) -> str:
    times = {name: t["median"] for name, t in row["times"].items()}
    ours = times["rnnkernels"]
    share = row["gflop"] / ours / row["peak_gflops"]
    peers = "  ".join(f"{name} {t / ours:.2f}x" for name, t in times.items() if name != "rnnkernels")
    noisy = f"   others used {row['other_cores']:.1f} cores" if row["other_cores"] > BUSY_CORES else ""
    return f"{ours * 1e3:9.3f} ms {share:4.0%} of peak | {peers}{noisy}"
