"""What torch users expect of any layer: compile, export, autocast, functional transforms, threads, fork."""

import copy
import subprocess
import sys
import threading
import warnings

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import rnnkernels as rk
from rnnkernels import _C, functional, modules, reference

LAYERS = [k for k in vars(rk).values() if isinstance(k, type) and issubclass(k, modules.layers.Recurrent)]
CELLS = [k for k in vars(rk).values() if isinstance(k, type) and issubclass(k, modules.cells.RecurrentCell)]
every_layer = pytest.mark.parametrize("kind", LAYERS, ids=lambda k: k.__name__)
# Tracers see one op whatever the cell: these are all kinds of signatures; test_variants.py compiles the others.
traced = pytest.mark.parametrize(
    "kind", [rk.RNN, rk.LSTM, rk.GRU, rk.MinimalGRU, rk.LayerNormLSTM, rk.IndRNN, rk.LSTM1997], ids=lambda k: k.__name__
)
I, H = 3, 7  # noqa: E741


class Model(nn.Module):
    """A layer among others, called as users call it."""

    def __init__(self, kind, **options):
        super().__init__()
        self.embed = nn.Linear(I, H)
        self.layers = kind(H, H, **options)
        self.score = nn.Linear(H * (2 if options.get("bidirectional") else 1), 2)

    def forward(self, x):
        return self.score(self.layers(self.embed(x))[0].relu())


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()


def gradients(model, result):
    return torch.autograd.grad(result.square().sum(), list(model.parameters()))


def assert_same(a, b):
    for left, right in zip(a, b, strict=True):
        torch.testing.assert_close(left, right)


# -- compile and export ------------------------------------------------------------------------------------------------


@traced
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True, "bias": False, "batch_first": True}], ids=str
)
def test_compile_fullgraph_equals_eager(kind, options):
    model, x = Model(kind, **options), torch.randn(5, 4, I)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    assert_same(gradients(model, compiled(x)), gradients(model, model(x)))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))


def test_compile_with_inductor():
    model = Model(rk.LSTM, num_layers=2, bidirectional=True)
    x = torch.randn(5, 4, I)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    assert_same(gradients(model, compiled(x)), gradients(model, model(x)))


@pytest.mark.parametrize("kind", CELLS[::2], ids=lambda k: k.__name__)
def test_compiled_cells(kind):
    cell, x = kind(I, H), torch.randn(4, 4, I)

    def loop(x):
        hx = None
        for t in range(4):
            hx = cell(x[t], hx)
        return hx[0] if isinstance(hx, tuple) else hx

    compiled = torch.compile(loop, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), loop(x))
    assert_same(gradients(cell, compiled(x)), gradients(cell, loop(x)))


@traced
def test_one_graph_serves_every_length(kind):
    model, counter = Model(kind), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for ticks, rows in ((4, 2), (5, 3), (6, 5), (17, 8), (100, 9)):
        x = torch.randn(ticks, rows, I)
        torch.testing.assert_close(compiled(x), model(x))
    assert counter.frame_count <= 2  # one for the first sizes, one for all others


@traced
def test_the_graph_does_not_grow_with_time(kind):
    sizes = []
    for ticks in (2, 200):
        graph = torch.export.export(Model(kind), (torch.randn(ticks, 4, I),)).graph_module.graph
        sizes.append(len(graph.nodes))
        assert sum(str(node.target).startswith("rnnkernels.") for node in graph.nodes) == 1
    assert sizes[0] == sizes[1]


@traced
@pytest.mark.parametrize("strict", [False, True])
def test_export(kind, strict):
    model = Model(kind, num_layers=2, bidirectional=True).eval()
    ticks, rows = torch.export.Dim("ticks", min=2), torch.export.Dim("rows", min=2)
    program = torch.export.export(model, (torch.randn(5, 4, I),), dynamic_shapes=({0: ticks, 1: rows},), strict=strict)
    for shape in ((5, 4, I), (9, 2, I)):
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), model(x))


# -- autocast and precision --------------------------------------------------------------------------------------------


def plain_autocast(cell, *tensors, unit=None, **keywords):
    """The reference, its tensors cast as autocast casts those of the kernels."""
    dtype = torch.get_autocast_dtype("cpu")
    cast = [t.to(dtype) if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in (*tensors, unit)]
    *tensors, unit = [[s.to(dtype) for s in t] if isinstance(t, list | tuple) else t for t in cast]
    with torch.autocast("cpu", enabled=False):
        return reference.layer(cell, *tensors, unit=unit, **keywords)


@every_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(kind, dtype, monkeypatch):
    module, x = kind(I, H, 2, bidirectional=True), torch.randn(5, 4, I)
    with torch.autocast("cpu", dtype):
        out, _ = module(x)
        again, _ = module(x.to(dtype))
    assert out.dtype == dtype and torch.equal(out, again)
    assert torch.equal(out, copy.deepcopy(module).to(dtype)(x.to(dtype))[0])
    ours, exact = gradients(module, out.float()), gradients(module, module(x)[0])
    with monkeypatch.context() as patch, torch.autocast("cpu", dtype):
        patch.setattr(functional, "layer", plain_autocast)
        plain = gradients(module, module(x)[0].float())
    for a, p, g in zip(ours, plain, exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - g).abs().max() <= 2 * (p - g).abs().max() + 8 * torch.finfo(dtype).eps * max(1, g.abs().max())
    double = copy.deepcopy(module).double()
    with torch.autocast("cpu", dtype):
        assert double(x.double())[0].dtype == torch.float64


# -- functional transforms ---------------------------------------------------------------------------------------------


def loss(parameters, module, x):
    return functional_call(module, parameters, (x,))[0].square().mean()


@every_layer
def test_func_grad(kind):
    module, x = kind(I, H), torch.randn(5, 4, I)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    expected = torch.autograd.grad(module(x)[0].square().mean(), list(module.parameters()))
    assert_same(grad(loss)(parameters, module, x).values(), expected)


@every_layer
def test_per_sample_gradients(kind):
    module, x = kind(I, H), torch.randn(5, 6, I)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    samples = x.transpose(0, 1).unsqueeze(2)  # (6, T, 1, I)
    together = vmap(grad(loss), in_dims=(None, None, 0))(parameters, module, samples)
    for i, sample in enumerate(samples):
        assert_same((g[i] for g in together.values()), grad(loss)(parameters, module, sample).values())


@every_layer
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_vmap_over_inputs(kind, axis):
    module = kind(I, H, 2, bidirectional=True)
    x = torch.randn(2, 5, 4, I)
    together = vmap(lambda x: module(x)[0], in_dims=axis)(x.movedim(0, axis))
    for out, one in zip(together, x, strict=True):
        torch.testing.assert_close(out, module(one)[0])


@every_layer
def test_vmap_over_models(kind):
    models, x = [kind(I, H) for _ in range(3)], torch.randn(5, 4, I)
    parameters, buffers = stack_module_state(models)
    together = vmap(lambda p, b, x: functional_call(models[0], (p, b), (x,))[0], in_dims=(0, 0, None))(
        parameters, buffers, x
    )
    for out, model in zip(together, models, strict=True):
        torch.testing.assert_close(out, model(x)[0])


@every_layer
def test_jacrev(kind):
    module, x = kind(1, 2).double(), torch.randn(3, 1, 1, dtype=torch.float64)
    jacobian = jacrev(lambda x: module(x)[0])(x)
    torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(lambda x: module(x)[0], x))


@every_layer
@pytest.mark.filterwarnings("ignore:rnnkernels. double backward")
def test_gradient_penalty(kind):
    """A loss that holds a gradient, as WGAN-GP and meta-learning have: double backward of every parameter."""
    module = kind(2, 3).double()
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    parameters = list(module.parameters())

    def penalty():
        (g,) = torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
        return g.square().sum()

    for p, found in zip(parameters, torch.autograd.grad(penalty(), parameters, allow_unused=True), strict=True):
        with torch.no_grad():
            direction, at = torch.randn_like(p), p.clone()
        ends = []
        for step in (1e-6, -1e-6):
            p.data = at + step * direction
            ends.append(penalty().item())
        p.data = at
        slope = 0.0 if found is None else (found * direction).sum().item()
        assert abs(slope - (ends[0] - ends[1]) / 2e-6) <= 1e-6 * max(1, abs(slope))


# -- memory ------------------------------------------------------------------------------------------------------------


class Calls(TorchDispatchMode):
    """The package's ops as they are called, and whether they were asked to save."""

    def __init__(self):
        super().__init__()
        self.saves = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "rnnkernels":
            save = [a.name for a in function._schema.arguments].index("save")
            self.saves.append(len(args) > save and args[save])  # left out: the default, which is not to
        return function(*args, **(kwargs or {}))


@every_layer
def test_nothing_is_saved_where_nobody_asks(kind):
    module, x = kind(I, H, 2), torch.randn(5, 4, I)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(packed.append, lambda _: None):
        for mode in (torch.no_grad, torch.inference_mode):
            with mode(), Calls() as calls:
                out, _ = module(x)
            assert calls.saves == [False, False] and not out.requires_grad
        with Calls() as calls:
            copy.deepcopy(module).requires_grad_(False)(x)
        assert calls.saves == [False, False] and packed == []
        with Calls() as calls:
            module(x)
        assert calls.saves == [True, True] and packed != []


@every_layer
def test_inference_tensors(kind):
    module, x = kind(I, H), torch.randn(5, 4, I)
    with torch.inference_mode():
        out, _ = module(x)
        assert out.is_inference() and torch.equal(module(out[..., :I])[0], module(out[..., :I].clone())[0])


@every_layer
def test_checkpoint_and_anomaly_mode(kind):
    model, x = Model(kind), torch.randn(5, 4, I, requires_grad=True)
    expected = gradients(model, model(x))
    assert_same(gradients(model, checkpoint(model, x, use_reentrant=False)), expected)
    with torch.autograd.set_detect_anomaly(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert_same(gradients(model, model(x)), expected)


def test_a_tensor_saved_and_changed_is_noticed():
    module, x = rk.GRU(I, H), torch.randn(5, 4, I)
    out, _ = module(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@every_layer
def test_profiles_name_the_cell(kind):
    module, x = kind(I, H), torch.randn(5, 4, I)
    with torch.profiler.profile() as profile:
        module(x)[0].sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {f"rnnkernels::{module.cell}", f"rnnkernels::{module.cell}_backward"} <= names


# -- threads and processes ---------------------------------------------------------------------------------------------


def python(code, timeout=240):
    """Runs `code` in a process of its own. The bound is no measurement: a call that hangs must not hang the tests."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout)


def passes(code):
    done = python(code)
    assert done.returncode == 0, done.stdout + done.stderr


@every_layer
def test_python_threads(kind, threads):
    module, inputs = kind(I, 33, 2, bidirectional=True), [torch.randn(20, 5, I) for _ in range(8)]
    expected = [gradients(module, module(x)[0]) for x in inputs]
    found = [None] * len(inputs)

    def work(first):
        for _ in range(5):
            for i in range(first, len(inputs), 4):
                found[i] = gradients(module, module(inputs[i])[0])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)


def test_set_num_threads():
    module, x = rk.LSTM(64, 64), torch.randn(50, 32, 64)
    for n in (2, 1, 2):
        torch.set_num_threads(n)
        module(x)
        assert _C.last_kernel()["threads"] <= n
    assert _C.last_kernel()["threads"] == 2  # enough work for both


SETUP = """
import os, sys, torch, rnnkernels as rk
torch.manual_seed(0)
torch.set_num_threads(2)
module, x = rk.LSTM(64, 64), torch.randn(50, 32, 64)
def run():  # a gradient, that is both sweeps
    module.zero_grad()
    module(x)[0].sum().backward()
    return module.weight_hh_l0.grad.clone()
expected = run()
def as_expected(found):  # another number of threads sums in another order
    return (found - expected).abs().max() <= 1e-5 * expected.abs().max()
assert rk.info()["last_kernel"]["threads"] == 2
"""


def test_fork_after_use():
    passes(SETUP + """
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    os._exit(0 if as_expected(run()) else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.equal(run(), expected)
""")  # fmt: skip


def test_data_loader_workers():
    passes(SETUP + """
class Data(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return run().numpy()
for batch in torch.utils.data.DataLoader(Data(), batch_size=2, num_workers=2):
    assert as_expected(batch)
""")  # fmt: skip


def test_beside_two_busy_processes():
    """A barrier that spins would let each of some thousand ticks wait for a time slice."""
    passes(SETUP + """
import subprocess
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
try:
    for _ in range(20):
        assert torch.equal(run(), expected)
finally:
    for process in busy:
        process.kill()
""")  # fmt: skip


# -- no silent slow path -----------------------------------------------------------------------------------------------


def test_what_does_not_run_fused_warns_once_and_says_why():
    done = python("""
import warnings, torch, rnnkernels as rk
module, x = rk.GRU(2, 3), torch.randn(3, 2, 2, requires_grad=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        module(x)[0].sum().backward()
        (g,) = torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
        print(len([w for w in caught if "rnnkernels" in str(w.message)]))
        g.sum().backward()
print(*(w.message for w in caught if "rnnkernels" in str(w.message)), sep="\\n")
""")
    counts, messages = done.stdout.split("\n")[:3], done.stdout.strip().split("\n")[3:]
    assert counts == ["0", "1", "1"], done.stderr
    assert len(messages) == 1 and "double backward of gru" in messages[0]


def test_ordinary_use_warns_about_nothing():
    done = python("""
import warnings
warnings.simplefilter("error")
import torch, rnnkernels as rk
for kind in (rk.LSTM, rk.GRU, rk.RNN, rk.MinimalGRU):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        module = kind(3, 5, 2, bidirectional=True, dtype=dtype)
        module(torch.randn(4, 2, 3, dtype=dtype))[0].sum().backward()
        module(torch.nn.utils.rnn.pack_sequence([torch.randn(n, 3, dtype=dtype) for n in (2, 4)], enforce_sorted=False))
""")
    assert done.returncode == 0, done.stderr
