"""`convert`: the same Parameters, hooks and modes in a module of the other package, and a word about what stays."""

import copy
import gc
import sys
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import rnnkernels as rk
from rnnkernels.modules import Conversion
from rnnkernels.modules.base import Base

KINDS = ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"]
every_kind = pytest.mark.parametrize("kind", KINDS)
both_ways = pytest.mark.parametrize(
    "source, target, to", [(nn, rk, "rnnkernels"), (rk, nn, "torch")], ids=["there", "back"]
)

I, H = 3, 7  # noqa: E741


def options(kind):
    return {} if "Cell" in kind else {"num_layers": 2, "bidirectional": True, "dropout": 0.1}


def sample(kind):
    return torch.randn(4, I) if "Cell" in kind else torch.randn(5, 4, I)


def first(result):
    return result if isinstance(result, torch.Tensor) else result[0]


@every_kind
@both_ways
def test_the_very_same_parameters(kind, source, target, to):
    old = getattr(source, kind)(I, H, **options(kind)).eval()
    names = dict(old.named_parameters())
    report = []
    new = rk.convert(old, to, report)
    there, back = (f"{package.__name__}.{kind}" for package in (source, target))
    assert type(new) is getattr(target, kind) and report == [Conversion("", there, back, None)]
    assert list(names) == [name for name, _ in new.named_parameters()] and not new.training
    assert all(p is names[name] for name, p in new.named_parameters())
    assert repr(new) == repr(old)
    x = sample(kind)
    torch.testing.assert_close(first(new(x)), first(old(x)))
    first(new(x)).sum().backward()
    assert all(p.grad is not None for p in names.values())
    with torch.no_grad():
        names[next(iter(names))].zero_()
    torch.testing.assert_close(first(new(x)), first(old(x)))


@every_kind
def test_there_and_back(kind):
    old = getattr(nn, kind)(I, H, **options(kind)).eval()
    again = rk.convert(rk.convert(old), to="torch")
    assert type(again) is type(old)
    x = sample(kind)
    assert torch.equal(first(again(x)), first(old(x)))
    assert torch.equal(first(copy.deepcopy(again)(x)), first(old(x)))
    again.load_state_dict(old.state_dict())
    again.to(torch.float64)
    assert first(again(x.double())).dtype == torch.float64


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.LSTM(I, H, batch_first=True)
        self.rest = nn.ModuleDict({"a": nn.Sequential(nn.Linear(H, I), nn.GRU(I, H)), "cell": nn.GRUCell(H, H)})
        self.again = self.first  # registered twice

    def forward(self, x):
        x = self.rest["a"](self.first(x)[0])[0]
        return self.rest["cell"](x[0], self.again(x[..., :I])[0][0])


def test_inside_a_model():
    model = Model()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, 4, I)
    expected = model(x).detach()
    report = []
    assert rk.convert(model, report=report) is model
    assert [str(c) for c in report] == [
        "first: torch.nn.LSTM -> rnnkernels.LSTM",
        "rest.a.1: torch.nn.GRU -> rnnkernels.GRU",
        "rest.cell: torch.nn.GRUCell -> rnnkernels.GRUCell",
    ]
    assert type(model.first) is rk.LSTM and model.again is model.first and type(model.rest["a"][1]) is rk.GRU
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    torch.testing.assert_close(model(x).detach(), expected)
    model(x).sum().backward()
    optimizer.step()
    assert not torch.allclose(model(x), expected)
    rk.convert(model, to="torch")
    assert type(model.first) is nn.LSTM and model.again is model.first


def test_nothing_to_convert():
    model = nn.Linear(2, 2)
    report = []
    assert rk.convert(model, report=report) is model and report == []
    ours = rk.GRU(I, H)
    assert rk.convert(ours) is ours


@both_ways
def test_hooks_and_modes_go_along(source, target, to):
    model = nn.Sequential(source.GRU(I, H)).eval()
    calls = []
    handle = model[0].register_forward_hook(lambda m, args, out: calls.append(type(m)))
    model[0].register_forward_pre_hook(lambda m, args: calls.append("before"))
    model[0].register_full_backward_hook(lambda m, grads, outs: calls.append("backward"))
    model[0].weight_hh_l0.register_hook(lambda grad: calls.append("grad"))
    model[0].register_buffer("extra", torch.ones(2), persistent=False)
    model[0].note = "mine"
    rk.convert(model, to)
    assert not model[0].training and model[0].note == "mine" and "extra" not in model.state_dict()
    model(torch.randn(5, 4, I))[0].sum().backward()
    assert calls[:2] == ["before", target.GRU] and {"backward", "grad"} == set(calls[2:])
    handle.remove()
    calls.clear()
    model(torch.randn(5, 4, I))
    assert calls == ["before"]


@both_ways
def test_parametrized(source, target, to):
    model = nn.Sequential(source.LSTM(I, H))
    parametrizations.weight_norm(model[0], "weight_hh_l0")
    x = torch.randn(5, 4, I)
    expected = model(x)[0].detach()
    parameters = list(model.parameters())
    rk.convert(model, to)
    assert isinstance(model[0], target.LSTM) and all(
        p is q for p, q in zip(model.parameters(), parameters, strict=True)
    )
    torch.testing.assert_close(model(x)[0].detach(), expected)
    model(x)[0].sum().backward()
    assert all(p.grad is not None for p in parameters)


class Mine(nn.GRU):
    def forward(self, *args):
        return super().forward(*args)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_stays_is_said_once_with_the_reason():
    model = nn.ModuleDict({"mine": Mine(I, H), "lstm": nn.LSTM(I, H), "patched": nn.GRU(I, H)})
    model["patched"].forward = model["patched"].forward
    model["quantized"] = torch.ao.nn.quantized.dynamic.LSTM(I, H)
    report = []
    with pytest.warns(UserWarning) as warned:
        rk.convert(model, report=report)
    (text,) = [str(w.message) for w in warned if "rnnkernels.convert" in str(w.message)]
    stayed = {c.name: c.reason for c in report if c.after is None}
    assert set(stayed) == {"mine", "patched", "quantized"} and type(model["lstm"]) is rk.LSTM
    assert "subclass" in stayed["mine"] and "quantised" in stayed["quantized"] and "forward" in stayed["patched"]
    assert all(f"{name}: " in text and reason in text for name, reason in stayed.items())
    assert type(model["mine"]) is Mine
    ours = nn.Sequential(rk.MinimalGRU(I, H))
    with pytest.warns(UserWarning, match="0: rnnkernels.MinimalGRU stays: torch.nn has no such module"):
        rk.convert(ours, to="torch")


def test_layers_on_cuda_are_left_to_cudnn(monkeypatch):
    """No card is needed to see which ones: where the weights are is asked in one place."""
    monkeypatch.setattr(sys.modules[rk.convert.__module__], "_is_on_cuda", lambda module: True)
    model = nn.ModuleDict({kind: getattr(nn, kind)(I, H) for kind in KINDS})
    with pytest.warns(UserWarning, match="LSTM: torch.nn.*cuDNN.*GRU: torch.nn.*cuDNN"):
        rk.convert(model)
    assert [name for name, module in model.items() if isinstance(module, Base)] == [
        kind for kind in KINDS if kind not in ("LSTM", "GRU")
    ]
    rk.convert(model, cuda="fused")
    assert all(isinstance(module, Base) for module in model.values())
    with pytest.raises(ValueError, match="cuda: expected"):
        rk.convert(model, cuda="neither")


def test_mistakes():
    with pytest.raises(ValueError, match="^to: expected 'rnnkernels' or 'torch', got 'jax'$"):
        rk.convert(nn.GRU(I, H), to="jax")
    with pytest.raises(TypeError, match="^model: expected a torch.nn.Module, got dict$"):
        rk.convert({})


def test_the_old_module_can_be_freed():
    model = nn.Sequential(nn.LSTM(I, H))
    old = weakref.ref(model[0])
    rk.convert(model)
    gc.collect()
    assert old() is None


def test_converted_models_are_copied_and_saved(tmp_path):
    model = rk.convert(nn.Sequential(nn.LSTM(I, H), nn.Identity()))
    twin = copy.deepcopy(model)
    x = torch.randn(5, 4, I)
    assert torch.equal(twin(x)[0], model(x)[0]) and twin[0].weight_hh_l0 is not model[0].weight_hh_l0
    torch.save(model, tmp_path / "model.pt")
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=False)(x)[0], model(x)[0])
