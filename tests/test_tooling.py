"""Tools that look into modules and graphs: exporters, serialisers, tracers, counters, initialisers."""

import io
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo import compiled_autograd
from torch.func import functional_call, grad, vmap
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

import rnnkernels as rk
from rnnkernels import functional, modules

LAYERS = [k for k in vars(rk).values() if isinstance(k, type) and issubclass(k, modules.layers.Recurrent)]
CELLS = [k for k in vars(rk).values() if isinstance(k, type) and issubclass(k, modules.cells.RecurrentCell)]
every_layer = pytest.mark.parametrize("kind", LAYERS, ids=lambda k: k.__name__)
every_cell = pytest.mark.parametrize("kind", CELLS, ids=lambda k: k.__name__)
controllers = pytest.mark.parametrize("controller", ["lstm", "feedforward"])
I, H, O = 3, 7, 2  # noqa: E741


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()


def machine(controller="lstm", **options):
    return rk.NTM(I, O, controller, controller_size=8, memory_rows=6, memory_width=4, **options)


def assert_same(actual, expected, **tolerances):
    for left, right in zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(left, right, **tolerances)


# -- export, files, torch.jit ------------------------------------------------------------------------------------------


class Everything(nn.Module):
    """Every layer, every Cell and a machine that goes on from its own state: one compilation for all of them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([kind(I, H) for kind in LAYERS])
        self.layers.append(rk.LSTM(I, H, 2, bidirectional=True, proj_size=2, zoneout_cell=0.0, batch_first=True))
        self.layers.append(rk.GRU(I, H, zoneout=0.1, bidirectional=True))
        self.cells = nn.ModuleList([kind(I, H) for kind in CELLS])
        self.machine = machine()

    def forward(self, x, lengths):
        results = [layer(x) for layer in self.layers] + [self.layers[-1](x, lengths=lengths)]
        y, state = self.machine(x)
        return results, [cell(x[0]) for cell in self.cells], self.machine(x, state)


@pytest.mark.filterwarnings("ignore")  # torch's own, of AOTInductor
def test_ahead_of_time_inductor(tmp_path):
    model, x, lengths = Everything().eval(), torch.randn(5, 4, I), torch.tensor([5, 0, 3, 1])
    with torch.no_grad():
        program = torch.export.export(model, (x, lengths))
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
        assert_same(torch._inductor.aoti_load_package(path)(x, lengths), model(x, lengths))


@controllers
def test_machines_are_exported_with_their_state(controller):
    model, x = machine(controller), torch.randn(5, 4, I)
    with torch.no_grad():
        state = model(x)[1]
        file = io.BytesIO()
        torch.export.save(torch.export.export(model, (x, state)), file)
        loaded = torch.export.load(io.BytesIO(file.getvalue())).module()
        y, after = loaded(x, state)
    assert type(after) is rk.NTMState
    assert_same((y, after), model(x, state))


@controllers
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_machines_are_traced_with_their_state(controller):
    model, x = machine(controller), torch.randn(5, 4, I)
    with torch.no_grad():
        state = model(x)[1]
        traced, file = torch.jit.trace(model, (x, state)), io.BytesIO()
        torch.jit.save(traced, file)
        loaded = torch.jit.load(io.BytesIO(file.getvalue()))
        for run in (traced, loaded):
            assert_same(run(x, state), model(x, state))


@controllers
def test_a_state_may_be_a_plain_tuple(controller):
    model, x = machine(controller), torch.randn(5, 4, I)
    state = model(x)[1]
    assert_same(model(x, tuple(state)), model(x, state))
    wrong = [3, (), state[:3], (state.memory,) * 4, ((state.memory,), *state[1:]), (*state[:3], None)]
    for bad in wrong:
        with pytest.raises(RuntimeError, match=r"^state: expected an NTMState, as forward returns, or .*, got "):
            model(x, bad)


def containers():
    """One of every named tuple of the public interface."""
    model, x = machine(), torch.randn(5, 4, I)
    *_, trace = model(x, return_trace=True)
    masks = rk.Masks(zoneout=torch.ones(5, 4, H))
    return {
        "NTMState": model(x)[1].detach(), "NTMTrace": trace, "Heads": trace.heads, "Masks": masks,
        "Options": rk.Options(zoneout=0.5, masks=masks), "Conventions": rk.Conventions(order="write_first"),
    }  # fmt: skip


def test_every_named_tuple_of_the_interface_is_registered():
    public = {k.__name__ for k in vars(rk).values() if isinstance(k, type) and issubclass(k, tuple)}
    assert public | {"Heads"} == set(containers())


@pytest.mark.parametrize("name", ["NTMState", "NTMTrace", "Heads", "Masks", "Options", "Conventions"])
def test_named_tuples_are_files(name):
    value, file = containers()[name], io.BytesIO()
    torch.save(value, file)
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    assert type(loaded) is type(value)
    leaves, spec = pytree.tree_flatten(value)
    again = pytree.treespec_loads(pytree.treespec_dumps(spec))
    assert type(pytree.tree_unflatten(leaves, again)) is type(value)
    for other in (loaded, pickle.loads(pickle.dumps(value))):
        for left, right in zip(pytree.tree_leaves(other), leaves, strict=True):
            assert torch.equal(left, right) if isinstance(right, torch.Tensor) else left == right


# -- torch.func and autograd inside torch.compile ----------------------------------------------------------------------


def loss(parameters, module, *args):
    return sum(t.square().sum() for t in pytree.tree_leaves(functional_call(module, parameters, args)))


def test_func_grad_is_compiled():
    module, x = Everything().double().eval(), torch.randn(5, 4, I, dtype=torch.float64)
    parameters, lengths = dict(module.named_parameters()), torch.tensor([5, 0, 3, 1])
    run = grad(lambda p, x: loss(p, module, x, lengths), argnums=(0, 1))
    assert_same(torch.compile(run, backend="aot_eager", fullgraph=True)(parameters, x), run(parameters, x))


@pytest.mark.parametrize("kind", [rk.LSTM, lambda *_: machine()], ids=["LSTM", "NTM"])
@pytest.mark.filterwarnings("ignore:rnnkernels. double backward")
def test_nested_transforms_are_compiled(kind):
    module, x = kind(I, H).double(), torch.randn(3, 2, I, dtype=torch.float64)
    parameters = {k: p.detach() for k, p in module.named_parameters()}
    per_sample = vmap(grad(lambda p, x: loss(p, module, x)), in_dims=(None, 1))
    twice = grad(lambda x: grad(lambda x: loss(parameters, module, x))(x).square().sum())
    compiled = torch.compile(lambda x: (per_sample(parameters, x), twice(x)), backend="aot_eager", fullgraph=True)
    assert_same(compiled(x), (per_sample(parameters, x), twice(x)))


def test_what_no_graph_computes_is_refused():
    module, x = rk.GRU(I, H), torch.randn(5, 4, I)

    def push(x):
        return torch.func.jvp(lambda x: module(x)[0], (x,), (x,))[1]

    with pytest.raises(RuntimeError, match="forward-mode derivative in compiled code"):
        torch.compile(push, backend="aot_eager")(x)
    twice = grad(lambda x: grad(lambda x: module(x)[0].square().sum())(x).square().sum())
    with pytest.raises(RuntimeError, match="at most two derivatives in compiled code"):  # the third: of parameters
        torch.compile(twice, backend="aot_eager")(x)


def gradients(module, *args):
    module.zero_grad()
    sum(t.square().sum() for t in pytree.tree_leaves(module(*args))).backward()
    return [p.grad for p in module.parameters()]


@pytest.mark.parametrize("kind", [rk.LayerNormLSTM, rk.GRUCell, lambda *_: machine()], ids=["layer", "cell", "NTM"])
def test_compiled_autograd(kind):
    module, x = kind(I, H).double(), torch.randn(5, 4, I, dtype=torch.float64)
    x = x[0] if isinstance(module, rk.GRUCell) else x
    with compiled_autograd._enable(torch.compile(backend="aot_eager")):
        compiled = gradients(module, x)
    assert_same(compiled, gradients(module, x))


def test_compiled_autograd_of_a_compiled_model():
    module, x = rk.LSTM(I, H).double(), torch.randn(5, 4, I, dtype=torch.float64)
    with torch._dynamo.config.patch(compiled_autograd=True):
        compiled = gradients(torch.compile(module, backend="aot_eager"), x)
    assert_same(compiled, gradients(module, x))


# -- torch.fx ----------------------------------------------------------------------------------------------------------


def is_called(graph, *targets):
    return [node.target for node in graph.graph.nodes if node.op == "call_module"] == list(targets)


@pytest.mark.parametrize("kind", [*LAYERS, *CELLS], ids=lambda k: k.__name__)
def test_layers_are_leaves_of_fx(kind):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(kind(I, H))

        def forward(self, x, *, seed):
            state = self.inner[0](x)
            state = state[1] if issubclass(kind, modules.layers.Recurrent) else state
            return self.inner[0](x, state, seed=seed)

    module, x = Twice(), torch.randn((4, I) if issubclass(kind, modules.cells.RecurrentCell) else (5, 4, I))
    traced, seed = torch.fx.symbolic_trace(module), torch.tensor(3)
    assert is_called(traced, "inner.0", "inner.0")
    assert_same(traced(x, seed=seed), module(x, seed=seed))
    assert_same(pickle.loads(pickle.dumps(traced))(x, seed=seed), module(x, seed=seed))


def test_keywords_of_leaves():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.machine = rk.LSTM(I, H, batch_first=True), machine(batch_first=True)

        def forward(self, x, lengths):
            y, state, every = self.layer(x, lengths=lengths, return_all=True)
            z, carried = self.machine(x, lengths=lengths)
            return y, state, every["c"], self.machine(x, carried, lengths)

    module, args = Model(), (torch.randn(4, 5, I), torch.tensor([5, 0, 3, 1]))
    traced = torch.fx.symbolic_trace(module)
    assert is_called(traced, "layer", "machine", "machine")
    assert_same(traced(*args), module(*args))


def test_what_cannot_be_a_leaf_says_so():
    class Own(rk.GRU):
        def forward(self, x):
            return super().forward(2 * x)

    with pytest.raises(TypeError, match="expected a module that contains the layer, got the GRU itself"):
        torch.fx.symbolic_trace(rk.GRU(I, H))
    with pytest.raises(TypeError, match="expected Own, which has a forward of its own, to be a leaf"):
        torch.fx.symbolic_trace(nn.Sequential(Own(I, H)))


# -- the flop counter --------------------------------------------------------------------------------------------------


def counted(run):
    with FlopCounterMode(display=False) as counter:
        result = run()
    return counter.get_total_flops(), result


def forward_and_backward(module, *args):
    forward, result = counted(lambda: module(*args))
    total = sum(t.sum() for t in pytree.tree_leaves(result))
    inputs = [*module.parameters(), *pytree.tree_leaves(args)]
    return forward, counted(lambda: torch.autograd.grad(total, inputs, allow_unused=True))[0]


def test_flops_are_those_of_torch():
    assert counted(lambda: rk.GRU(3, 7)(torch.randn(5, 4, 3)))[0] == 8400
    x, h = torch.randn(5, 4, I, requires_grad=True), torch.randn(2, 4, H, requires_grad=True)
    for theirs, ours in ((nn.GRU, rk.GRU), (nn.RNN, rk.RNN)):
        assert forward_and_backward(ours(I, H, 2), x, h) == forward_and_backward(theirs(I, H, 2), x, h)


@pytest.mark.filterwarnings("ignore:rnnkernels. .* runs in plain torch")
@pytest.mark.parametrize("kind", [*LAYERS, *CELLS], ids=lambda k: k.__name__)
def test_flops_of_every_cell(kind, monkeypatch):
    module, x = kind(I, H), torch.randn((4, I) if issubclass(kind, modules.cells.RecurrentCell) else (5, 4, I))
    state = module(x)
    state = state[1] if issubclass(kind, modules.layers.Recurrent) else state
    state = pytree.tree_map(lambda t: t.detach().requires_grad_(), state)
    fused = forward_and_backward(module, x.requires_grad_(), state)
    monkeypatch.setattr(functional, "has_kernel", lambda x: False)  # the plain reference, product by product
    for name in (module.cell, f"{module.cell}_cell"):
        monkeypatch.delattr(torch, name, raising=False)
    assert min(fused) > 0
    assert fused == forward_and_backward(module, x, state)


@controllers
@pytest.mark.filterwarnings("ignore:rnnkernels. .* runs in plain torch")
@pytest.mark.parametrize("recompute", [False, True])
def test_flops_of_machines(controller, recompute, monkeypatch):
    module = machine(controller, controller_layers=2, read_heads=2, shift_range=2, recompute=recompute)
    x = torch.randn(5, 4, I, requires_grad=True)
    state = pytree.tree_map(lambda t: t.detach().requires_grad_(), module(x)[1])
    fused = forward_and_backward(module, x, state)
    monkeypatch.setattr(functional, "has_kernel", lambda x: False)
    forward, backward = forward_and_backward(module, x, state)
    assert fused == (forward, backward + recompute * forward)
    c = module.conventions
    step = (torch.randn(4, c.parameters(4)), state.memory.detach(), state.weightings.detach())
    monkeypatch.undo()
    fused = counted(lambda: functional.ntm_step(*step, c))[0]
    monkeypatch.setattr(functional, "has_kernel", lambda x: False)
    assert fused == counted(lambda: functional.ntm_step(*step, c))[0] > 0


# -- what tools ask of torch.nn's layers -------------------------------------------------------------------------------

PAIRS = [(nn.RNN, rk.RNN), (nn.LSTM, rk.LSTM), (nn.GRU, rk.GRU)]
NAMES = ("_all_weights", "_flat_weights_names", "_flat_weights")


@pytest.mark.parametrize("theirs, ours", PAIRS, ids=["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}, {"bias": False}, {"proj_size": 2}],
    ids=str,
)
def test_names_and_checks_are_those_of_torch(theirs, ours, options):
    if "proj_size" in options and theirs is not nn.LSTM:
        pytest.skip("only LSTM projects")
    theirs, ours = theirs(I, H, **options), ours(I, H, **options)
    ours.load_state_dict(theirs.state_dict())
    for name in NAMES:
        assert_same(getattr(ours, name), getattr(theirs, name), atol=0, rtol=0) if name == "_flat_weights" else None
        assert name == "_flat_weights" or getattr(ours, name) == getattr(theirs, name)
        with pytest.raises(AttributeError):
            setattr(ours, name, [])
    batch, packed = torch.randn(5, 4, I), torch.randn(9, I)
    for x, sizes in ((batch, None), (packed, torch.tensor([4, 3, 2]))):
        for name in ("get_expected_hidden_size", *["get_expected_cell_size"] * isinstance(theirs, nn.LSTM)):
            assert getattr(ours, name)(x, sizes) == getattr(theirs, name)(x, sizes)
        hx = torch.randn(theirs.get_expected_hidden_size(x, sizes))
        if isinstance(theirs, nn.LSTM):
            hx = (hx, torch.randn(theirs.get_expected_cell_size(x, sizes)))
        order = torch.randperm(theirs.get_expected_hidden_size(x, sizes)[1])
        assert_same(ours.permute_hidden(hx, order), theirs.permute_hidden(hx, order), atol=0, rtol=0)
        assert ours.permute_hidden(hx, None) is hx
        wrong = [
            (x[..., :2], hx, sizes), (x[0], hx, sizes), (x.double(), hx, sizes), (x.unsqueeze(0), hx, sizes),
            (x, pytree.tree_map(lambda t: t[:, 1:], hx), sizes),
        ]  # fmt: skip
        for layer in (theirs, ours):
            layer.check_input(x, sizes)
            layer.check_forward_args(x, hx, sizes)
            for bad in wrong:
                with pytest.raises((ValueError, RuntimeError)):
                    layer.check_forward_args(*bad)
            for bad in wrong[:-1]:
                with pytest.raises((ValueError, RuntimeError)):
                    layer.check_input(bad[0], sizes)


@every_layer
def test_names_and_checks_of_every_layer(kind):
    layer, x = kind(I, H, 2, bidirectional=True, learn_reset_state=True), torch.randn(5, 4, I)
    assert layer._flat_weights_names == [name for name, _ in layer.named_parameters()]
    assert all(a is b for a, b in zip(layer._flat_weights, layer.parameters(), strict=True))
    assert [[getattr(layer, name) for name in names] for names in layer._all_weights] == layer.all_weights
    state = layer(x)[1]
    layer.check_input(x, None)
    layer.check_forward_args(x, state, None)
    assert layer.get_expected_hidden_size(x, None) == (4, 4, H)
    order = torch.tensor([2, 0, 3, 1])
    there_and_back = layer.permute_hidden(layer.permute_hidden(state, order), order.argsort())
    assert_same(there_and_back, state, atol=0, rtol=0)
    with pytest.raises(RuntimeError, match="^hx: expected "):
        layer.check_forward_args(x[:, 1:], state, None)


def test_names_follow_what_tools_did_to_the_parameters():
    layer = rk.LSTM(I, H)
    nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    assert layer._flat_weights_names == nn.LSTM(I, H)._flat_weights_names
    torch.testing.assert_close(layer._flat_weights[1], layer.weight_hh_l0)
    layer.weight_ih_l0 = nn.Parameter(torch.zeros(4 * H, I))
    assert layer._flat_weights[0] is layer.weight_ih_l0


# -- tools that ask for classes of torch.nn: the recipes of docs/tools.md ----------------------------------------------


class Wrapper(nn.Module):
    """As wrappers of other libraries check what they are given."""

    def __init__(self, lstm):
        super().__init__()
        if not isinstance(lstm, nn.LSTM):
            raise TypeError(f"expected an nn.LSTM, got {type(lstm).__name__}")
        self.lstm = lstm

    def forward(self, x):
        return self.lstm(x)[0]


def test_convert_after_what_asks_for_the_class():
    model, x = Wrapper(nn.LSTM(I, H)), torch.randn(5, 4, I)
    for m in model.modules():
        if isinstance(m, nn.LSTM):
            nn.init.orthogonal_(m.weight_hh_l0)
    weight, expected = model.lstm.weight_hh_l0, model(x)
    model = rk.convert(model)
    assert type(model.lstm) is rk.LSTM
    assert model.lstm.weight_hh_l0 is weight
    torch.testing.assert_close(weight.T @ weight, torch.eye(H))
    torch.testing.assert_close(model(x), expected)


@pytest.mark.filterwarnings("ignore")  # torch's own, of quantisation
def test_convert_back_before_quantisation():
    model, x = nn.Sequential(rk.LSTM(I, H)), torch.randn(5, 4, I)
    if not torch.backends.quantized.supported_engines:
        pytest.skip("this build of torch cannot quantise")
    quantize = torch.ao.quantization.quantize_dynamic
    assert type(quantize(model, {nn.LSTM})[0]) is rk.LSTM  # passed over, which docs/tools.md warns of
    expected = model(x)[0]
    quantised = quantize(rk.convert(model, to="torch"), {nn.LSTM})
    assert type(quantised[0]) is torch.ao.nn.quantized.dynamic.LSTM
    torch.testing.assert_close(quantised(x)[0], expected, atol=0.05, rtol=0)


def test_layers_are_no_subclasses_since_dynamo_breaks_the_graph_at_those():
    class Sub(nn.GRU):
        pass

    for kind in (*LAYERS, *CELLS):
        assert not issubclass(kind, (nn.RNNBase, nn.RNNCellBase))
    x = torch.randn(5, 4, I)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="(?i)rnn"):
        torch.compile(Sub(I, H), backend="eager", fullgraph=True)(x)
    torch.compile(rk.GRU(I, H), backend="eager", fullgraph=True)(x)
