"""Peak memory of one call, alone in a process: ``python -m bench.memory rnnkernels lstm training 2 50 64 1024 1024``.

The measure is the growth of the process's peak resident set (VmHWM, reset just before) over what was resident before
the call. Only the system sees everything: torch's allocator and profiler miss what oneDNN, MKL and a kernel of another
library take for themselves. Inputs, parameters and the loaded libraries stand before the call (a tiny layer runs
first); malloc is told to hand freed blocks back at once (``ENVIRONMENT``), so that what is resident is what is live.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

import rnnkernels as rk

from .cases import Case, Problem
from .contestants import Contestant, makers

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
MIB = 2**20
RESET = Path("/proc/self/clear_refs")


def resident(field: str) -> int:
    """VmRSS or VmHWM in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def peak_growth(name: str, cell: str, case: Case, backward: bool, threads: int) -> int:
    """Bytes the call of this contestant added to the resident set at its highest."""
    torch.set_num_threads(threads)
    tiny_call = makers(Problem(cell, Case(2, 2, 3, 4)), backward, threads)[name]()
    call = makers(Problem(cell, case), backward, threads)[name]()
    with torch.inference_mode(not backward):
        tiny_call()
        RESET.write_text("5")  # VmHWM = VmRSS
        before = resident("VmRSS")
        kept = call()  # the results count
        peak = resident("VmHWM")
    del kept
    return peak - before


def recompute_growth(cls: str, case: Case, threads: int) -> int:
    """Bytes a training step of this layer of rnnkernels adds beyond inputs, outputs, weights and their gradients."""
    torch.set_num_threads(threads)

    def step(T: int, B: int, I: int, H: int) -> int:
        module = getattr(rk, cls)(I, H, recompute=True)
        x, grad = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, H)

        def call() -> list[torch.Tensor]:
            out, hx = module(x)
            grads = torch.autograd.grad(out, [x, *module.parameters()], grad)
            return [out, *(hx if isinstance(hx, tuple) else [hx]), *grads]

        return growth(call)

    step(20, 2, 3, 4)
    return step(case.T, case.B, case.I, case.H)


def growth(step: Callable[[], Sequence[torch.Tensor]]) -> int:
    """Bytes this call added at its highest, beyond the tensors it returns."""
    RESET.write_text("5")  # VmHWM = VmRSS
    before = resident("VmRSS")
    kept = step()
    return resident("VmHWM") - before - sum(t.nbytes for t in kept)


def ntm_growth(who: str, at: int) -> int:
    """Bytes a training step of the Neural Turing Machine adds, of this contestant at this row of ``ntm.ROWS``; or
    recomputed, of 10,000 ticks of 16 rows."""
    from .ntm import ROWS, Row, contestants

    def entrant(row: Row) -> Contestant:
        return next(e for e in contestants(row, True, False) if e.name == who)

    if who == "recompute":
        machine = rk.NTM(10, 9, recompute=True)

        def step(T: int, B: int) -> list[torch.Tensor]:
            x, grad = torch.rand(T, B, 10, requires_grad=True), torch.ones(T, B, 9)
            y = machine(x)[0]
            return [x, grad, y, *torch.autograd.grad(y, [x, *machine.parameters()], grad)]

        step(20, 2)
        return growth(lambda: step(10_000, 16))
    entrant(Row(1, T=2)).call()
    return growth(entrant(ROWS[at]).call)


def in_a_process(name: str, cell: str, sizes: Iterable[int], mode: str, threads: int = 2) -> int:
    """Bytes that ``peak_growth`` or one of the others measures in a fresh process."""
    words = [name, cell, mode, str(threads), *map(str, sizes)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory", *words],
        env={**os.environ, **ENVIRONMENT},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"bench.memory {' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    name, cell, mode, threads, *sizes = sys.argv[1:]
    torch.set_num_threads(int(threads))
    if cell == "ntm":
        print(ntm_growth(name, int(sizes[0])))
    elif name == "recompute":
        print(recompute_growth(cell, Case(*map(int, sizes)), int(threads)))
    else:
        print(peak_growth(name, cell, Case(*map(int, sizes)), mode == "training", int(threads)))
