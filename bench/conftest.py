"""Options, results and progress of the bench."""

from __future__ import annotations

import os
import tempfile

import pytest
import torch

from .results import Results
from .timing import fma_peak

# A compile time is the compiler's, not its cache's.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.mkdtemp(prefix="bench-inductor-"))


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="a tenth of the grid in about two minutes, no compiled peers")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--quick"):
        skipped = [item for item in items if not item.get_closest_marker("quick")]
        config.hook.pytest_deselected(items=skipped)
        items[:] = [item for item in items if item not in skipped]


def pytest_configure(config):
    config.addinivalue_line("markers", "quick: a row of the --quick run")
    config.option.showcapture = "no"  # the compiler logs thousands of lines
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:torch")


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_group_stats(config, benchmarks, group_by):
    return []  # its table would show rnnkernels' turns alone; rows are printed as they come


@pytest.fixture(scope="session")
def quick(pytestconfig) -> bool:
    return pytestconfig.getoption("--quick")


@pytest.fixture(scope="session")
def results(quick) -> Results:
    return Results(quick)


@pytest.fixture(scope="session")
def peak():
    """``peak(threads)``: (GFLOP/s, how) of this run's multiply-add peak, the best seen so far."""
    known = {}

    def measure(threads: int) -> tuple[float, str]:
        known[threads] = max(known.get(threads, (0.0, "")), fma_peak(threads))
        return known[threads]

    return measure


@pytest.fixture
def say(request):
    """Print one line past pytest's capture."""
    manager = request.config.pluginmanager.getplugin("capturemanager")
    done, total = request.session.items.index(request.node) + 1, len(request.session.items)

    def line(text: str) -> None:
        with manager.global_and_fixture_disabled():
            print(f"\n[{done}/{total}] {text}", end="", flush=True)

    return line


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
