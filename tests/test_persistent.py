"""Walks in one launch without a GPU: tests/over_persistent.py over the build that executes csrc/cuda on the CPU."""

import os
import subprocess

import pytest
from test_cuda import BUILT, ROOT, python


@pytest.mark.parametrize("order", [0, 1, 2])
def test_over_persistent(order, ahead):
    def over_persistent(order):
        options = ["-o", f"pythonpath={BUILT}", "-p", "no:cacheprovider"]
        return python("-m", "pytest", "tests/over_persistent.py", *options, CUDA_ON_CPU_SEED=str(order))

    done = ahead(over_persistent)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout and " skipped" not in done.stdout


def test_a_layout_is_found_once(tmp_path):
    """Of two hundred calls of one layer all but the first are answered from memory: far more than 5 times faster."""
    source, csrc = ROOT / "tests/layouts.cpp", ROOT / "csrc"
    command = [os.environ.get("CXX", "g++"), "-std=c++20", "-O2", f"-I{csrc}", source, csrc / "cuda/persistent.cpp"]
    subprocess.run([*command, "-o", tmp_path / "layouts"], check=True)
    done = subprocess.run([tmp_path / "layouts"], capture_output=True, text=True)
    assert done.returncode == 0 and float(done.stdout) > 5, done.stdout
