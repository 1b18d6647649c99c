"""Which instruction set runs, how one is forced, and what is said where it is absent."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import CELLS, ISAS

import rnnkernels as rk
from rnnkernels import _C
from rnnkernels.testing import Case, Problem


def python(code, **environment):
    env = {k: v for k, v in os.environ.items() if k != "RNNKERNELS_ISA"} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


RUN = """
import torch, rnnkernels as rk
rk.GRU(3, 5)(torch.zeros(2, 1, 3))
print(rk.get_isa(), rk.info()["last_kernel"]["isa"])
"""


@pytest.mark.parametrize("name", ISAS)
def test_environment_forces_one(name):
    done = python(RUN, RNNKERNELS_ISA=name)
    assert done.stdout.split() == [name, name], done.stderr


@pytest.mark.parametrize("environment", [{}, {"RNNKERNELS_ISA": ""}], ids=["unset", "empty"])
def test_the_best_is_the_default(environment):
    assert python(RUN, **environment).stdout.split() == [ISAS[-1]] * 2


def test_a_bad_environment_is_one_clear_line():
    done = python(RUN, RNNKERNELS_ISA="neon")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("RuntimeError: RNNKERNELS_ISA: expected one of scalar") and line.endswith("got 'neon'")


def test_none_goes_back_to_the_environment():
    done = python("import rnnkernels as rk; rk.set_isa(None); print(rk.get_isa())", RNNKERNELS_ISA="scalar")
    assert done.stdout == "scalar\n", done.stderr
    rk.set_isa("scalar")
    rk.set_isa(None)
    assert rk.get_isa() == os.environ.get("RNNKERNELS_ISA", ISAS[-1])


@pytest.mark.parametrize("name", ["neon", "AVX2", "best", *({"avx2", "avx512"} - set(ISAS))])
def test_an_absent_one_is_refused(name):
    before = rk.get_isa()
    with pytest.raises(ValueError, match=rf"^isa: expected one of {', '.join(ISAS)} .*, got '{name}'$"):
        rk.set_isa(name)
    assert rk.get_isa() == before


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_last_kernel_tells_what_ran(cell, dtype, isa, threads):
    problem = Problem(cell, Case(10, 64, 8, 64))
    tensors = [None if t is None else t.to(dtype).requires_grad_() for t in problem.tensors]
    out = problem.run(rk.functional.layer, *tensors)[0]
    expected = {"op": f"rnnkernels::{cell}", "isa": isa, "dtype": str(dtype).removeprefix("torch.")}
    kernel = _C.last_kernel()
    assert expected.items() <= kernel.items() and set(kernel) == {*expected, "threads", "split"}
    assert kernel["threads"] == threads and " x hidden " in kernel["split"]
    out.sum().backward()
    assert _C.last_kernel()["op"] == f"rnnkernels::{cell}_backward"


def test_results_of_all_isas_differ_only_by_rounding():
    module, x = rk.LSTM(9, 33).double(), torch.randn(7, 3, 9, dtype=torch.float64)
    results = []
    for name in ISAS:
        rk.set_isa(name)
        results.append(module(x)[0].detach())
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-13, atol=1e-14)


def test_info():
    rk.GRU(3, 5)(torch.zeros(2, 1, 3))
    info = rk.info()
    assert info["version"] == rk.__version__ == _C.build_info()["version"] and info["torch"] == torch.__version__
    assert info["available"] == ISAS and set(ISAS) <= set(info["built"]) and info["built"][0] == "scalar"
    assert info["isa"] == rk.get_isa() and info["threads"] == torch.get_num_threads()
    assert info["cells"] == list(CELLS) and info["last_kernel"]["op"] == "rnnkernels::gru"
    assert info["build"]["cuda"] is False or torch.version.cuda  # a build for cards: tests/test_cuda_build.py
    assert "-ffast-math" not in info["build"]["flags"]
    lines = str(info).splitlines()
    assert len(lines) == len(info) and all(line.split()[0] == key for line, key in zip(lines, info, strict=True))


def test_info_before_the_first_call():
    assert python("import rnnkernels as rk; print(rk.info()['last_kernel'])").stdout == "{}\n"


def test_importing_starts_nothing():
    """No threads, no warnings, no choice of instruction set before the first call."""
    done = python("import warnings; warnings.simplefilter('error'); import rnnkernels", RNNKERNELS_ISA="neon")
    assert done.returncode == 0, done.stderr
