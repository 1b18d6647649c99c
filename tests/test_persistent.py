"""Walks in one launch without a GPU: tests/over_persistent.py over the build that executes csrc/cuda on the CPU."""

import pytest
from test_cuda import BUILT, python


@pytest.mark.parametrize("order", [0, 1, 2])
def test_over_persistent(order, ahead):
    def over_persistent(order):
        options = ["-o", f"pythonpath={BUILT}", "-p", "no:cacheprovider"]
        return python("-m", "pytest", "tests/over_persistent.py", *options, CUDA_ON_CPU_SEED=str(order))

    done = ahead(over_persistent)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout and " skipped" not in done.stdout
