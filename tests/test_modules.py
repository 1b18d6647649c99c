"""The modules against torch.nn's: numbers, parameters, initialisation, what users do with a module, and mistakes."""

import copy
import io
import pickle
import re
import warnings
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import rnnkernels as rk
from rnnkernels import functional, modules, reference
from rnnkernels.testing import assert_as_good_as, expected

LAYERS = [k for k in vars(rk).values() if isinstance(k, type) and issubclass(k, modules.recurrent.Recurrent)]
CELLS = [k for k in vars(rk).values() if isinstance(k, type) and issubclass(k, modules.cells.RecurrentCell)]
PAIRS = [(kind, getattr(nn, kind.__name__)) for kind in LAYERS if hasattr(nn, kind.__name__)]
CELL_PAIRS = [(kind, getattr(nn, kind.__name__)) for kind in CELLS if hasattr(nn, kind.__name__)]
by_name = {"ids": lambda v: v.__name__ if isinstance(v, type) else None}
every_layer = pytest.mark.parametrize("kind", LAYERS, **by_name)
every_pair = pytest.mark.parametrize("ours, theirs", PAIRS, **by_name)
every_cell_pair = pytest.mark.parametrize("ours, theirs", CELL_PAIRS, **by_name)

T, B, I, H = 5, 4, 3, 7  # noqa: E741
LENGTHS = {"sorted": [5, 5, 3, 1], "unsorted": [1, 5, 3, 5]}


def constructor_combinations():
    for (ours, theirs), layers, bidirectional, batch_first, bias, dropout in product(
        PAIRS, (1, 2, 3), (False, True), (False, True), (False, True), (0.0, 0.5)
    ):
        if dropout and layers == 1:
            continue
        options = {
            "num_layers": layers,
            "bidirectional": bidirectional,
            "batch_first": batch_first,
            "bias": bias,
            "dropout": dropout,
        }
        own = [{"proj_size": 0}, {"proj_size": 4}] if ours is rk.LSTM else [{}]
        own = [{"nonlinearity": "tanh"}, {"nonlinearity": "relu"}] if ours is rk.RNN else own
        for extra in own:
            text = ",".join(f"{k}={v}" for k, v in (options | extra).items())
            yield pytest.param(ours, theirs, options | extra, id=f"{ours.__name__}({text})")


def pair(ours, theirs, *args, **options):
    """Both modules with the same parameters, drawn from one seed."""
    torch.manual_seed(7)
    a = ours(*args, **options)
    torch.manual_seed(7)
    b = theirs(*args, **options)
    return a.eval(), b.eval()


def data(layout, options=(), dtype=torch.float32):
    """An input of one kind, and its batch axis's size (None: unbatched)."""
    options = dict(options)
    x = torch.randn(T, B, I, dtype=torch.float64).float().to(dtype)
    if layout == "unbatched":
        return x[:, 0]
    if layout in LENGTHS:
        return pack_padded_sequence(x, LENGTHS[layout], enforce_sorted=layout == "sorted")
    return x.transpose(0, 1).contiguous() if options.get("batch_first") else x


def first_states(module, layout):
    """Random states, shaped as the module's own and of its dtype."""
    dtype = next(module.parameters()).dtype
    x = torch.zeros(1, I, dtype=dtype) if layout == "unbatched" else torch.zeros(1, B, I, dtype=dtype)
    if getattr(module, "batch_first", False) and layout != "unbatched":
        x = x.transpose(0, 1)
    with torch.no_grad():
        state = module(x)[1]
    if isinstance(state, tuple):
        return tuple(torch.randn(s.shape).to(dtype) for s in state)
    return torch.randn(state.shape).to(dtype)


def flatten(value):
    if isinstance(value, PackedSequence):
        return [value.data]
    return [value] if isinstance(value, torch.Tensor) else [t for v in value for t in flatten(v)]


def to(value, dtype):
    """`value` in `dtype`, as leaves that want gradients."""
    if isinstance(value, PackedSequence):
        return value._replace(data=to(value.data, dtype))
    if isinstance(value, tuple):
        return tuple(to(v, dtype) for v in value)
    return None if value is None else value.detach().to(dtype).requires_grad_()


def everything(module, x, hx, dtype):
    """Outputs, states, and the gradients of their weighted sum by every parameter and input."""
    x, hx = to(x, dtype), to(hx, dtype)
    results = flatten(module(x, hx))
    leaves = [*module.parameters(), *flatten(x), *(flatten(hx) if hx is not None else [])]
    torch.manual_seed(3)
    weights = [torch.randn(r.shape) for r in results]
    return [r.detach() for r in results], torch.autograd.grad(results, leaves, [w.to(dtype) for w in weights])


def assert_equal(ours, theirs, x, hx):
    """Numbers and gradients by the error rule, against torch.nn in float64."""
    results, gradients = everything(ours, x, hx, torch.float32)
    exact = copy.deepcopy(theirs).double()
    wanted = expected(lambda: sum(map(list, everything(exact, x, hx, torch.float64)), []))
    for i, (a, e) in enumerate(zip([*results, *gradients], wanted, strict=True)):
        assert_as_good_as(a, e, f"{i}")


@pytest.mark.parametrize("ours, theirs, options", list(constructor_combinations()))
def test_every_constructor_combination(ours, theirs, options):
    a, b = pair(ours, theirs, I, H, **options)
    assert list(a.state_dict()) == list(b.state_dict()) and repr(a) == repr(b)
    for mine, other in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(mine, other)
    for i, layout in enumerate(("batched", "unbatched", "sorted", "unsorted")):
        # Every layout with every option, hx where the other layouts of the same module have none.
        given = (i + options["num_layers"] + options["bias"]) % 2
        assert_equal(a, b, data(layout, options), first_states(b, layout) if given else None)


@every_pair
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_device_and_dtype(ours, theirs, dtype):
    a, b = pair(ours, theirs, I, H, num_layers=2, bidirectional=True, device="cpu", dtype=dtype)
    wide, x = copy.deepcopy(b).double(), data("batched", dtype=dtype)
    for actual, exact in zip(flatten(a(x)), flatten(wide(x.double())), strict=True):
        assert actual.dtype == dtype
        if dtype == torch.float64:
            torch.testing.assert_close(actual, exact, rtol=1e-13, atol=1e-14)
        else:  # a layer's output is rounded before the next one reads it: some units in the last place
            assert (actual.double() - exact).abs().max() <= 4 * torch.finfo(dtype).eps


@every_pair
def test_state_dict_both_ways(ours, theirs):
    a, b = ours(I, H, 2, bidirectional=True), theirs(I, H, 2, bidirectional=True)
    x = data("batched")
    assert not torch.allclose(a(x)[0], b(x)[0])
    assert not any(a.load_state_dict(b.state_dict()))
    assert_equal(a, b, x, None)
    for p in a.parameters():
        nn.init.uniform_(p, -0.5, 0.5)
    assert not any(b.load_state_dict(a.state_dict()))
    assert_equal(a, b, x, None)


@every_layer
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True, "bias": False}, {"batch_first": True}], ids=str
)
def test_stack_is_made_of_reference_layers(kind, options, monkeypatch):
    """The walk through the stack with the kernels and with the reference: all there is for cells torch.nn has not.

    In float64, where only a wrong walk is far off; the error rule in float32 is each cell's own tests' matter.
    """
    module = kind(I, H, **options).double()
    stacks = {}
    for layout in ("batched", "unbatched", "unsorted"):
        x, hx = data(layout, options, dtype=torch.float64), first_states(module, layout)
        stacks[layout] = x, hx, everything(module, x, hx, torch.float64)
    monkeypatch.setattr(functional, "layer", reference.layer)
    for x, hx, actual in stacks.values():
        torch.testing.assert_close(actual, everything(module, x, hx, torch.float64), rtol=1e-9, atol=1e-10)


@every_layer
def test_dropout_acts_between_layers_while_training(kind):
    module = kind(I, H, 2, dropout=1.0)
    x = data("batched")
    first = module(x)[0]
    assert torch.equal(first, module(torch.randn_like(x))[0])  # the second layer sees nothing at all
    module.eval()
    assert not torch.equal(first, module(x)[0])
    half = kind(I, H, 2, dropout=0.5)
    torch.manual_seed(1)
    one = half(x)[0]
    torch.manual_seed(1)
    assert torch.equal(one, half(x)[0]) and not torch.equal(one, half(x)[0])


@every_pair
def test_dropout_draws_as_torch_does(ours, theirs):
    a, b = pair(ours, theirs, I, H, 3, dropout=0.5)
    a.train(), b.train()
    x = data("batched")
    torch.manual_seed(5)
    mine = a(x)[0]
    torch.manual_seed(5)
    torch.testing.assert_close(mine, b(x)[0])


def test_dropout_on_one_layer_warns_as_torch_does():
    for kind in (nn.GRU, rk.GRU):
        with pytest.warns(UserWarning, match="dropout"):
            kind(I, H, dropout=0.5)


@every_pair
@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_sequences(ours, theirs, enforce_sorted):
    a, b = pair(ours, theirs, I, H, 2, bidirectional=True)
    rows = [torch.randn(n, I) for n in ([5, 4, 4, 2] if enforce_sorted else [2, 5, 4, 4])]
    packed = pack_sequence(rows, enforce_sorted=enforce_sorted)
    (mine, state), (other, other_state) = a(packed), b(packed)
    for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        left, right = getattr(mine, field), getattr(other, field)
        assert left is right is None or torch.equal(left, right)
    padded, lengths = pad_packed_sequence(mine)
    torch.testing.assert_close(padded, pad_packed_sequence(other)[0])
    for i, row in enumerate(rows):  # each row as if it were alone
        alone, alone_state = a(row)
        torch.testing.assert_close(padded[: len(row), i], alone)
        for s, t in zip(flatten(state), flatten(alone_state), strict=True):
            torch.testing.assert_close(s[:, i], t)
    for s, t in zip(flatten(state), flatten(other_state), strict=True):
        torch.testing.assert_close(s, t)


@every_layer
def test_empty_batch(kind):
    module = kind(I, H, 2, bidirectional=True)
    x = torch.empty(T, 0, I, requires_grad=True)
    out, state = module(x)
    full = flatten(module(torch.zeros(T, B, I))[1])
    assert out.shape == (T, 0, 2 * H)
    assert [s.shape for s in flatten(state)] == [(s.size(0), 0, s.size(2)) for s in full]
    out.sum().backward()
    assert x.grad.shape == x.shape and not any(p.grad.any() for p in module.parameters())


# -- what users do with modules ----------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies(kind, way):
    module = kind(I, H, 2, bidirectional=True, bias=False).eval()
    if way == "deepcopy":
        twin = copy.deepcopy(module)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(module))
    else:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    x = data("batched")
    assert torch.equal(twin(x)[0], module(x)[0]) and repr(twin) == repr(module) and not twin.training
    with torch.no_grad():
        twin.weight_hh_l0.zero_()
    assert not torch.equal(twin(x)[0], module(x)[0])


@every_layer
def test_all_weights_and_flatten_parameters(kind):
    module = kind(I, H, 2, bidirectional=True)
    weights = [w for group in module.all_weights for w in group]
    assert len(module.all_weights) == 4 and len({len(group) for group in module.all_weights}) == 1
    assert all(w is p for w, p in zip(weights, module.parameters(), strict=True))
    assert module.flatten_parameters() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.weight_hh_l0 = nn.Parameter(module.weight_hh_l0.detach().clone())  # no flat-weight contract
        module(data("batched"))
    assert module.all_weights[0][1] is module.weight_hh_l0


@every_pair
def test_parametrize(ours, theirs):
    class Double(nn.Module):
        def forward(self, w):
            return w + w

    a, b = pair(ours, theirs, I, H)
    parametrize.register_parametrization(a, "weight_hh_l0", Double())
    with torch.no_grad():
        b.weight_hh_l0.mul_(2)
    x = data("batched")
    torch.testing.assert_close(a(x)[0], b(x)[0])
    a(x)[0].sum().backward()
    b(x)[0].sum().backward()
    torch.testing.assert_close(a.parametrizations.weight_hh_l0.original.grad, 2 * b.weight_hh_l0.grad)


@every_pair
@pytest.mark.parametrize("old", [False, True], ids=["parametrization", "hook"])
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_weight_norm(ours, theirs, old):
    a, b = pair(ours, theirs, I, H)
    norm = nn.utils.weight_norm if old else parametrizations.weight_norm
    norm(a, "weight_hh_l0")
    norm(a, "weight_ih_l0")
    x = data("batched")
    torch.testing.assert_close(a(x)[0], b(x)[0])
    optimizer = torch.optim.SGD(a.parameters(), lr=0.1)
    a(x)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in a.parameters())
    before = a(x)[0].detach()
    optimizer.step()
    assert not torch.allclose(a(x)[0], before)


@every_pair
def test_tied_parameters(ours, theirs):
    a, b = pair(ours, theirs, H, H, 2)
    for module in (a, b):
        module.weight_hh_l1, module.weight_ih_l1 = module.weight_hh_l0, module.weight_ih_l0
    x = torch.randn(T, B, H)
    assert len(list(a.parameters())) == len(list(b.parameters())) == 6
    for module in (a, b):
        module.zero_grad()
        module(x)[0].square().sum().backward()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    with torch.no_grad():
        a.weight_hh_l0.zero_()
    assert a.weight_hh_l1.abs().sum() == 0


@every_layer
def test_training_changes_what_it_computes(kind):
    module = kind(I, H)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    x, losses = data("batched"), []
    for _ in range(30):
        loss = (module(x)[0] - 0.3).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@every_layer
def test_frozen_parameters_get_no_gradient(kind):
    module = kind(I, H)
    module.weight_hh_l0.requires_grad_(False)
    module(data("batched"))[0].sum().backward()
    assert module.weight_hh_l0.grad is None and module.weight_ih_l0.grad is not None
    module.requires_grad_(False)
    assert not module(data("batched"))[0].requires_grad


@every_layer
def test_docstrings_say_what_a_user_needs(kind):
    text = kind.__doc__
    assert "Args" in text and "Source" in text and "weight_hh" in text


# -- one tick ----------------------------------------------------------------------------------------------------------


def cell_options():
    for (ours, theirs), bias in product(CELL_PAIRS, (True, False)):
        for extra in [{"nonlinearity": "relu"}, {}] if ours is rk.RNNCell else [{}]:
            yield pytest.param(ours, theirs, {"bias": bias} | extra, id=f"{ours.__name__}({bias},{extra})")


@pytest.mark.parametrize("ours, theirs, options", list(cell_options()))
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("rows", [(), (0,), (1,), (B,)], ids=str)
def test_cells(ours, theirs, options, given, rows):
    a, b = pair(ours, theirs, I, H, **options)
    assert repr(a) == repr(b) and list(a.state_dict()) == list(b.state_dict())
    for mine, other in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(mine, other)
    x = torch.randn(*rows, I)
    hx = tuple(torch.randn(*rows, H) for _ in range(1 + (ours is rk.LSTMCell))) if given else None
    hx = hx[0] if hx and len(hx) == 1 else hx
    assert type(a(x, hx)) is type(b(x, hx))
    assert_equal(a, b, x, hx)


@pytest.mark.parametrize("kind", CELLS, **by_name)
def test_a_layer_is_its_cell_ticked(kind):
    cell = kind(I, H)
    layer = getattr(rk, kind.__name__.removesuffix("Cell"))(I, H)
    for name, p in cell.named_parameters():
        getattr(layer, f"{name}_l0").data = p.data
    x, hx = torch.randn(T, B, I), None
    for t in range(T):
        hx = cell(x[t], hx)
    for ticked, whole in zip(flatten(hx), flatten(layer(x)[1]), strict=True):
        torch.testing.assert_close(ticked, whole[0])


# -- mistakes ----------------------------------------------------------------------------------------------------------

# A mistake, made on a class of torch.nn or of this package, and what its message must name.
CONSTRUCTOR_MISTAKES = {
    "hidden_size 0": ({"hidden_size": 0}, "hidden_size"),
    "input_size 0": ({"input_size": 0}, "input_size"),
    "hidden_size -1": ({"hidden_size": -1}, "hidden_size"),
    "hidden_size 2.5": ({"hidden_size": 2.5}, "hidden_size"),
    "hidden_size text": ({"hidden_size": "7"}, "hidden_size"),
    "input_size 2.5": ({"input_size": 2.5}, "input_size"),
    "num_layers 0": ({"num_layers": 0}, "num_layers"),
    "dropout 1.5": ({"dropout": 1.5}, "dropout"),
    "dropout -1": ({"dropout": -1}, "dropout"),
    "dropout text": ({"dropout": "much"}, "dropout"),
    "dropout True": ({"dropout": True}, "dropout"),
    "bias 1": ({"bias": 1}, "bias"),
    "batch_first 1": ({"batch_first": 1}, "batch_first"),
    "proj_size -1": ({"proj_size": -1}, "proj_size"),
    "proj_size H": ({"proj_size": H}, "proj_size"),
    "unknown option": ({"hidden": 3}, "hidden"),
}


def double_states(h):
    return (h, h.clone())


def states_of(module, h):
    return double_states(h) if "LSTM" in type(module).__name__ else h


FORWARD_MISTAKES = {
    "rank 1": (lambda m: m(torch.zeros(I)), "input"),
    "rank 4": (lambda m: m(torch.zeros(1, T, B, I)), "input"),
    "wrong features": (lambda m: m(torch.zeros(T, B, I + 1)), "input"),
    "wrong features unbatched": (lambda m: m(torch.zeros(T, I + 1)), "input"),
    "no ticks": (lambda m: m(torch.zeros(0, B, I)), "input"),
    "float64 input": (lambda m: m(torch.zeros(T, B, I, dtype=torch.float64)), "input"),
    "integer input": (lambda m: m(torch.zeros(T, B, I, dtype=torch.int64)), "input"),
    "hx of wrong batch": (lambda m: m(torch.zeros(T, B, I), states_of(m, torch.zeros(1, B + 1, H))), "hx"),
    "hx of wrong layers": (lambda m: m(torch.zeros(T, B, I), states_of(m, torch.zeros(2, B, H))), "hx"),
    "hx of wrong units": (lambda m: m(torch.zeros(T, B, I), states_of(m, torch.zeros(1, B, H + 1))), "hx"),
    "hx unbatched": (lambda m: m(torch.zeros(T, B, I), states_of(m, torch.zeros(1, H))), "hx"),
    "hx batched, input not": (lambda m: m(torch.zeros(T, I), states_of(m, torch.zeros(1, 1, H))), "hx"),
    "hx float64": (lambda m: m(torch.zeros(T, B, I), states_of(m, torch.zeros(1, B, H, dtype=torch.float64))), "h"),
    "hx of a packed batch": (
        lambda m: m(pack_sequence([torch.zeros(3, I), torch.zeros(2, I)]), states_of(m, torch.zeros(1, 3, H))),
        "hx",
    ),
    "packed, wrong features": (lambda m: m(pack_sequence([torch.zeros(3, I + 1)])), "input"),
    "packed of rank 3": (lambda m: m(PackedSequence(torch.zeros(3, 1, I), torch.tensor([1, 1, 1]))), "input"),
    "packed, growing": (lambda m: m(PackedSequence(torch.zeros(3, I), torch.tensor([1, 2]))), "batch_sizes"),
    "packed, too many": (lambda m: m(PackedSequence(torch.zeros(3, I), torch.tensor([2, 2]))), "batch_sizes"),
}

LSTM_MISTAKES = {
    "hx one tensor of rank 3": (lambda m: m(torch.zeros(T, B, I), torch.zeros(1, B, H)), "hx"),
    "hx of three": (lambda m: m(torch.zeros(T, B, I), (torch.zeros(1, B, H),) * 3), "hx"),
    "c of wrong units": (lambda m: m(torch.zeros(T, B, I), (torch.zeros(1, B, H), torch.zeros(1, B, H + 1))), "hx"),
}

CELL_MISTAKES = {
    "rank 0": (lambda m: m(torch.tensor(0.0)), "input"),
    "rank 3": (lambda m: m(torch.zeros(1, B, I)), "input"),
    "wrong features": (lambda m: m(torch.zeros(B, I + 1)), "input"),
    "float64 input": (lambda m: m(torch.zeros(B, I, dtype=torch.float64)), "input"),
    "integer input": (lambda m: m(torch.zeros(B, I, dtype=torch.int64)), "input"),
    "hx of wrong batch": (lambda m: m(torch.zeros(B, I), states_of(m, torch.zeros(B + 1, H))), "hx"),
    "hx of wrong units": (lambda m: m(torch.zeros(B, I), states_of(m, torch.zeros(B, H + 1))), "hx"),
    "hx of rank 3": (lambda m: m(torch.zeros(B, I), states_of(m, torch.zeros(1, B, H))), "hx"),
    "hx float64": (lambda m: m(torch.zeros(B, I), states_of(m, torch.zeros(B, H, dtype=torch.float64))), "h"),
}


def same_exception(make, ours, theirs, word):
    """The type torch.nn raises for a mistake is the one raised here, with one line that names the argument."""
    try:
        make(theirs)
        expected = (ValueError, RuntimeError)  # torch.nn takes it; no wrong number here
    except Exception as error:
        expected = (type(error),)
    with pytest.raises(expected) as raised:
        make(ours)
    assert raised.type in expected, f"{raised.type.__name__}, torch.nn raises {expected[0].__name__}"
    text = str(raised.value)
    assert len(text.splitlines()) == 1 and re.search(word, text), text


@every_pair
@pytest.mark.parametrize("options, word", CONSTRUCTOR_MISTAKES.values(), ids=CONSTRUCTOR_MISTAKES.keys())
def test_constructor_mistakes(ours, theirs, options, word):
    same_exception(lambda kind: kind(**({"input_size": I, "hidden_size": H} | options)), ours, theirs, word)


def test_projection_is_for_lstm_only():
    for ours, theirs in PAIRS:
        if ours is not rk.LSTM:
            same_exception(lambda kind: kind(I, H, proj_size=3), ours, theirs, "proj_size")


def test_unknown_nonlinearity():
    same_exception(lambda kind: kind(I, H, nonlinearity="sine"), rk.RNN, nn.RNN, "nonlinearity")
    same_exception(
        lambda kind: kind(I, H, nonlinearity="sine")(torch.zeros(B, I)), rk.RNNCell, nn.RNNCell, "nonlinearity"
    )


@every_pair
@pytest.mark.parametrize("make, word", FORWARD_MISTAKES.values(), ids=FORWARD_MISTAKES.keys())
def test_mistakes(ours, theirs, make, word):
    same_exception(make, ours(I, H), theirs(I, H), word)


@pytest.mark.parametrize("make, word", LSTM_MISTAKES.values(), ids=LSTM_MISTAKES.keys())
def test_lstm_mistakes(make, word):
    same_exception(make, rk.LSTM(I, H), nn.LSTM(I, H), word)


@every_cell_pair
@pytest.mark.parametrize("make, word", CELL_MISTAKES.values(), ids=CELL_MISTAKES.keys())
def test_cell_mistakes(ours, theirs, make, word):
    same_exception(make, ours(I, H), theirs(I, H), word)


def test_lstm_cell_wants_a_pair():
    for hx in (torch.zeros(B, H), (torch.zeros(B, H),) * 3):
        same_exception(lambda m, hx=hx: m(torch.zeros(B, I), hx), rk.LSTMCell(I, H), nn.LSTMCell(I, H), "hx")


@every_layer
def test_devices_may_not_mix(kind):
    module = kind(I, H)
    with pytest.raises(RuntimeError, match="^input: expected device cpu.*got meta$"):
        module(torch.zeros(T, B, I, device="meta"))
    state = module(torch.zeros(T, B, I))[1]
    elsewhere = tuple(s.to("meta") for s in state) if isinstance(state, tuple) else state.to("meta")
    with pytest.raises(RuntimeError, match="^hx: expected device cpu.*got meta$"):
        module(torch.zeros(T, B, I), elsewhere)


@every_layer
def test_meta_device(kind):
    module = kind(I, H, 2, bidirectional=True, device="meta")
    out, state = module(torch.zeros(T, B, I, device="meta"))
    expected = kind(I, H, 2, bidirectional=True)(torch.zeros(T, B, I))[1]
    assert out.shape == (T, B, 2 * H) and all(s.is_meta for s in (out, *flatten(state)))
    assert [s.shape for s in flatten(state)] == [s.shape for s in flatten(expected)]
