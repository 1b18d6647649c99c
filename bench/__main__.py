"""``python -m bench [--quick] [-k WORDS] [any pytest option]``: run the bench, then render the report."""

import sys
from pathlib import Path

import pytest

from . import report

status = pytest.main([str(Path(__file__).parent), *sys.argv[1:]])
if "--quick" not in sys.argv:
    report.main()
sys.exit(status)
