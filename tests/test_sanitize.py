"""The core under AddressSanitizer and UBSan: runs what `make sanitize` built of core_driver*.cpp."""

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
    said = re.fullmatch(r"(\d+) checks of cells, (\d+) of machines, 0 failures\n", done.stdout)
    cells, machines = map(int, said.groups())
    assert cells > 150 * len(CELLS) * len(ISAS)
    assert machines > 600 * len(ISAS)
