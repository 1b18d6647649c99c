"""Fixtures: every test starts from one seed on one thread, and leaves torch and the instruction set as it found them.

One thread, because plain torch's waits spin: what it computes here for comparison takes longer on two, by far where the
machine is busy. Tests of the kernels ask for two.
"""

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch

import rnnkernels as rk
from rnnkernels import _C, functional
from rnnkernels.testing import OPTIONS, SHIFT, Problem

CELLS = {cell["name"]: cell for cell in _C.cells()}
ISAS = _C.isas()["available"]
# The build in which CPU tensors run the kernels of csrc/cuda (`make cuda-on-cpu`).
EXECUTED_CUDA = _C.build_info()["cuda"] == "executed on the CPU"
THREADS = int(os.environ.get("RNNKERNELS_TEST_THREADS", "1"))  # tests/soak_error_rule.py asks for two as well
TORCHS = ("lstm", "gru", "rnn_tanh")  # the cells that torch.nn has: they see every case, the others a part each


def share(cell, cases, parts):
    """Of `cases` the part that `cell` sees, such that among `parts` neighbours in the list of cells all are seen."""
    return cases if cell in TORCHS else cases[list(CELLS).index(cell) % parts :: parts]


def some(cell):
    """A fifth of the options, each meeting every other cell."""
    return share(cell, OPTIONS[cell], 5) if cell not in TORCHS else OPTIONS[cell][::2]


def layers(cases, every=6):
    """Parametrizes with each cell, each of its `cases(cell)`, the best instruction set, and here and there another."""
    return pytest.mark.parametrize(
        "cell, case, isa",
        [
            (cell, case, isa)
            for c, cell in enumerate(CELLS)
            for i, case in enumerate(cases(cell))
            for k, isa in enumerate(ISAS)
            if isa == ISAS[-1] or (i + c) % every == k
        ],
        indirect=["isa"],
        ids=str,
    )


@pytest.fixture
def ahead(request):
    """What `work(**the test's parameters)` of the mark `ahead(work=...)` returned.

    For work that is done in processes of its own: it begins with the session, on all cores but the one that runs the
    other tests, which come first.
    """
    request.config.works.hurry()
    return request.config.works.results[request.node].result()


class Works:
    """The work of tests marked `ahead(work=...)`."""

    def __init__(self, items):
        cores = os.cpu_count()
        self.pool, self.permits = ThreadPoolExecutor(cores), threading.Semaphore(max(cores - 1, 1))
        self.waiting = cores > 1  # whether a core is left to other tests
        marks = {item: item.get_closest_marker("ahead") for item in items}
        self.results = {
            item: self.pool.submit(self.run, item, **mark.kwargs) for item, mark in marks.items() if mark.kwargs
        }

    def run(self, item, work):
        with self.permits:
            return work(**item.callspec.params)

    def hurry(self):
        """The other tests are over."""
        if self.waiting:
            self.permits.release()
        self.waiting = False

    def end(self):
        """What nobody waits for any more is ended."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        if not all(result.done() for result in self.results.values()):
            import psutil

            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()


def pytest_collection_finish(session):
    items = [item for item in session.items if item.get_closest_marker("ahead")]
    if items and not session.config.option.collectonly:
        session.config.works = Works(items)
        session.config.add_cleanup(session.config.works.end)


def pytest_configure(config):
    config.addinivalue_line("markers", "cuda: needs a card, and a build for it")
    config.addinivalue_line(
        "markers", "ahead(work=...): work(**parameters) begins with the session; without: comes late"
    )


def pytest_collection_modifyitems(items):
    missing = None
    if not functional.CUDA:
        missing = "this build has no CUDA kernels"
    elif not torch.cuda.is_available():
        missing = "no card here"
    for item in items:
        if missing and item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason=missing))
    items.sort(key=lambda item: item.get_closest_marker("ahead") is not None)


def pytest_terminal_summary(terminalreporter):
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "cuda" in r.keywords]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests that need a card were skipped: {skipped[0].longrepr[2]}")


@pytest.fixture(autouse=True)
def steady():
    torch.manual_seed(SHIFT)
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    rk.set_isa(None)


@pytest.fixture(params=ISAS)
def isa(request):
    """Every instruction set of this machine in turn."""
    rk.set_isa(request.param)
    return request.param


@pytest.fixture(params=[1] if EXECUTED_CUDA else [1, 2], ids=lambda n: "one thread" if n == 1 else "two threads")
def threads(request):
    torch.set_num_threads(request.param)
    return request.param


@pytest.fixture
def poison():
    """Fresh memory holds NaN, so that whatever is read before it was written shows."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()


@functools.cache
def problem(cell, case, values):
    """The case's problem, and what its results are held against, computed once for all instruction sets."""
    problem, threads = Problem(cell, case, values), torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        assert problem.expected
    finally:
        torch.set_num_threads(threads)
    return problem


def check(cell, case, dtype):
    """Holds the kernels' outputs and gradients against the float64 reference by the error rule."""
    values = torch.float32 if dtype == torch.float64 else dtype
    problem(cell, case, values).check(functional.layer, dtype)


def equal(one, other):
    """Whether two values are, bit by bit, with what dicts of them hold."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    return one == other
