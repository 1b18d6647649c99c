"""The AVX-512 kernels on machines without AVX-512: the tests of the ops and the vector math, over SIMDe (`make simde`).

Where the machine has AVX-512 those tests have run on it already; RNNKERNELS_TEST_SIMDE=1 asks for SIMDe all the same.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ISAS

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build/simde"

pytestmark = [
    pytest.mark.skipif("avx2" not in ISAS, reason="SIMDe is built for AVX2 here"),
    pytest.mark.skipif(
        "avx512" in ISAS and not os.environ.get("RNNKERNELS_TEST_SIMDE"), reason="this machine has AVX-512"
    ),
]


def python(*arguments):
    assert (BUILT / "stamp").exists(), "not built: make simde"
    environment = {k: v for k, v in os.environ.items() if k != "RNNKERNELS_ISA"} | {"PYTHONPATH": str(BUILT)}
    command = [sys.executable, "-P", *arguments]  # -P: not the package in the working directory
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_it_is_another_build_that_runs():
    done = python("-c", "import rnnkernels as rk; rk.set_isa('avx512'); print(rk._C.__file__)")
    assert Path(done.stdout.strip()).is_relative_to(BUILT), done.stderr


@pytest.mark.parametrize(
    "tests", ["test_math.py", "test_ops.py", "test_options.py", "test_properties.py", "test_random.py"]
)
def test_over_simde(tests):
    options = ["-o", f"pythonpath={BUILT}", "-p", "no:cacheprovider", "-k", "avx512 or properties"]
    done = python("-m", "pytest", f"tests/{tests}", *options)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
