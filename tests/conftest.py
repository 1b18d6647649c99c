"""Fixtures: every test starts from one seed on one thread, and leaves torch and the instruction set as it found them.

One thread, because plain torch's waits spin: what it computes here for comparison takes longer on two, by far where the
machine is busy. Tests of the kernels ask for two.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor

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


_begun = {}  # by test, by the name of a case: a future


@pytest.fixture
def ahead(request):
    """`ahead(work)` is work(**the test's parameters): begun for all selected cases of the test when the first asks, on
    all cores. For work that is done in processes of its own."""

    def result(work):
        test, cases = request.function, request.session.items
        if test not in _begun:
            pool = ThreadPoolExecutor(os.cpu_count())
            request.config.add_cleanup(lambda: pool.shutdown(cancel_futures=True))
            selected = [case.callspec for case in cases if getattr(case, "function", None) is test]
            _begun[test] = {case.id: pool.submit(work, **case.params) for case in selected}
        return _begun[test][request.node.callspec.id].result()

    return result


def pytest_configure(config):
    config.addinivalue_line("markers", "cuda: needs a card, and a build for it")


def pytest_collection_modifyitems(items):
    missing = None
    if not functional.CUDA:
        missing = "this build has no CUDA kernels"
    elif not torch.cuda.is_available():
        missing = "no card here"
    for item in items:
        if missing and item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason=missing))


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
