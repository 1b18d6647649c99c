"""Random shapes, strides and lengths: whatever a layer is given, it computes what the reference computes."""

import torch
from conftest import CELLS, ISAS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rnnkernels as rk
from rnnkernels import functional, reference
from rnnkernels.testing import assert_as_good_as

quiet = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def problems(draw):
    """Float64 tensors of float32 values, their batch_sizes and direction, and how x lies in memory."""
    cell = draw(st.sampled_from(sorted(CELLS)))
    facts = CELLS[cell]
    B, I, H = draw(st.integers(0, 20)), draw(st.integers(1, 40)), draw(st.integers(1, 70))  # noqa: E741
    P = draw(st.none() | st.integers(1, H)) if facts["projection"] else None
    lengths = sorted(draw(st.lists(st.integers(1, 9), min_size=B, max_size=B)), reverse=True)
    packed = bool(B) and draw(st.booleans())
    T = max(lengths, default=draw(st.integers(1, 9)))
    sizes = torch.tensor([sum(n > t for n in lengths) for t in range(T)]) if packed else None
    frames = (int(sizes.sum()),) if packed else (T, B)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))

    def tensor(*shape):
        return torch.rand(shape, generator=generator).sub(0.5).mul(2 * H**-0.5).double()

    order = draw(st.permutations(range(len(frames) + 1)))
    steps = [draw(st.integers(1, 3)) for _ in order]
    wide = tensor(*(n * s for n, s in zip((*frames, I), steps)))
    x = wide.permute(order).contiguous().permute([order.index(i) for i in range(len(order))])
    x = x[tuple(slice(None, None, s) for s in steps)]
    rows, biases = facts["gates"] * H, [draw(st.booleans()) for _ in range(2)]
    tensors = [x, tensor(rows, I), tensor(rows, P or H), *(tensor(rows) if b else None for b in biases)]
    tensors += [tensor(P, H) if P else None]
    tensors += [tensor(B, H if s else P or H) for s in range(facts["states"])]
    return cell, tensors, sizes, draw(st.booleans())


def run(layer, cell, tensors, sizes, reverse, dtype):
    # to() keeps the strides that the problem gave x.
    tensors = [None if t is None else t.detach().to(dtype).requires_grad_() for t in tensors]
    results = layer(cell, *tensors[:6], tensors[6:], sizes, reverse)
    leaves = [t for t in tensors if t is not None]
    weights = [torch.linspace(-1, 1, r.numel(), dtype=torch.float64).view(r.shape).to(dtype) for r in results]
    return [*results, *torch.autograd.grad(results, leaves, weights)]


@quiet
@given(problem=problems(), isa=st.sampled_from(ISAS), threads=st.sampled_from([1, 2]))
def test_any_layer_is_as_good_as_plain_torch(problem, isa, threads):
    own, exact = (run(reference.layer, *problem, dtype) for dtype in (torch.float32, torch.float64))
    rk.set_isa(isa)
    torch.set_num_threads(threads)
    actual = run(functional.layer, *problem, torch.float32)
    torch.set_num_threads(1)
    # Side by side: a tensor of few numbers would fail by chance.
    states = CELLS[problem[0]]["states"]
    for part in (slice(0, 1 + states), slice(1 + states, None)):
        assert [t.shape for t in actual[part]] == [t.shape for t in exact[part]]
        assert_as_good_as(*(torch.cat([t.detach().flatten() for t in side[part]]) for side in (actual, own, exact)))


@quiet
@given(
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=12),
    kind=st.sampled_from(["LSTM", "GRU", "RNN", "MinimalGRU"]),
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    hidden=st.integers(1, 20),
    given_hx=st.booleans(),
)
def test_a_packed_batch_is_its_rows_one_by_one(lengths, kind, layers, bidirectional, hidden, given_hx):
    torch.manual_seed(len(lengths))
    module = getattr(rk, kind)(5, hidden, layers, bidirectional=bidirectional).double()
    rows = [torch.randn(n, 5, dtype=torch.float64) for n in lengths]
    states = [
        torch.randn(layers * (1 + bidirectional), len(rows), hidden).double() for _ in range(1 + (kind == "LSTM"))
    ]

    def hx(part):
        return None if not given_hx else tuple(map(part, states)) if len(states) > 1 else part(states[0])

    out, final = module(torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=False), hx(lambda s: s))
    padded, _ = torch.nn.utils.rnn.pad_packed_sequence(out)
    for i, row in enumerate(rows):
        alone, last = module(row, hx(lambda s, i=i: s[:, i]))
        torch.testing.assert_close(padded[: len(row), i], alone, rtol=1e-11, atol=1e-12)
        for s, t in zip(final if kind == "LSTM" else [final], last if kind == "LSTM" else [last], strict=True):
            torch.testing.assert_close(s[:, i], t, rtol=1e-11, atol=1e-12)
