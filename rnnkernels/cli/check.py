"""Check every kernel of this machine: each cell and the NTM, each instruction set and dtype, in under a minute.

Outputs, final states and gradients are held against the float64 reference by the package's one error rule, and the
float64 derivatives against finite differences (gradcheck). With --device cuda the kernels of the card, on each of their
paths, and what CPU and card make of the same seeds and masks. Ends with status 1 if a check fails.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial

import torch

from .. import _C, functional, info, set_isa
from ..testing import (
    CASES,
    LARGE,
    MACHINES,
    OPTIONS,
    STEPS,
    Case,
    Judged,
    MachineProblem,
    Problem,
    assert_as_good_as,
    cuda_algo,
    on,
)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIZES = tuple(case for case in CASES if (case.T, case.B, case.H) in ((1, 8, 9), (1, 8, 33), (63, 3, 33)))
LONG_SUMS = LARGE[2:3]
DERIVED = (Case(3, 2, 3, 5, layout="packed"), Case(3, 2, 3, 5, bias=False, reverse=True))
PATHS = ("tick", "persistent")  # how a card's kernels walk through time: $RNNKERNELS_CUDA_ALGO
PROJECTED = (Case(3, 2, 3, 5, P=2),)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The check's arguments."""
    parser.add_argument("--seed", type=int, default=0, help="of the inputs and weights")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or one card of several: cuda:1")


def runs(problem: Judged, kernels: str) -> bool:
    """Whether these kernels take the problem: a walk in one launch has no projection."""
    return kernels != "persistent" or getattr(problem.case, "P", None) is None


class Held:
    """Problems of one op in one dtype, and what their results are held against, kept for every ISA."""

    def __init__(self, op: str, function: Callable, problems: Sequence[Judged], dtype: torch.dtype) -> None:
        self.op, self.function, self.dtype = op, function, dtype
        self.arithmetic = torch.promote_types(dtype, torch.float32)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the small steps of plain torch gain nothing from more and suffer on a busy machine
        self.held = [(problem, problem.expected) for problem in problems]
        torch.set_num_threads(threads)

    def check(self, isa: str) -> None:
        """Raises AssertionError where the error rule is broken, or where another kernel ran than was asked for."""
        machine = "cuda" if isa in PATHS else isa
        wanted = (f"rnnkernels::{self.op}_backward", machine, str(self.arithmetic).removeprefix("torch."))
        for problem, expected in self.held:
            if not runs(problem, isa):
                continue
            actual = problem.outputs_and_gradients(self.function, self.dtype)
            kernel = _C.last_kernel()
            found = tuple(kernel[fact] for fact in ("op", "isa", "dtype"))
            assert found == wanted, f"{problem.title}: kernel {wanted} expected, {found} ran"
            for label in actual:
                assert_as_good_as(actual[label], expected[label], f"{problem.title} {label}")


@dataclass
class Op:
    """What is checked of one op.

    Attributes:
        problems: given a dtype, those to be checked in it.
        derived: float64 problems small enough for finite differences.
        dtypes: that it takes.
    """

    name: str
    function: Callable
    problems: Callable[[torch.dtype], Sequence[Judged]]
    derived: Sequence[Judged]
    dtypes: Sequence[torch.dtype] = DTYPES

    def derivatives(self, kernels: str, fast: bool) -> None:
        """Raises where gradcheck finds a float64 derivative that is not the finite difference."""
        for problem in (p for p in self.derived if runs(p, kernels)):
            tensors = [None if t is None else t.requires_grad_() for t in problem.tensors]
            torch.autograd.gradcheck(partial(problem.run, self.function), tensors, fast_mode=fast)


def ops(seed: int, on_card: bool) -> Iterator[Op]:
    """Every cell's, and those of the Neural Turing Machine."""
    problem = cache(lambda name, case, values: Problem(name, case, values, seed))  # float32 and float64 share theirs
    machine = cache(lambda case: MachineProblem(case, seed))

    def problems(name: str, projection: bool, dtype: torch.dtype) -> list[Problem]:
        cases = (*SIZES, *OPTIONS[name][::8])
        if not (on_card and dtype == torch.float64):  # long sums are torch's there, of an error we know from float32
            cases += LONG_SUMS
        values = dtype if dtype != torch.float64 else torch.float32
        return [problem(name, case, values) for case in cases if case.P is None or projection]

    for cell in _C.cells():
        name = cell["name"]
        derived = DERIVED + (PROJECTED if cell["projection"] else ())
        yield Op(
            name,
            functional.layer,
            partial(problems, name, cell["projection"]),
            [Problem(name, case, torch.float64, seed) for case in derived],
        )
    for name, function, cases in (("ntm", functional.ntm, MACHINES), ("ntm_step", functional.ntm_step, STEPS)):
        small = replace(cases[0], T=min(cases[0].T, 3), H=min(cases[0].H, 3), N=5, M=2)
        yield Op(
            name,
            function,
            lambda _, cases=cases: [machine(case) for case in cases[::6]],
            [MachineProblem(small, seed)],
            DTYPES[:2],
        )


def attempt(check: Callable[[], None]) -> str | None:
    """What went wrong in one check, as one line, or None; a warning is wrong too: it says a call did not run fused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check()
    except Exception as error:  # any trouble at all is this check's result
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def without_card(device: torch.device) -> str | None:
    """Why there is nothing to run on `device`, as one line, or None."""
    if device.type not in ("cpu", "cuda"):
        return f"--device: expected cpu or cuda, got {device.type}"
    if device.type == "cpu":
        return None
    if not functional.CUDA:
        return f"--device {device}: this build has no CUDA kernels: README.md says how to build them"
    if not torch.cuda.is_available():
        return f"--device {device}: torch sees no card here"
    return None


def chosen(kernels: str) -> AbstractContextManager[None]:
    """Lets an instruction set run from now on, or within it a path on the card."""
    if kernels in PATHS:
        return cuda_algo(kernels)
    set_isa(kernels)
    return nullcontext()


def run(args: argparse.Namespace) -> int:
    """Prints one row for each op and instruction set, or path on the card; 1 if any failed, 2 if there is none."""
    start, facts = time.perf_counter(), info()
    device, built = torch.device(args.device), facts["build"]["cuda"]
    if why := without_card(device):
        print(f"rnnkernels check: {why}", file=sys.stderr)
        return 2
    before, isas = facts["isa"], facts["available"]
    on_card = device.type == "cuda" or built == "executed on the CPU"
    card = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    print(f"rnnkernels {facts['version']}, torch {facts['torch']}, threads {facts['threads']}{card}\n")
    names = [str(dtype).removeprefix("torch.") for dtype in DTYPES] + ["gradcheck"]
    print(f"{'op':20} {'path' if on_card else 'isa':10}" + "".join(f"{name:>10}" for name in names))
    passed, failures = 0, []
    try:
        for op in ops(args.seed, on_card):
            if device.type != "cpu":
                op = replace(op, function=on(device, op.function))
            if on_card:
                isas = PATHS if op.name in _C.persistent_cells() else PATHS[:1]
            held = []
            for dtype in DTYPES:
                held.append(Held(op.name, op.function, op.problems(dtype), dtype) if dtype in op.dtypes else None)
            for isa in isas:
                print(f"{op.name:20} {isa:10}", end="", flush=True)
                fast = isa != isas[-1] or on_card
                checks = [h and partial(h.check, isa) for h in held] + [partial(op.derivatives, isa, fast)]
                for name, check in zip(names, checks, strict=True):
                    with chosen(isa):
                        trouble = attempt(check) if check else None
                    failures += [f"{op.name} {isa} {name}: {trouble}"] if trouble else []
                    passed += bool(check) and not trouble
                    print(f"{'FAILED' if trouble else 'ok' if check else '-':>10}", end="", flush=True)
                print()
    finally:
        set_isa(before)
    print(f"\n{passed} passed, {len(failures)} failed in {time.perf_counter() - start:.0f} s", flush=True)
    for failure in failures:
        print(f"rnnkernels check: {failure}", file=sys.stderr)
    return 1 if failures else 0
