"""Check every kernel of this machine: each cell on each instruction set in each dtype, in under a minute.

Outputs, final states and gradients are held against the float64 reference by the package's one error rule, and the
float64 derivatives against finite differences (gradcheck). Ends with status 1 if a check fails.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch

from .. import _C, functional, info, reference, set_isa
from ..testing import CASES, LARGE, OPTIONS, Case, Problem, assert_as_good_as

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Not few numbers, nor few units over many ticks: the rule holds one largest error against another, and of few the
# largest is chance.
SIZES = tuple(case for case in CASES if case.I > 1 and (case.T, case.B, case.H) in ((1, 8, 9), (1, 8, 33), (63, 3, 33)))
LONG_SUMS = LARGE[2:3]
DERIVED = (Case(3, 2, 3, 5, layout="packed"), Case(3, 2, 3, 5, bias=False, reverse=True))
FLOAT64_TO_32 = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
PROJECTED = (Case(3, 2, 3, 5, P=2),)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The check's arguments."""
    parser.add_argument("--seed", type=int, default=0, help="of the inputs and weights")


class Held:
    """Problems of one cell in one dtype, with plain torch's own results and those in float64, kept for every ISA."""

    def __init__(self, cell: dict, dtype: torch.dtype, seed: int) -> None:
        self.cell, self.dtype = cell["name"], dtype
        self.arithmetic = torch.promote_types(dtype, torch.float32)
        values = dtype if dtype != torch.float64 else torch.float32
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the small steps of plain torch gain nothing from more and suffer on a busy machine
        self.held = []
        for case in (*SIZES, *OPTIONS[self.cell][::8], *LONG_SUMS):
            if case.P is None or cell["projection"]:
                problem = Problem(self.cell, case, values, seed)
                exact = problem.outputs_and_gradients(reference.layer, torch.float64)
                own = problem.outputs_and_gradients(reference.layer, torch.float32)
                if dtype == torch.float64:  # nothing wider to hold it against: what torch errs is scaled from float32
                    own = {name: exact[name] + (own[name] - exact[name]) * FLOAT64_TO_32 for name in exact}
                self.held.append((problem, own, exact))
        torch.set_num_threads(threads)

    def check(self, isa: str) -> None:
        """Raises AssertionError where the error rule is broken, or where another kernel ran than was asked for."""
        wanted = (f"rnnkernels::{self.cell}_backward", isa, str(self.arithmetic).removeprefix("torch."))
        for problem, own, exact in self.held:
            actual = problem.outputs_and_gradients(functional.layer, self.dtype)
            kernel = _C.last_kernel()
            found = tuple(kernel[fact] for fact in ("op", "isa", "dtype"))
            assert found == wanted, f"{problem.case}: kernel {wanted} expected, {found} ran"
            for label in actual:
                assert_as_good_as(actual[label], own[label], exact[label], f"{problem.case} {label}")


def derivatives(cell: dict, fast: bool, seed: int) -> None:
    """Raises where gradcheck finds a float64 derivative that is not the finite difference."""
    for case in DERIVED + (PROJECTED if cell["projection"] else ()):
        problem = Problem(cell["name"], case, torch.float64, seed)
        tensors = [None if t is None else t.requires_grad_() for t in problem.tensors]
        torch.autograd.gradcheck(partial(problem.run, functional.layer), tensors, fast_mode=fast)


def attempt(check: Callable[[], None]) -> str | None:
    """What went wrong in one check, as one line, or None; a warning is wrong too: it says a call did not run fused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check()
    except Exception as error:  # any trouble at all is this check's result
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def run(args: argparse.Namespace) -> int:
    """Prints one row for each cell and instruction set; 1 if anything failed."""
    start, facts = time.perf_counter(), info()
    before, isas = facts["isa"], facts["available"]
    print(f"rnnkernels {facts['version']}, torch {facts['torch']}, threads {facts['threads']}\n")
    names = [str(dtype).removeprefix("torch.") for dtype in DTYPES] + ["gradcheck"]
    print(f"{'cell':12} {'isa':8}" + "".join(f"{name:>10}" for name in names))
    passed, failures = 0, []
    try:
        for cell in _C.cells():
            held = [Held(cell, dtype, args.seed) for dtype in DTYPES]
            for isa in isas:
                set_isa(isa)
                print(f"{cell['name']:12} {isa:8}", end="", flush=True)
                gradcheck = partial(derivatives, cell, isa != isas[-1], args.seed)
                for name, check in zip(names, [*(partial(h.check, isa) for h in held), gradcheck], strict=True):
                    trouble = attempt(check)
                    failures += [f"{cell['name']} {isa} {name}: {trouble}"] if trouble else []
                    passed += not trouble
                    print(f"{'FAILED' if trouble else 'ok':>10}", end="", flush=True)
                print()
    finally:
        set_isa(before)
    print(f"\n{passed} passed, {len(failures)} failed in {time.perf_counter() - start:.0f} s", flush=True)
    for failure in failures:
        print(f"rnnkernels check: {failure}", file=sys.stderr)
    return 1 if failures else 0
