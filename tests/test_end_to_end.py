"""Every class and every option trains, and goes on from a checkpoint as if nothing had happened."""

import io
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rnnkernels as rk
from rnnkernels import modules

T, B, I, H = 9, 6, 3, 12
STEPS = 12

LAYERS = [k for k in vars(rk).values() if isinstance(k, type) and issubclass(k, modules.recurrent.Recurrent)]
# What a class has beside what all have.
OWN = {
    "RNN": [
        {"nonlinearity": "logistic"},
        {"nonlinearity": "relu", "mask": torch.ones(H, H).tril()},
    ],
    "LSTM": [{"proj_size": 5}],
    "GRU": [{"reset_after": False}, {"reset_after": False, "activation": "relu"}],
    "PeepholeLSTM": [{"gradient": "truncated"}, {"g": "identity", "h": "logistic"}],
    "LayerNormLSTM": [{"norm": "carry"}, {"norm": "gate", "eps": 1e-3}],
    "LayerNormGRU": [{"norm": "gate"}],
    "GRU1": [{"activation": "relu"}],
    "GRU2": [{"activation": "relu"}],
    "GRU3": [{"activation": "relu"}],
    "IndRNN": [{"nonlinearity": "relu"}],
    "LSTM1997": [
        {"block_size": 3, "bias": "gates"},
        {"forget_gate": True, "gate_feedback": False, "bias": "all"},
        {"output_gate": False, "recurrent": False},
        {"gradient": "truncated", "block_size": 2, "g": "tanh", "h": "identity"},
    ],
}
# What every class has, where its cell can.
SHARED = {
    "plain": {},
    "stack": {"num_layers": 2, "bidirectional": True, "dropout": 0.1},
    "no bias": {"bias": False},
    "batch first": {"batch_first": True},
    "zoneout": {"zoneout": 0.1},
    "zoneout_cell": {"zoneout_cell": 0.1},
    "recurrent_dropout": {"recurrent_dropout": 0.1},
    "recurrent_dropout by step": {"recurrent_dropout": 0.1, "recurrent_dropout_mode": "step"},
    "input_dropout": {"input_dropout": 0.1},
    "weight_dropout": {"weight_dropout": 0.1},
    "cell_clip": {"cell_clip": 0.5},
    "gradient_clip": {"gradient_clip": 0.01},
    "forget_bias": {"forget_bias": 1.0},
    "recompute": {"recompute": True},
    "lengths": {},
    "resets": {},
    "learned resets": {"learn_reset_state": True},
    "packed": {},
    "cu_seqlens": {},
    "seed": {"zoneout": 0.1},
    "return_all": {},
}
RAGGED = ("lengths", "packed", "cu_seqlens")
NEEDS = {  # the fact of a class that an option asks for
    "zoneout_cell": lambda kind: "c" in kind.states,
    "cell_clip": lambda kind: "c" in kind.states,
    "recurrent_dropout": lambda kind: kind.has_recurrent_product is not False,
    "weight_dropout": lambda kind: kind.has_recurrent_product is not False,
    "forget_bias": lambda kind: isinstance(kind.forget_gate_rows, int),
}


def cases():
    for kind in LAYERS:
        for way, options in SHARED.items():
            if all(NEEDS[name](kind) for name in options if name in NEEDS):
                yield pytest.param(kind, way, options, id=f"{kind.__name__}-{way}")
        for options in OWN.get(kind.__name__, []):
            words = ",".join(f"{k}={'lower triangle' if k == 'mask' else v}" for k, v in options.items())
            yield pytest.param(kind, "plain", options, id=f"{kind.__name__}-{words}")


class Model(nn.Module):
    """Says at every tick a number that depends on what came before it."""

    def __init__(self, kind, way, **options):
        super().__init__()
        self.layers, self.way = kind(I, H, **options), way
        self.score = nn.Linear((self.layers.proj_size or H) * self.layers._directions, 1)

    def forward(self, data):
        x, lengths, resets = data.x, data.lengths, data.resets
        if self.way == "batch first":
            return self.score(self.layers(x.transpose(0, 1))[0].transpose(0, 1))
        if self.way == "lengths":
            return self.score(self.layers(x, lengths=lengths)[0]) * data.alive
        if self.way in ("resets", "learned resets"):
            return self.score(self.layers(x, resets=resets)[0])
        if self.way == "packed":
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
            out, _ = nn.utils.rnn.pad_packed_sequence(self.layers(packed)[0], total_length=T)
            return self.score(out) * data.alive
        if self.way == "cu_seqlens":
            offsets = F.pad(lengths.cumsum(0), (1, 0))
            frames = torch.cat([x[:n, b] for b, n in enumerate(lengths.tolist())])
            out = self.score(self.layers(frames, cu_seqlens=offsets)[0])
            return nn.utils.rnn.pad_sequence(out.split(lengths.tolist()))
        if self.way == "seed":
            return self.score(self.layers(x, seed=torch.randint(2**62, ()))[0])
        if self.way == "return_all":
            out, _, states = self.layers(x, return_all=True)
            return self.score(out) + 0.1 * sum(s.mean() for s in states.values())
        return self.score(self.layers(x)[0])


class Data:
    """A running mean of the first feature."""

    def __init__(self):
        self.x = torch.randn(T, B, I)
        self.lengths = torch.tensor([T, 4, 7, 1, T, 2])
        self.alive = (torch.arange(T).unsqueeze(1) < self.lengths).unsqueeze(-1)
        self.resets = torch.rand(T, B) < 0.2
        self.target = self.x[..., :1].cumsum(0) / torch.arange(1, T + 1).view(T, 1, 1)


def train(model, optimiser, data, steps):
    """Losses, then the weights of `model` are those after the last step."""
    losses = []
    for _ in range(steps):
        out = model(data)
        loss = F.mse_loss(out, data.target * data.alive if model.way in RAGGED else data.target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def made(kind, way, options):
    model = Model(kind, way, **options)
    return model, torch.optim.Adam(model.parameters(), lr=0.02)


@pytest.mark.parametrize("kind, way, options", [*cases()])
def test_trains_and_goes_on_from_a_checkpoint(kind, way, options):
    data = Data()
    model, optimiser = made(kind, way, options)
    before = [p.detach().clone() for p in model.parameters()]
    losses = train(model, optimiser, data, STEPS)
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])
    assert all(not torch.equal(p, b) for p, b in zip(model.parameters(), before) if p.grad is not None and p.grad.any())

    file = io.BytesIO()
    checkpoint = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "random": torch.get_rng_state(),
    }
    torch.save(checkpoint, file)
    expected = train(model, optimiser, data, 3)

    torch.manual_seed(99)
    twin, twins_optimiser = made(kind, way, options)  # other weights, another state of the generator
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    twin.load_state_dict(loaded["model"])
    twins_optimiser.load_state_dict(loaded["optimiser"])
    torch.set_rng_state(loaded["random"])
    assert train(twin, twins_optimiser, data, 3) == expected
    for (name, ours), theirs in zip(twin.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert torch.equal(twin.eval()(data), model.eval()(data)) or way == "seed"


@pytest.mark.parametrize("kind", LAYERS, ids=lambda k: k.__name__)
def test_cells_train(kind):
    """A loop over ticks with a Cell, its state carried by hand."""
    cell, score, data = getattr(rk, f"{kind.__name__}Cell")(I, H), nn.Linear(H, 1), Data()
    optimiser, losses = torch.optim.Adam([*cell.parameters(), *score.parameters()], lr=0.02), []
    for _ in range(STEPS):
        state, outs = None, []
        for frame in data.x:
            state = cell(frame, state)
            outs.append(score(state[0] if isinstance(state, tuple) else state))
        loss = F.mse_loss(torch.stack(outs), data.target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


def test_examples_of_the_readme_run():
    text = (Path(__file__).parent.parent / "README.md").read_text()
    names = {"model": nn.Sequential(nn.LSTM(I, H))}  # one you already have
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 4
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
