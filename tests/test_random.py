"""Masks drawn from a seed: the generator's published vectors, its statistics, and that nothing else decides them."""

import pytest
import torch
from conftest import CELLS, ISAS, TORCHS

import rnnkernels as rk
from rnnkernels import _C, functional
from rnnkernels.options import KINDS, Masks, Options
from rnnkernels.reference import random
from rnnkernels.testing import Case, Problem, fitted

SEED = torch.tensor(-3141592653589793238)
every_cell = pytest.mark.parametrize("cell", CELLS)
REGULARISED = Options(
    zoneout=0.25, zoneout_cell=0.5, recurrent_dropout=0.5, input_dropout=0.25, weight_dropout=0.25, stream=5
)
# Known answers of Philox4x32-10: Random123's kat_vectors.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
]


def regularised(cell, step=False, **sizes):
    case = fitted(cell, Case(**({"T": 5, "B": 3, "I": 70, "H": 150} | sizes), options=REGULARISED._replace(step=step)))
    problem = Problem(cell, case)
    problem.options = case.options._replace(seed=SEED)
    return problem


def explicit(problem):
    """The problem with its drawn masks given, and no seed."""
    case, o = problem.case, problem.options
    w_hh = problem.tensors[2]
    given = random.masks(o, case.T, case.B, case.I, case.H, case.H, None if w_hh is None else w_hh.shape, torch.float64)
    problem.options = o._replace(seed=None, masks=given)
    return problem


@pytest.mark.parametrize("counter, key, expected", KNOWN, ids=["zeros", "ones"])
def test_known_answers(counter, key, expected):
    words = random.philox([torch.tensor(c) for c in counter], [torch.tensor(k) for k in key])
    assert tuple(map(int, words)) == expected


def drawn(kind, p, seed, T, B, units, isa, stream=0):
    """The mask a kernel draws, read off a layer of plain rnn whose result is the mask."""
    rk.set_isa(isa)
    options = Options(stream=stream, step=True, seed=seed)
    if kind == "zoneout":  # all states 0 are kept or become relu(0 + 1)
        x, w_ih, w_hh, b = torch.zeros(T, B, 1), torch.zeros(units, 1), torch.zeros(units, units), torch.ones(units)
        out, _ = functional.layer(
            "rnn_relu", x, w_ih, w_hh, b, resets=torch.ones(T, B).bool(), options=options._replace(zoneout=p)
        )
        return 1 - out
    w_ih, w_hh = torch.eye(units), torch.zeros(units, units)
    return functional.layer("rnn_relu", torch.ones(T, B, units), w_ih, w_hh, options=options._replace(input_dropout=p))[
        0
    ]


@pytest.mark.parametrize("seed", [0, -1, 1 << 32, (1 << 63) - 1, -(1 << 63)])
@pytest.mark.parametrize("kind", ["zoneout", "input"])
def test_kernels_draw_what_is_documented(kind, seed, isa):
    """Word by word: p half way between the words of the mask that is known tells each of them apart."""
    seed, T, B, units = torch.tensor(seed), 3, 2, 150
    for stream, p in ((0, 0.5), (7, 0.1), ((1 << 24) - 1, 0.9)):
        expected = random.mask(kind, p, seed, (T, B, units), stream, torch.float32)
        assert torch.equal(drawn(kind, p, seed, T, B, units, isa, stream), expected)


def test_kernels_draw_the_known_answers(isa):
    """Units 0, 16, 32 and 48 of row 0 at tick 0 have the four words of counter and key zero: kind 0, stream 0."""
    for unit, word in zip((0, 16, 32, 48), KNOWN[0][2], strict=True):
        for p, kept in ((word / 2**32, 0.0), ((word + 1) / 2**32, 1.0)):  # kept where word < floor(p 2^32)
            assert drawn("zoneout", p, torch.tensor(0), 1, 1, 64, isa)[0, 0, unit] == kept


@pytest.mark.parametrize("p", [0.0, 2**-32, 0.5, 1 - 2**-32, 1.0])
def test_never_and_always(p, isa):
    kept = drawn("zoneout", p, SEED, 20, 3, 100, isa)
    assert torch.equal(kept, random.mask("zoneout", p, SEED, (20, 3, 100), dtype=torch.float32))
    if p in (0.0, 1.0):
        assert torch.equal(kept, torch.full_like(kept, p))
        dropped = drawn("input", p, SEED, 20, 3, 100, isa)
        assert torch.equal(dropped, torch.full_like(dropped, 1 - p))


@every_cell
@pytest.mark.parametrize("step", [False, True], ids=["sequence", "step"])
def test_a_seed_is_its_masks_bitwise(cell, step, isa, threads):
    """Whatever the instruction set and the number of threads, masks are those of the reference."""
    sizes = {"reverse": threads == 1} | ({"T": 2, "B": 64, "I": 20, "H": 80} if threads == 2 else {})
    if threads == 2 and cell not in TORCHS and step == (isa == ISAS[-1]):
        pytest.skip("the other of step and sequence has run")
    by_seed = regularised(cell, step, **sizes).outputs_and_gradients(functional.layer, torch.float32)
    assert _C.last_kernel()["threads"] == threads
    by_mask = explicit(regularised(cell, step, **sizes)).outputs_and_gradients(functional.layer, torch.float32)
    for label, value in by_seed.items():
        assert torch.equal(value, by_mask[label]), label


def numbers_drawn(layout):
    """Every mask, seen through layers of small integers, whose sums are exact in any order."""
    T, B, n, found = 6, 5, 70, []
    lengths = torch.tensor([6, 5, 5, 3, 1])
    lies = {"lengths": lengths} if layout in ("padded", "ragged") else {}
    alive = torch.arange(T)[:, None] < lengths
    x = torch.ones(T, B, n)
    if layout == "packed":
        lies, x = {"batch_sizes": alive.sum(1)}, x[alive]
    elif layout == "ragged":
        x = x.transpose(0, 1)[alive.T]
    for name in ("input_dropout", "recurrent_dropout", "zoneout", "weight_dropout"):
        options = Options(**{name: 0.5}, step=True, seed=SEED, stream=5)
        h, w_hh = torch.ones(B, n), torch.eye(n) + torch.eye(n).roll(7, 0)
        out = functional.layer("rnn_relu", x, torch.eye(n), w_hh, states=[h], **lies, options=options)[0]
        if layout == "packed":
            out = torch.zeros(T, B, n).masked_scatter(alive[..., None], out)
        elif layout == "ragged":
            out = torch.zeros(B, T, n).masked_scatter(alive.T[..., None], out).transpose(0, 1)
        found.append(torch.where(alive[..., None], out, 0.0))
    return found


@pytest.mark.parametrize("layout", ["padded", "packed", "ragged"])
def test_the_layout_decides_nothing(layout, isa):
    """A mask goes by row and tick, however rows lie."""
    for ours, theirs in zip(numbers_drawn(layout), numbers_drawn("dense"), strict=True):
        assert torch.equal(ours, theirs)


def test_threads_and_instruction_sets_decide_nothing():
    """Masks by themselves, without products, whose order of summation differs."""
    for kind in ("zoneout", "input"):
        found = []
        for isa in ISAS:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found.append(drawn(kind, 0.3, SEED, 9, 40, 300, isa, 3))
        assert all(torch.equal(found[0], other) for other in found[1:])


@every_cell
def test_a_seed_repeats_and_another_does_not(cell):
    runs = []
    for seed in (SEED, SEED.clone(), SEED + (1 << 32), SEED + 1):
        problem = regularised(cell)
        problem.options = problem.options._replace(seed=seed)
        runs.append(problem.run(functional.layer, *(None if t is None else t.float() for t in problem.tensors))[0])
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2]) and not torch.equal(runs[0], runs[3])


def test_streams_kinds_rows_ticks_and_units_differ():
    """Any two masks agree about as often as chance has it: half the time, within six standard deviations."""
    shape = (20, 10, 100)
    masks = [
        random.mask(kind, 0.5, seed, shape, stream) != 0
        for kind in KINDS[:4]
        for seed in (SEED, SEED + 1, SEED + (1 << 32))
        for stream in (0, 1)
    ]
    first = masks[0]
    pairs = [(a, b) for i, a in enumerate(masks) for b in masks[:i]]
    pairs += [(first.roll(1, axis), first) for axis in range(3)] + [
        (first.roll(16, 2), first),
        (first.roll(64, 2), first),
    ]
    for a, b in pairs:
        n = a.numel()
        assert abs((a == b).sum() - n / 2) <= 6 * (n / 4) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
def test_rates(kind, p):
    shape = (400, 300) if kind == "weight" else (40, 10, 300)
    mask = random.mask(kind, p, SEED, shape)
    n, events = mask.numel(), (mask == (1 if kind.startswith("zoneout") else 0)).sum()
    assert abs(events - n * p) <= 6 * (n * p * (1 - p)) ** 0.5
    others = mask[mask != (1 if kind.startswith("zoneout") else 0)]
    assert torch.equal(others, torch.full_like(others, 0 if kind.startswith("zoneout") else 1 / (1 - p)))


def test_masks_that_are_given_win_over_drawn_ones(isa):
    ones = Masks(
        *(torch.ones(s) for s in ((5, 3, 150),)), None, torch.ones(3, 150), torch.ones(3, 70), torch.ones(450, 150)
    )
    problem = regularised("gru")
    problem.options = problem.options._replace(masks=ones._replace(zoneout=torch.zeros(5, 3, 150)))
    tensors = [None if t is None else t.float() for t in problem.tensors]
    plain = Problem("gru", Case(5, 3, 70, 150))
    for ours, theirs in zip(
        problem.run(functional.layer, *tensors), plain.run(functional.layer, *tensors), strict=True
    ):
        assert torch.equal(ours, theirs)


@every_cell
def test_without_a_seed_dropout_does_nothing(cell):
    options = Options(recurrent_dropout=0.5, input_dropout=0.5, weight_dropout=0.5)
    problem, plain = Problem(cell, fitted(cell, Case(4, 3, 5, 9, options=options))), Problem(cell, Case(4, 3, 5, 9))
    ours, theirs = (p.outputs_and_gradients(functional.layer, torch.float32) for p in (problem, plain))
    assert all(torch.equal(value, theirs[label]) for label, value in ours.items())


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_a_seed_that_is_an_int_stays_on_the_cpu(kind, monkeypatch):
    """There the op reads it without waiting for x's device, whatever torch's default device is."""
    seeds, layer = [], functional.layer

    def seen(*args, **keywords):
        seeds.extend(value.seed for value in [*args, *keywords.values()] if isinstance(value, Options))
        return layer(*args, **keywords)

    monkeypatch.setattr(functional, "layer", seen)
    module = getattr(rk, kind)(3, 7, zoneout=0.5, device="meta")
    with torch.device("meta"):
        module(torch.empty(*([4] * (kind == "GRU")), 2, 3, device="meta"), seed=7)
    assert seeds and all(seed.device.type == "cpu" and int(seed) == 7 for seed in seeds)
