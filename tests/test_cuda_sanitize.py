"""csrc/cuda under sanitizers, executed on the CPU: runs what `make cuda-driver` built of cuda_driver.cpp."""

import os
import re
import subprocess
from pathlib import Path

import pytest

BUILT = Path(__file__).resolve().parent.parent / "build/cuda_driver"


def driven(mode, cases, least):
    driver = BUILT / f"cuda_driver_{mode}"
    assert driver.exists(), "not built: make cuda-driver"
    environment = os.environ | {"CUDA_ON_CPU_SEED": "7"}
    return subprocess.run([driver, *cases], capture_output=True, text=True, env=environment)


# Under ThreadSanitizer few cases, with every kernel in several warps and blocks. `least`: checks of layers, calls that
# walk all ticks in one launch, of them on tensor cores, checks of machines.
@pytest.mark.ahead(work=driven)
@pytest.mark.parametrize(
    "mode, cases, least", [("address", [], (1900, 1800, 900, 70)), ("thread", ["thin"], (65, 40, 20, 6))]
)
def test_cuda_under_sanitizers(mode, cases, least, ahead):
    assert ahead.returncode == 0, (ahead.stdout + ahead.stderr)[:8000]
    counts = r"(\d+) checks of layers, (\d+) calls in .*, (\d+) on tensor cores, (\d+) checks of mach.*, 0 failures\n"
    said = re.fullmatch(counts, ahead.stdout)
    assert all(int(n) >= few for n, few in zip(said.groups(), least)), ahead.stdout
