"""The same numbers as other people's layers with the same weights: Keras, ONNX Runtime, haste, torch.nn.

A peer has an error of its own, so what is equal is equal to 1e-6 of the largest value in float32.
"""

import os

import numpy as np
import pytest
import torch
from torch import nn

import rnnkernels as rk
from rnnkernels.options import Masks

T, B, I, H = 12, 5, 4, 19


def draw(*shape):
    return torch.randn(shape)


def equal(actual, expected, tolerance=1e-6):
    for a, e in zip(actual, expected, strict=True):
        a, e = (torch.as_tensor(v).detach().double() for v in (a, e))
        assert a.shape == e.shape
        assert (a - e).abs().max() <= tolerance * max(1.0, e.abs().max().item())


# -- Keras -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    """Keras on its torch backend, which it takes from the environment at its first import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))  # it writes a file there
        module = pytest.importorskip("keras", minversion="3")
    if module.backend.backend() != "torch":
        pytest.skip(f"Keras runs on {module.backend.backend()} here")
    return module


def zrh(weight):
    """From our gates r, z, n to Keras's z, r, h."""
    r, z, n = weight.detach().chunk(3)
    return torch.cat((z, r, n))


@pytest.mark.parametrize("masked", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("reset_after", [False, True], ids=["reset before", "reset after"])
def test_keras_gru(keras, reset_after, masked):
    ours = rk.GRU(I, H, reset_after=reset_after, batch_first=True)
    theirs = keras.layers.GRU(H, reset_after=reset_after, return_sequences=True, return_state=True)
    x, h = draw(B, T, I).requires_grad_(), draw(B, H).requires_grad_()
    lengths = torch.tensor([12, 3, 7, 1, 12]) if masked else None
    alive = None if lengths is None else torch.arange(T) < lengths.unsqueeze(1)
    theirs.build(x.shape)
    biases = torch.stack((zrh(ours.bias_ih_l0), zrh(ours.bias_hh_l0)))
    bias = biases if reset_after else biases.sum(0)  # before the product one bias stands for two
    theirs.set_weights([w.numpy() for w in (zrh(ours.weight_ih_l0).t(), zrh(ours.weight_hh_l0).t(), bias)])

    out, h_n = ours(x, h.unsqueeze(0), lengths=lengths)
    other, other_n = theirs(x, initial_state=h, mask=alive)
    if masked:  # past its end a row repeats its last output there
        other = other * alive.unsqueeze(-1)
    equal((out, h_n[0]), (other, other_n))

    weight = draw(B, T, H)
    found = torch.autograd.grad((out * weight).sum(), [ours.weight_ih_l0, ours.weight_hh_l0, ours.bias_ih_l0, x, h])
    kernels = [v.value for v in theirs.trainable_weights]
    expected = torch.autograd.grad((other * weight).sum(), [*kernels, x, h])
    found = [zrh(found[0]).t(), zrh(found[1]).t(), zrh(found[2]), *found[3:]]
    expected = [*expected[:2], expected[2][0] if reset_after else expected[2], *expected[3:]]
    equal(found, expected, 1e-5)


# -- ONNX Runtime ------------------------------------------------------------------------------------------------------


def onnx_layer(kind, gates, module, x, states, lengths=None, peepholes=None, **attributes):
    """Outputs (T,B,D*H) and final states (D,B,H) of one ONNX node with the weights of `module`.

    gates: which of our gates each of the node's is, None for one that is not read.
    """
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    ways = ("", "_reverse") if module.bidirectional else ("",)

    def weight(name):
        return [
            np.concatenate([np.zeros_like(parts[0]) if g is None else parts[g] for g in gates])
            for parts in (
                np.split(getattr(module, name + way).detach().numpy(), len({g for g in gates if g is not None}))
                for way in ways
            )
        ]

    biases = [np.concatenate(pair) for pair in zip(weight("bias_ih_l0"), weight("bias_hh_l0"), strict=True)]
    names = ["initial_h", "initial_c"][: len(states)]
    feeds = {
        "X": x.numpy(),
        "W": np.stack(weight("weight_ih_l0")),
        "R": np.stack(weight("weight_hh_l0")),
        "B": np.stack(biases),
        **dict(zip(names, [s.numpy() for s in states], strict=True)),
    }
    inputs = ["X", "W", "R", "B", "", *names]
    if lengths is not None:
        inputs[4], feeds["lengths"] = "lengths", np.array(lengths, dtype=np.int32)
    if peepholes is not None:
        inputs.append("P")
        feeds["P"] = np.stack([p.detach().numpy() for p in peepholes])
    outputs = ["Y", "Y_h", "Y_c"][: 1 + len(states)]
    direction = "bidirectional" if module.bidirectional else "forward"
    node = onnx.helper.make_node(kind, inputs, outputs, hidden_size=H, direction=direction, **attributes)
    kinds = {np.dtype(np.float32): onnx.TensorProto.FLOAT, np.dtype(np.int32): onnx.TensorProto.INT32}
    graph = onnx.helper.make_graph(
        [node],
        "layer",
        [onnx.helper.make_tensor_value_info(n, kinds[v.dtype], v.shape) for n, v in feeds.items()],
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    out, *finals = session.run(None, feeds)
    return np.concatenate(np.split(out, len(ways), 1), -1)[:, 0], *finals


NODES = {
    "LSTM": ("LSTM", [0, 3, 1, 2], {}),  # i, o, f, c of our i, f, g, o
    "CoupledLSTM": ("LSTM", [0, 2, None, 1], {"input_forget": 1}),  # of our i, g, o
    "PeepholeLSTM": ("LSTM", [0, 3, 1, 2], {}),
    "GRU": ("GRU", [1, 0, 2], {"linear_before_reset": 1}),  # z, r, h of our r, z, n
    "GRU, reset before": ("GRU", [1, 0, 2], {"linear_before_reset": 0}),
    "RNN": ("RNN", [0], {}),
    "RNN, relu": ("RNN", [0], {"activations": ["Relu"]}),
    "RNN, logistic": ("RNN", [0], {"activations": ["Sigmoid"]}),
}
MADE = {
    "GRU, reset before": lambda **o: rk.GRU(I, H, reset_after=False, **o),
    "RNN, relu": lambda **o: rk.RNN(I, H, nonlinearity="relu", **o),
    "RNN, logistic": lambda **o: rk.RNN(I, H, nonlinearity="logistic", **o),
}


@pytest.mark.parametrize("lengths", [None, [3, 12, 1, 7, 12]], ids=["", "lengths"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["", "bidirectional"])
@pytest.mark.parametrize("name", NODES)
def test_onnx_runtime(name, bidirectional, lengths):
    kind, gates, attributes = NODES[name]
    make = MADE.get(name) or (lambda **o: getattr(rk, name)(I, H, **o))
    module = make(bidirectional=bidirectional)
    x, directions = draw(T, B, I), 1 + bidirectional
    states = [draw(directions, B, H) for _ in module.states]
    peepholes = None
    if name == "PeepholeLSTM":  # i, o, f of our i, f, o
        ways = ("", "_reverse")[:directions]
        peepholes = [getattr(module, f"weight_ch_l0{way}").view(3, H)[[0, 2, 1]].flatten() for way in ways]
    if "activations" in attributes:
        attributes = {"activations": attributes["activations"] * directions}
    expected = onnx_layer(kind, gates, module, x, states, lengths, peepholes, **attributes)
    with torch.no_grad():
        out, final = module(x, tuple(states) if len(states) > 1 else states[0], lengths=lengths)
    equal((out, *(final if len(states) > 1 else (final,))), expected)


# -- haste, whose layers need CUDA: its equations ----------------------------------------------------------------------


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def normalised(a):
    """Over the last axis, with haste's epsilon."""
    centred = a - a.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


class Haste(nn.Module):
    """The parameters of haste's LayerNormLSTM, under its names and in its shapes."""

    def __init__(self, **options):
        super().__init__()
        self.batch_first = options.get("batch_first", False)
        self.zoneout = options.get("zoneout", 0.0)
        self.dropout = options.get("dropout", 0.0)
        shapes = {
            "kernel": (I, 4 * H),
            "recurrent_kernel": (H, 4 * H),
            "bias": (4 * H,),
            "gamma": (2, 4 * H),
            "gamma_h": (H,),
            "beta_h": (H,),
        }
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, dtype=torch.float64)))

    def forward_by_its_equations(self, x, keep=None):
        """x (T,B,I), keep (T,B,H): 1 where zoneout keeps the old h."""
        p = {name: value.detach().numpy() for name, value in self.named_parameters()}
        h = c = np.zeros((x.shape[1], H))
        outs = []
        for t, frame in enumerate(x):
            v = p["gamma"][0] * normalised(frame @ p["kernel"]) + p["bias"]
            v = v + p["gamma"][1] * normalised(h @ p["recurrent_kernel"])
            i, g, f, o = np.split(v, 4, -1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            new = sigmoid(o) * np.tanh(p["gamma_h"] * normalised(c) + p["beta_h"])
            h = new if keep is None else keep[t] * h + (1 - keep[t]) * new
            outs.append(h)
        return np.stack(outs), h[None], c[None]


@pytest.mark.parametrize("given", ["module", "state_dict"])
def test_haste_layer_norm_lstm(given):
    theirs, x = Haste(), torch.randn(T, B, I, dtype=torch.float64)
    ours = rk.LayerNormLSTM.from_haste(theirs if given == "module" else theirs.state_dict())
    out, state = ours(x)
    equal((out, *state), theirs.forward_by_its_equations(x.numpy()), 1e-12)
    nn.init.zeros_(theirs.kernel)
    assert torch.equal(ours(x)[0], out)  # values are copied


def test_haste_zoneout():
    theirs, x = Haste(zoneout=0.3), torch.randn(T, B, I, dtype=torch.float64)
    ours, keep = rk.LayerNormLSTM.from_haste(theirs), (torch.rand(T, B, H) < 0.3).double()
    out, state = ours(x, masks=Masks(zoneout=keep))
    equal((out, *state), theirs.forward_by_its_equations(x.numpy(), keep.numpy()), 1e-12)


def test_haste_options_are_taken_over():
    ours = rk.LayerNormLSTM.from_haste(Haste(batch_first=True, zoneout=0.1, dropout=0.2))
    assert ours.batch_first and ours.zoneout == 0.1 and ours.weight_dropout == 0.2
    assert rk.LayerNormLSTM.from_haste(Haste(zoneout=0.1), zoneout=0.0).zoneout == 0.0  # the caller's word comes first


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}, {"bias": False}, {"norm": "gate"}])
def test_what_haste_has_not(options):
    (word,) = options
    with pytest.raises(ValueError, match=f"^{word}: expected"):
        rk.LayerNormLSTM.from_haste(Haste(), **options)


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_what_is_no_layer_of_haste(change):
    state = Haste().state_dict()
    state = {} if change == "missing" else state | {"gamma": torch.zeros(4 * H)}
    with pytest.raises(ValueError, match="^source: expected"):
        rk.LayerNormLSTM.from_haste(state)


@pytest.mark.parametrize("lengths", [None, [3, 12, 1, 7, 12]], ids=["", "lengths"])
def test_haste_ind_rnn(lengths):
    """h' = tanh(x kernel + bias + h recurrent_scale); with lengths the state is the one at each row's end."""
    ours = rk.IndRNN(I, H, dtype=torch.float64)
    kernel, scale, bias = (p.detach().numpy() for p in (ours.weight_ih_l0.t(), ours.weight_hh_l0, ours.bias_ih_l0))
    x, first = torch.randn(T, B, I, dtype=torch.float64), torch.randn(1, B, H, dtype=torch.float64)
    h = [first[0].numpy()]
    for frame in x.numpy():
        h.append(np.tanh(frame @ kernel + bias + h[-1] * scale))
    h = np.stack(h)
    out, final = ours(x, first, lengths=lengths)
    if lengths is not None:
        h_n = h[lengths, range(B)][None]
        expected = h[1:] * (np.arange(T)[:, None, None] < np.array(lengths)[:, None])
    else:
        h_n, expected = h[-1:], h[1:]
    equal((out, final), (expected, h_n), 1e-12)


# -- torch.nn ----------------------------------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "stack": {"num_layers": 2, "bidirectional": True},
    "no bias, batch first": {"bias": False, "batch_first": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize(
    "kind, own",
    [("LSTM", {}), ("LSTM", {"proj_size": 7}), ("GRU", {}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"})],
    ids=str,
)
def test_torch_layers(kind, own, options):
    """Whatever `convert` takes, there and back: outputs, states and gradients."""
    theirs = getattr(nn, kind)(I, H, **own, **options)
    x = draw(T, B, I).requires_grad_()
    weight = draw(T, B, theirs(x)[0].size(-1))
    ours = rk.convert(theirs)
    assert type(ours) is getattr(rk, kind) and type(theirs) is getattr(nn, kind)
    results = []
    for module in (ours, theirs, rk.convert(ours, "torch")):
        out, state = module(x)
        found = torch.autograd.grad((out * weight).sum(), [*module.parameters(), x])
        results.append([out, *(state if kind == "LSTM" else (state,)), *found])
    equal(results[0], results[1], 1e-5)
    equal(results[2], results[1], 1e-5)


@pytest.mark.parametrize("kind, own", [("LSTMCell", {}), ("GRUCell", {}), ("RNNCell", {"nonlinearity": "relu"})])
def test_torch_cells(kind, own):
    theirs = getattr(nn, kind)(I, H, **own)
    ours, x, h, c = rk.convert(theirs), draw(B, I), draw(B, H), draw(B, H)
    hx = (h, c) if kind == "LSTMCell" else h
    found, expected = ours(x, hx), theirs(x, hx)
    equal(*((f if isinstance(f, tuple) else (f,)) for f in (found, expected)))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_torch_packed_is_lengths(kind):
    """torch.nn with a PackedSequence computes what `lengths` does here."""
    theirs = getattr(nn, kind)(I, H, 2, bidirectional=True)
    ours, lengths, x = rk.convert(theirs), [3, 12, 1, 7, 5], draw(T, B, I)
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    expected, state = theirs(packed)
    expected, _ = nn.utils.rnn.pad_packed_sequence(expected, total_length=T)
    out, final = ours(x, lengths=lengths)
    as_tuple = (lambda s: s) if kind == "LSTM" else (lambda s: (s,))
    equal((out, *as_tuple(final)), (expected, *as_tuple(state)))
