"""The CUDA kernels without a GPU: the tests of the ops over the build that executes csrc/cuda on the CPU, thread by thread.

`make cuda-on-cpu` builds it; tests/cuda_on_cpu/README.md says what such a run can show and what it cannot.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build/cuda_on_cpu"


def python(*arguments, **environment):
    assert (BUILT / "stamp").exists(), "not built: make cuda-on-cpu"
    # Products are torch's, on threads that would spin while a kernel runs on one.
    environment = os.environ | {"PYTHONPATH": str(BUILT), "GOMP_SPINCOUNT": "0"} | environment
    command = [sys.executable, "-P", *arguments]  # -P: not the package in the working directory
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_it_is_another_build_that_runs():
    program = (
        "import torch, rnnkernels as rk; rk.LSTM(3, 4)(torch.ones(2, 1, 3)); print(rk._C.__file__, rk._C.last_kernel())"
    )
    done = python("-c", program)
    file, kernel = done.stdout.split(maxsplit=1)
    assert Path(file).is_relative_to(BUILT) and "'isa': 'cuda'" in kernel, done.stderr


# The order in which threads and blocks run differs from file to file, so that nothing relies on any.
@pytest.mark.parametrize(
    "tests, order",
    [
        ("test_ops.py", 0),
        ("test_options.py", 1),
        ("test_random.py", 2),
        ("test_properties.py", 3),
        ("test_variants.py", 4),
        ("test_ntm.py", 5),
    ],
)
def test_over_cuda(tests, order):
    options = ["-o", f"pythonpath={BUILT}", "-p", "no:cacheprovider"]
    done = python("-m", "pytest", f"tests/{tests}", *options, CUDA_ON_CPU_SEED=str(order))
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
