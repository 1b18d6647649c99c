"""What only a card can show: skipped, and counted as skipped, where there is none.

Numbers are `python -m rnnkernels check --device cuda`'s; here is how a call behaves among others.
"""

from contextlib import nullcontext

import pytest
import torch
from conftest import CELLS

import rnnkernels as rk
from rnnkernels import functional
from rnnkernels.options import Options
from rnnkernels.testing import MACHINES, OPTIONS, STEPS, Case, MachineProblem, Problem, fitted, on

pytestmark = pytest.mark.cuda
every_cell = pytest.mark.parametrize("cell", CELLS)
REGULARISED = Options(zoneout=0.25, zoneout_cell=0.5, recurrent_dropout=0.5, input_dropout=0.25, weight_dropout=0.25)


@pytest.fixture(params=["tick", "persistent", "auto"])
def path(request, monkeypatch):
    monkeypatch.setenv("RNNKERNELS_CUDA_ALGO", request.param)
    return request.param


def walks(cell, path):
    if path == "persistent" and cell not in rk._C.persistent_cells():
        pytest.skip("walks tick by tick alone")


@every_cell
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_options(cell, dtype, path):
    walks(cell, path)
    for case in OPTIONS[cell][::3]:
        if path == "persistent" and case.P:
            continue  # a second product
        Problem(cell, case, dtype if dtype.itemsize < 4 else torch.float32).check(on("cuda", functional.layer), dtype)
    assert rk.info()["last_kernel"]["isa"] == "cuda"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_machines(dtype):
    for cases, function in ((MACHINES, functional.ntm), (STEPS, functional.ntm_step)):
        for case in cases:
            MachineProblem(case).check(on("cuda", function), dtype)


@every_cell
def test_the_cpu_and_the_card_draw_the_same(cell):
    case = fitted(cell, Case(6, 5, 9, 18, masks="seed", options=REGULARISED))
    problem = Problem(cell, case)
    theirs = problem.outputs_and_gradients(functional.layer, torch.float32)
    for label, ours in problem.outputs_and_gradients(on("cuda", functional.layer), torch.float32).items():
        torch.testing.assert_close(ours, theirs[label], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "LayerNormLSTM", "NTM"])
@pytest.mark.parametrize("seed", ["int", "cpu", "cuda"])
def test_in_a_graph_on_a_stream_without_waiting(kind, seed, path):
    """Captured and replayed on new inputs it gives what a plain call gives; nothing waits for the card."""
    module = (rk.NTM(5, 7, controller_size=16) if kind == "NTM" else getattr(rk, kind)(5, 7, zoneout=0.25)).cuda()
    walks(module.cell if kind != "NTM" else "ntm", path)
    keywords = {}
    if kind != "NTM":
        keywords = {"seed": 7 if seed == "int" else torch.tensor(7, device=seed)}
    x = torch.randn(6, 3, 5, device="cuda")

    def step():
        out = module(x, **keywords)[0]
        return out, *torch.autograd.grad(out.square().sum(), list(module.parameters()), allow_unused=True)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            captured = step()
        x.copy_(torch.randn_like(x))
        graph.replay()
    side.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        plain = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for ours, theirs in zip(captured, plain, strict=True):
        assert ours is theirs is None or torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["LSTM", "MinimalGRU", "LayerNormGRU"])
def test_bitwise_repeatable(kind, path):
    module, x = getattr(rk, kind)(64, 128).cuda(), torch.randn(50, 32, 64, device="cuda")
    walks(module.cell, path)
    runs = [torch.autograd.grad(module(x)[0].square().sum(), list(module.parameters())) for _ in range(2)]
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


@pytest.mark.skipif("torch.cuda.device_count() < 2", reason="needs two cards")
def test_on_the_other_card():
    module, x = rk.LSTM(5, 7).to("cuda:1"), torch.randn(6, 3, 5)
    with torch.cuda.device(0):
        out = module(x.to("cuda:1"))[0]
    assert out.device == torch.device("cuda:1")
    torch.testing.assert_close(out.cpu(), module.cpu()(x)[0])


def test_more_numbers_than_an_int_counts():
    T, B, H = 4, 1 << 14, 1 << 13  # gates: 4 * 2^14 * 3 * 2^13 > 2^31
    if torch.cuda.get_device_properties(0).total_memory < 48 << 30:
        pytest.skip("needs 48 GiB")
    module, x = rk.RNN(1, H).cuda(), torch.randn(T, B, 1, device="cuda")
    with torch.no_grad():
        out = module(x)[0]
        torch.testing.assert_close(out[:, -1:], module(x[:, -1:])[0])


@pytest.mark.parametrize("T, B", [(0, 3), (3, 0)])
def test_nothing(T, B):
    with nullcontext() if T else pytest.raises(RuntimeError):
        out, _ = rk.LSTM(5, 7).cuda()(torch.randn(T, B, 5, device="cuda"))
        assert out.shape == (T, B, 7)
