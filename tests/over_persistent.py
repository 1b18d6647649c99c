"""Walks in one launch, over the build that executes csrc/cuda on the CPU; tests/test_persistent.py runs this there.

Cards are pretended: so many multiprocessors, so many bytes of shared memory for a block (tests/cuda_on_cpu/README.md).
"""

from dataclasses import replace

import pytest
import torch
from conftest import CELLS, EXECUTED_CUDA, check
from torch.autograd import gradcheck

import rnnkernels as rk
from rnnkernels import functional
from rnnkernels.testing import OPTIONS, Case, Problem

assert EXECUTED_CUDA
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HALVES = DTYPES[2:]
WALKED = tuple(c for c, facts in CELLS.items() if facts["stages"] == 1 and not facts["scales"])
FED = tuple(c for c in WALKED if CELLS[c]["fed"])
walked = pytest.mark.parametrize("cell", WALKED)
SMALL = Case(4, 3, 5, 17)

# Sizes and cards on which blocks have one unit or many, the last fewer than the others; rows to one slice or several;
# weights in registers alone or in shared memory too, terms in one group or several; rows staged at once, in several
# goes, or one by one.
SIZES = [
    (Case(3, 3, 5, 1), 4, 101376),
    (Case(5, 8, 5, 7), 4, 101376),
    (Case(3, 3, 5, 7), 1, 2300),
    (Case(4, 9, 5, 17), 3, 4800),
    (Case(2, 33, 1, 17), 2, 9000),
    (Case(3, 2, 5, 33), 5, 101376),
    (Case(3, 9, 5, 65), 5, 30000),
    (Case(2, 8, 5, 257), 48, 232448),
    (Case(3, 1, 5, 257), 60, 101376),
    (Case(63, 3, 5, 9), 4, 101376),
    (Case(2, 70, 5, 33), 4, 101376),
]


@pytest.fixture(autouse=True)
def forced(monkeypatch):
    monkeypatch.setenv("RNNKERNELS_CUDA_ALGO", "persistent")


@pytest.fixture
def card(monkeypatch):
    def set_card(multiprocessors, shared, cooperates=1):
        monkeypatch.setenv("CUDA_ON_CPU_SMS", str(multiprocessors))
        monkeypatch.setenv("CUDA_ON_CPU_SHARED_OPTIN", str(shared))
        monkeypatch.setenv("CUDA_ON_CPU_COOPERATIVE", str(cooperates))

    return set_card


def path():
    return rk._C.last_kernel()["split"]


def layer(cell, case=SMALL):
    return Problem(cell, case).outputs_and_gradients(functional.layer, torch.float32)


@walked
@pytest.mark.parametrize("case, multiprocessors, shared", SIZES, ids=str)
def test_sizes(cell, case, multiprocessors, shared, card, poison):
    card(multiprocessors, shared)
    which = SIZES.index((case, multiprocessors, shared)) + (FED.index(cell) if cell in FED else 0)
    check(cell, case, DTYPES[which % 2])
    assert path().startswith("persistent, ")


# As above, for tensor cores: 8 rows by 32 columns by 16 terms at a time, 64 terms in a chunk.
TILES = [
    (Case(3, 3, 5, 1), 4, 101376),
    (Case(4, 9, 5, 17), 3, 12000),
    (Case(2, 33, 1, 17), 2, 9000),
    (Case(3, 9, 5, 65), 5, 30000),
    (Case(2, 8, 5, 257), 24, 232448),
    (Case(3, 1, 5, 257), 60, 101376),
]


@pytest.mark.parametrize("cell", FED)
@pytest.mark.parametrize("case, multiprocessors, shared", TILES, ids=str)
def test_tensor_cores(cell, case, multiprocessors, shared, card, poison, monkeypatch):
    card(multiprocessors, shared)
    dtype = HALVES[(TILES.index((case, multiprocessors, shared)) + FED.index(cell)) % 2]
    check(cell, case, dtype)
    assert path().endswith(" blocks, tensor cores")
    # Rows are more than halves: as good as what is computed in float32, but where that is in the middle of two.
    problem = Problem(cell, case, dtype)
    on_tensor_cores = problem.outputs_and_gradients(functional.layer, dtype)
    monkeypatch.setenv("RNNKERNELS_CUDA_ALGO", "tick")
    in_float = problem.outputs_and_gradients(functional.layer, dtype)
    differ = [(actual != in_float[label]).flatten() for label, actual in on_tensor_cores.items()]
    assert torch.cat(differ).double().mean() < 0.01


def walks(case):
    return not case.P


@pytest.mark.parametrize("cell, case", [(c, case) for c in WALKED for case in filter(walks, OPTIONS[c])], ids=str)
def test_options(cell, case, card, poison):
    which = OPTIONS[cell].index(case) + WALKED.index(cell)
    card(*[(4, 101376), (3, 6000), (7, 101376)][which % 3])
    dtype = DTYPES[which // 3 % 4]
    check(cell, case, dtype)
    assert path().startswith("persistent, ")
    if dtype in HALVES and cell in FED and case.recurrence != "none" and which % 3 != 1:
        scaled = case.masks and case.options.weight_dropout > 0
        assert path().endswith("tensor cores") == (not scaled)


@walked
def test_gradcheck(cell):
    for case in list(filter(walks, OPTIONS[cell]))[WALKED.index(cell) :: len(WALKED)]:
        H = 6 if CELLS[cell]["shared"] else 3
        case = replace(case, T=3, B=3, I=2, H=H, options=case.options._replace(truncated=False, gradient_clip=0.0))
        problem = Problem(cell, case, torch.float64, seed=2)
        leaves = [None if t is None else t.requires_grad_() for t in problem.tensors]
        assert gradcheck(lambda *t, problem=problem: problem.run(functional.layer, *t), leaves, fast_mode=True)
        assert path().startswith("persistent, ")


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_order_of_threads_does_not_matter(cell, monkeypatch):
    case = Case(6, 5, 9, 17, layout="padded", reverse=True, resets=True)
    results = []
    for order in range(4):
        monkeypatch.setenv("CUDA_ON_CPU_SEED", str(order))
        results.append(layer(cell, case))
    for other in results[1:]:
        assert all(torch.equal(results[0][label], other[label]) for label in results[0])


@walked
@pytest.mark.parametrize("case", [Case(0, 3, 5, 7), Case(3, 0, 5, 7), Case(0, 0, 5, 7)], ids=str)
def test_nothing_to_walk(cell, case):
    problem = Problem(cell, replace(case, T=max(case.T, 1), B=max(case.B, 1)))
    x, *others = problem.tensors
    tensors = [x[: case.T, : case.B], *others[:6], *(s[: case.B] for s in others[6:])]
    tensors = [None if t is None else t.float().requires_grad_() for t in tensors]
    out, *finals = problem.run(functional.layer, *tensors)
    assert out.shape == (case.T, case.B, 7)
    (out.sum() + sum(s.sum() for s in finals)).backward()
    assert all(t.grad.isfinite().all() for t in tensors if t is not None and t.grad is not None)


@pytest.mark.parametrize("multiprocessors, shared, cooperates, why", [
    (1, 600, 1, "the weights and a row do not fit the blocks"),
    (3, 100, 1, "the weights and a row do not fit the blocks"),
    (8, 101376, 0, "the card knows no cooperative launches"),
])  # fmt: skip
def test_what_does_not_fit_goes_tick_by_tick(multiprocessors, shared, cooperates, why, card, monkeypatch):
    case = Case(4, 3, 5, 33)
    card(multiprocessors, shared, cooperates)
    with pytest.raises(RuntimeError, match=f"persistent is not possible for this lstm: {why}"):
        layer("lstm", case)
    monkeypatch.setenv("RNNKERNELS_CUDA_ALGO", "auto")
    check("lstm", case, torch.float32)
    assert path() == "tick by tick"


@pytest.mark.parametrize("cell", [c for c in CELLS if c not in WALKED])
def test_other_cells_go_tick_by_tick(cell, monkeypatch):
    with pytest.raises(RuntimeError, match=f"persistent is not possible for this {cell}: it is for cells of one stage"):
        layer(cell, Case(4, 3, 5, 18))
    monkeypatch.setenv("RNNKERNELS_CUDA_ALGO", "auto")
    layer(cell, Case(4, 3, 5, 18))
    assert path() == "tick by tick"


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("value", [3e4, 6e4, torch.inf, torch.nan])
def test_what_no_half_holds(dtype, value):
    """A state beyond float16 is infinite in the next product too, and does not become NaN."""
    layer = rk.RNN(1, 1, nonlinearity="relu", bias=False).to(dtype)
    h = torch.full((1, 1, 1), value, dtype=dtype)
    with torch.no_grad():
        layer.weight_hh_l0.fill_(2.0)
        layer.weight_ih_l0.zero_()
        out = layer(torch.zeros(4, 1, 1, dtype=dtype), h)[0]
    assert path().endswith("tensor cores")
    wanted = h.double() * torch.tensor([2.0, 4.0, 8.0, 16.0]).reshape(4, 1, 1)
    torch.testing.assert_close(out, wanted.to(dtype), rtol=0, atol=0, equal_nan=True)


def test_a_projection_goes_tick_by_tick():
    with pytest.raises(RuntimeError, match="persistent is not possible for this lstm: .* without projection"):
        layer("lstm", Case(4, 3, 5, 17, 7))


def test_the_wish(monkeypatch):
    for name, case, said in [
        ("auto", Case(4, 64, 5, 7), "persistent, "),
        ("", Case(4, 64, 5, 7), "persistent, "),
        ("auto", Case(3, 3, 5, 7), "tick by tick"),  # too short
        ("auto", Case(4, 4096, 5, 7), "tick by tick"),  # too many rows
        ("tick", Case(4, 3, 5, 7), "tick by tick"),
        ("persistent", Case(1, 65, 5, 7), "persistent, "),
    ]:
        monkeypatch.setenv("RNNKERNELS_CUDA_ALGO", name)
        layer("lstm", case)
        assert path().startswith(said), (name, case, path())
    monkeypatch.setenv("RNNKERNELS_CUDA_ALGO", "fast")
    with pytest.raises(RuntimeError, match="RNNKERNELS_CUDA_ALGO: expected auto, tick or persistent, got fast"):
        layer("lstm")
