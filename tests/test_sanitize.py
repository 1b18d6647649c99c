"""The core under AddressSanitizer and UBSan: runs what `make sanitize` built of core_driver.cpp."""

import os
import re
import subprocess
from pathlib import Path

from conftest import CELLS, ISAS

DRIVER = Path(__file__).resolve().parent.parent / "build/sanitize/core_driver"


def test_core_under_sanitizers():
    assert DRIVER.exists(), "not built: make sanitize"
    # Four threads on fewer cores: libgomp's own waits must not spin.
    done = subprocess.run([DRIVER], capture_output=True, text=True, env=os.environ | {"OMP_WAIT_POLICY": "passive"})
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    checks = int(re.fullmatch(r"(\d+) checks, 0 failures\n", done.stdout).group(1))
    assert checks > 150 * len(CELLS) * len(ISAS)
