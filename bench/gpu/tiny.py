"""Every cell and the Neural Turing Machine at tiny sizes on both paths: what is wrong at all shows here in seconds.

    python bench/gpu/tiny.py [--device cuda] [--walks]

Results and gradients are held against the reference by the error rule. With --walks, for compute-sanitizer, an LSTM and
the machine alone. Prints a line for each check and goes on where one fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from functools import partial

import torch

from rnnkernels import _C, functional, info
from rnnkernels.cli.check import attempt
from rnnkernels.testing import MACHINES, Case, MachineProblem, Problem, cuda_algo, fitted, on

CASES = (Case(5, 9, 5, 33), Case(4, 3, 9, 17, layout="padded", resets=True))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def checks(device: str, walks: bool) -> Iterator[tuple[str, partial]]:
    """By name what raises where a kernel is wrong."""

    def layer(cell: str, path: str, case: Case, dtype: torch.dtype) -> None:
        with cuda_algo(path):
            Problem(cell, fitted(cell, case), dtype).check(on(device, functional.layer), dtype)

    for cell in [c["name"] for c in _C.cells()] if not walks else ["lstm"]:
        for path in ("tick", "persistent") if cell in _C.persistent_cells() else ("tick",):
            for dtype in DTYPES:
                for case in CASES if not walks else CASES[:1]:
                    name = f"{cell} {path} {str(dtype).removeprefix('torch.')} {case}"
                    yield name, partial(layer, cell, path, case, dtype)
    for case in MACHINES[::5] if not walks else MACHINES[:1]:
        yield f"ntm {case}", partial(MachineProblem(case).check, on(device, functional.ntm), torch.float32)


def main() -> int:
    """1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--walks", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)  # the reference's, on the CPU
    begin, failed, passed = time.monotonic(), [], 0
    for name, check in checks(given.device, given.walks):
        trouble = attempt(check)
        passed += not trouble
        if trouble:
            failed.append(name)
        print(f"{time.monotonic() - begin:5.1f} s {name}: {trouble or info()['last_kernel'].get('split', 'ok')}"[:300])
        if trouble and "CUDA error" in trouble:  # nothing runs in this process any more
            break
    print(f"{passed} right, {len(failed)} wrong: {', '.join(failed[:5])}" if failed else f"{passed} right, none wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
