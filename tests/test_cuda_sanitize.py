"""csrc/cuda under sanitizers, executed on the CPU: runs what `make cuda-driver` built of cuda_driver.cpp."""

import os
import re
import subprocess
from pathlib import Path

import pytest

BUILT = Path(__file__).resolve().parent.parent / "build/cuda_driver"


# Under ThreadSanitizer few cases, with every kernel in several warps and blocks. `least`: checks of layers, calls that
# walk all ticks in one launch, of them on tensor cores, checks of machines.
@pytest.mark.parametrize(
    "mode, cases, least", [("address", [], (1900, 1800, 900, 70)), ("thread", ["thin"], (65, 40, 20, 6))]
)
def test_cuda_under_sanitizers(mode, cases, least, ahead):
    def driven(mode, cases, least):
        driver = BUILT / f"cuda_driver_{mode}"
        assert driver.exists(), "not built: make cuda-driver"
        environment = os.environ | {"CUDA_ON_CPU_SEED": "7"}
        return subprocess.run([driver, *cases], capture_output=True, text=True, env=environment)

    done = ahead(driven)
    assert done.returncode == 0, (done.stdout + done.stderr)[:8000]
    counts = r"(\d+) checks of layers, (\d+) calls in .*, (\d+) on tensor cores, (\d+) checks of mach.*, 0 failures\n"
    said = re.fullmatch(counts, done.stdout)
    assert all(int(n) >= few for n, few in zip(said.groups(), least)), done.stdout
