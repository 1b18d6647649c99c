"""What setup.py decides about CUDA: whether it is built, with which nvcc, for which cards; and what such a build holds.

Nothing is compiled.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import EXECUTED_CUDA

from rnnkernels import _C

ROOT = Path(__file__).resolve().parent.parent
SETUP = ROOT / "setup.py"

NVCC = "/toolkit/bin/nvcc"
KNOWN = ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1"]


@pytest.fixture(scope="module")
def setup():
    spec = importlib.util.spec_from_file_location("rnnkernels_setup", SETUP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "wanted, torch_cuda, nvcc, release, built",
    [
        ("", "13.0", NVCC, "13.0", True),
        ("", "13.0", NVCC, "13.2", True),
        ("1", "13.0", NVCC, "13.0", True),
        ("0", "13.0", NVCC, "13.0", False),
        ("0", "13.0", NVCC, "12.4", False),
        ("", "13.0", None, "", False),
        ("", None, NVCC, "13.0", False),
        ("", None, None, "", False),
        ("0", None, None, "", False),
    ],
)
def test_cuda_is_built(setup, wanted, torch_cuda, nvcc, release, built):
    assert setup.with_cuda(wanted, torch_cuda, nvcc, release) is built


@pytest.mark.parametrize(
    "wanted, torch_cuda, nvcc, release, line",
    [
        ("1", None, NVCC, "13.0", "RNNKERNELS_CUDA=1: a torch built with CUDA expected"),
        ("1", None, None, "", "RNNKERNELS_CUDA=1: a torch built with CUDA expected"),
        ("1", "13.0", None, "", "RNNKERNELS_CUDA=1: nvcc expected, none found: install CUDA 13.0"),
        ("yes", "13.0", NVCC, "13.0", "RNNKERNELS_CUDA: expected 0 or 1, got 'yes'"),
        ("", "13.0", NVCC, "12.4", "nvcc of CUDA 13 expected, as torch was built with 13.0, found 12.4"),
        ("1", "12.6", NVCC, "13.0", "nvcc of CUDA 12 expected, as torch was built with 12.6, found 13.0"),
        ("", "13.0", NVCC, "", "nvcc of CUDA 13 expected, as torch was built with 13.0, found none"),
    ],
)
def test_cuda_is_refused_in_one_line(setup, wanted, torch_cuda, nvcc, release, line):
    with pytest.raises(ValueError) as refusal:
        setup.with_cuda(wanted, torch_cuda, nvcc, release)
    assert str(refusal.value).startswith(line) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "wanted, targets",
    [
        ("8.0", "80-real"),
        ("8.0;8.6+PTX", "80-real;86-real;86-virtual"),
        ("8.0 8.6+PTX", "80-real;86-real;86-virtual"),
        (" 8.0, 9.0a ;", "80-real;90a-real"),
        ("12.0;12.0+PTX", "120-real;120-virtual"),
        ("Ampere", "80-real;86-real;86-virtual"),
        ("Turing;10.0", "75-real;75-virtual;100-real"),
        ("", "75-real;80-real;86-real;89-real;90-real;100-real;120-real;120-virtual"),
    ],
)
def test_architectures(setup, wanted, targets):
    assert setup.architectures(wanted, KNOWN) == targets


def test_default_architectures_are_those_nvcc_knows(setup):
    assert setup.architectures("", ["6.0", "7.5", "8.0", "8.6"]) == "75-real;80-real;86-real;86-virtual"


@pytest.mark.parametrize(
    "wanted, word", [("sm_80", "'sm_80'"), ("ampere", "'ampere'"), ("7.0", "7.0"), ("8.0;9", "'9'")]
)
def test_architectures_are_refused_in_one_line(setup, wanted, word):
    with pytest.raises(ValueError, match="^TORCH_CUDA_ARCH_LIST: .*" + word) as refusal:
        setup.architectures(wanted, KNOWN)
    assert "\n" not in str(refusal.value)


def toolkit(folder, version="13.0"):
    """A bin folder with an nvcc that says its version and what it knows."""
    folder.mkdir(parents=True)
    says = f"case $1 in --version) echo 'release {version}, V{version}.1';; *) echo compute_80; echo compute_120;; esac"
    (folder / "nvcc").write_text(f"#!/bin/sh\n{says}\n")
    (folder / "nvcc").chmod(0o755)
    return folder


def test_nvcc_is_cuda_homes_then_the_one_on_path(setup, tmp_path, monkeypatch):
    home, path = toolkit(tmp_path / "home/bin"), toolkit(tmp_path / "path")
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setenv("CUDA_HOME", str(home.parent))
    assert setup.find_nvcc() == str(home / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert setup.find_nvcc() == str(path / "nvcc")
    monkeypatch.delenv("CUDA_HOME")
    assert setup.find_nvcc() == str(path / "nvcc")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup.find_nvcc() is None


def test_options(setup, tmp_path, monkeypatch, capsys):
    nvcc = toolkit(tmp_path / "bin") / "nvcc"
    monkeypatch.setattr(setup, "torch_cuda", lambda: "13.0")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    for name in ("RNNKERNELS_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    targets = "80-real;120-real;120-virtual"
    options = ["-DRNN_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DCMAKE_CUDA_ARCHITECTURES={targets}"]
    assert setup.cuda_options() == options
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    assert setup.cuda_options() == [*options[:2], "-DCMAKE_CUDA_ARCHITECTURES=80-real"]
    monkeypatch.setenv("RNNKERNELS_CUDA", "0")
    assert setup.cuda_options() == []
    monkeypatch.delenv("RNNKERNELS_CUDA")
    monkeypatch.setattr(setup, "find_nvcc", lambda: None)
    assert setup.cuda_options() == []
    assert capsys.readouterr().err == "rnnkernels: no nvcc found, built for the CPU alone\n"


def test_torchs_cuda_is_known_without_importing_it(setup):
    assert setup.torch_cuda() == torch.version.cuda


def test_the_command_line_says_it(tmp_path):
    """PATH without an nvcc; where torch is for the CPU alone that is said first."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("c++", "cmake", "ninja"):
        (tools / name).write_text("")
        (tools / name).chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k not in ("CUDA_HOME", "CXX")}
    environment |= {"PATH": str(tools), "RNNKERNELS_CUDA": "1"}
    command = [sys.executable, SETUP, "--version"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("rnnkernels: RNNKERNELS_CUDA=1: ")
    done = subprocess.run(command, cwd=ROOT, env=environment | {"RNNKERNELS_CUDA": "0"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


BUILT = _C.build_info()["cuda"]


def registered(key):
    """Ops with a kernel of their own under a dispatch key, but for those that only tests and benches call."""
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("rnnkernels::")]
    return {n for n in names if "::_" not in n and torch._C._dispatch_has_kernel_for_dispatch_key(n, key)}


def test_what_the_cpu_runs_a_card_runs_where_cuda_was_built():
    on_cpu = registered("CPU")
    assert len(on_cpu) > 2 * len(_C.cells())
    assert registered("CUDA") == (on_cpu if BUILT and not EXECUTED_CUDA else set())


@pytest.mark.skipif(not BUILT or EXECUTED_CUDA, reason="built for the CPU alone")
def test_it_was_built_with_torchs_cuda():
    assert BUILT.split(".")[0] == torch.version.cuda.split(".")[0]
