"""The CUDA kernels without a GPU: the tests of the ops over a build that executes csrc/cuda on the CPU, by threads.

`make cuda-on-cpu` builds it; tests/cuda_on_cpu/README.md says what such a run can show and what it cannot.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import card, ntm
from rnnkernels.testing import Case

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


def over_cuda(tests, which, order):
    options = ["-k", which, "-o", f"pythonpath={BUILT}", "-p", "no:cacheprovider"]
    seen = {"CUDA_ON_CPU_SEED": str(order), "RNNKERNELS_CUDA_ALGO": "tick"}  # the other: test_persistent.py
    return python("-m", "pytest", f"tests/{tests}", *options, **seen)


# The order in which threads and blocks run differs from file to file, so that nothing relies on any.
@pytest.mark.ahead(work=over_cuda)
@pytest.mark.parametrize(
    "tests, which, order",
    [
        ("test_ops.py", "not large", 0),
        ("test_ops.py", "large", 0),
        ("test_options.py", "", 1),
        ("test_random.py", "", 2),
        ("test_properties.py", "", 3),
        ("test_variants.py", "", 4),
        ("test_ntm.py", "", 5),
    ],
)
def test_over_cuda(tests, which, order, ahead):
    assert ahead.returncode == 0, ahead.stdout[-4000:]
    assert " passed" in ahead.stdout


def test_check():
    """Every op in every precision, as the owner of a card checks them."""
    done = python("-m", "rnnkernels", "check", CUDA_ON_CPU_SEED="6")
    assert done.returncode == 0 and " 0 failed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["check", "bench"])
def test_without_a_card(command):
    done = subprocess.run(
        [sys.executable, "-m", "rnnkernels", command, "--device", "cuda"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    "row",
    [
        card.Row("lstm", Case(5, 2, 3, 4), "float32", "training"),
        card.Row("gru", Case(5, 2, 3, 4), "bfloat16", "inference"),
        card.Row("ntm", ntm.Row(2, T=5, N=16), "float32", "training"),
    ],
    ids=str,
)
def test_the_bench_of_a_card_but_for_the_card(row, tmp_path):
    """What it measures has a place on the page: here on the CPU, which shows that the rows can be made at all."""
    measured = card.measure(row, torch.device("cpu"), rounds=2)
    assert {"eager loop", "rnnkernels"} <= set(measured["times"]) and not measured["refused"]
    file = tmp_path / "some-card.json"
    header = {"card": "Some Card", "capability": "9.0", "software": {"torch": "2.14.1"}}
    file.write_text(json.dumps(header | {"rows": {str(row): measured}}))
    page = card.section(file)
    assert "## Some Card" in page and f"| {row} |" in page
