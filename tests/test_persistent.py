"""Walks in one launch without a GPU: tests/over_persistent.py over the build that executes csrc/cuda on the CPU."""

import os
import subprocess

import pytest
from test_cuda import BUILT, ROOT, python


def over_persistent(order):
    options = ["-o", f"pythonpath={BUILT}", "-p", "no:cacheprovider"]
    return python("-m", "pytest", "tests/over_persistent.py", *options, CUDA_ON_CPU_SEED=str(order))


@pytest.mark.ahead(work=over_persistent)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_over_persistent(order, ahead):
    assert ahead.returncode == 0, ahead.stdout[-4000:]
    assert " passed" in ahead.stdout and " skipped" not in ahead.stdout


def test_a_layout_is_found_once(tmp_path):
    """Two hundred layers are searched for once each, two hundred more calls of the last one not at all."""
    source, csrc = ROOT / "tests/layouts.cpp", ROOT / "csrc"
    command = [os.environ.get("CXX", "g++"), "-std=c++20", "-O2", f"-I{csrc}", source, csrc / "cuda/persistent.cpp"]
    subprocess.run([*command, "-o", tmp_path / "layouts"], check=True)
    done = subprocess.run([tmp_path / "layouts"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "200 0", done.stdout
