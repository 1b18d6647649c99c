"""Random shapes, strides and lengths: whatever a layer is given, it computes what the reference computes."""

from dataclasses import replace

import torch
from conftest import CELLS, ISAS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rnnkernels as rk
from rnnkernels import functional
from rnnkernels.options import Options
from rnnkernels.testing import Case, Problem, assert_as_good_as, fitted

quiet = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def problems(draw):
    """A problem of any size, cell, layout and options, its x anyhow in memory."""
    cell = draw(st.sampled_from(sorted(CELLS)))
    probability = st.sampled_from([0.0, 0.3])
    options = Options(
        **{name: draw(probability) for name in ("zoneout", "zoneout_cell", "input_dropout", "weight_dropout")},
        recurrent_dropout=draw(probability),
        step=draw(st.booleans()),
        block_size=draw(st.integers(1, 3)),
        recompute=draw(st.integers(0, 5)),
        all_states=draw(st.booleans()),
    )
    B, I, H = draw(st.integers(0, 20)), draw(st.integers(1, 40)), draw(st.integers(1, 70))  # noqa: E741
    layout = draw(st.sampled_from(["dense", "packed", "padded", "ragged"] if B else ["dense", "padded"]))
    case = Case(
        draw(st.integers(1, 9)), B, I, H, draw(st.none() | st.integers(1, H)), draw(st.booleans()), layout,
        draw(st.booleans()), draw(st.booleans()), "full", draw(st.sampled_from(["", "seed", "given"])), options,
    )  # fmt: skip
    if CELLS[cell]["shared"]:
        case = replace(case, H=H * options.block_size)
    problem = Problem(cell, fitted(cell, case), seed=draw(st.integers(0, 2**32 - 1)))
    if layout == "packed":
        lengths = draw(st.lists(st.integers(1, case.T), min_size=B - 1, max_size=B - 1))
        lengths = torch.tensor(sorted([*lengths, case.T], reverse=True))
        problem.batch_sizes = (lengths > torch.arange(case.T)[:, None]).sum(1)
        frames = int(problem.batch_sizes.sum())
        problem.tensors[0] = torch.rand(frames, I).double() - 0.5
        problem.resets = None if problem.resets is None else torch.rand(frames) < 0.3
        per_frame = [0, *range(1 + CELLS[cell]["states"], len(problem.weights))]  # out and the sequences
        for n in per_frame:
            problem.weights[n] = torch.rand(frames, problem.weights[n].size(1)).double()
    x = problem.tensors[0]
    order = draw(st.permutations(range(x.dim())))
    steps = [draw(st.integers(1, 3)) for _ in order]
    wide = x.new_zeros([n * s for n, s in zip(x.shape, steps, strict=True)])
    wide = wide.permute(order).contiguous().permute([order.index(i) for i in range(len(order))])
    problem.tensors[0] = wide[tuple(slice(None, None, s) for s in steps)].copy_(x)
    return problem


@quiet
@given(problem=problems(), isa=st.sampled_from(ISAS), threads=st.sampled_from([1, 2]))
def test_any_layer_is_as_good_as_plain_torch(problem, isa, threads):
    rk.set_isa(isa)
    torch.set_num_threads(threads)
    actual = problem.outputs_and_gradients(functional.layer, torch.float32)
    torch.set_num_threads(1)
    for label, value in actual.items():
        assert_as_good_as(value, problem.expected[label], label)


@quiet
@given(
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=12),
    kind=st.sampled_from(["LSTM", "GRU", "RNN", "MinimalGRU", "PeepholeLSTM", "LayerNormLSTM", "LayerNormGRU", "GRU1"]),
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
        torch.randn(layers * (1 + bidirectional), len(rows), hidden).double() for _ in range(1 + kind.endswith("LSTM"))
    ]

    def hx(part):
        return None if not given_hx else tuple(map(part, states)) if len(states) > 1 else part(states[0])

    out, final = module(torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=False), hx(lambda s: s))
    padded, _ = torch.nn.utils.rnn.pad_packed_sequence(out)
    for i, row in enumerate(rows):
        alone, last = module(row, hx(lambda s, i=i: s[:, i]))
        torch.testing.assert_close(padded[: len(row), i], alone, rtol=1e-11, atol=1e-12)
        for s, t in zip(final if len(states) > 1 else [final], last if len(states) > 1 else [last], strict=True):
            torch.testing.assert_close(s[:, i], t, rtol=1e-11, atol=1e-12)
