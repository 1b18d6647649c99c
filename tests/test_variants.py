"""Every layer and what it takes beyond torch.nn's arguments: layouts, resets, randomness, limits, copies, mistakes."""

import copy
import inspect
import io
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import rnnkernels as rk
from rnnkernels import functional, modules, reference
from rnnkernels.options import Masks
from rnnkernels.tasks.networks import LAYOUTS, network, timing, variable_lag, weights
from rnnkernels.testing import assert_as_good_as, expected

T, B, I, H = 5, 4, 3, 18  # more than one vector of every lane type, and a remainder
LENGTHS = [3, 5, 1, 4]
OFFSETS = [0, *itertools.accumulate(LENGTHS)]

LAYERS = [k for k in vars(rk).values() if isinstance(k, type) and issubclass(k, modules.recurrent.Recurrent)]
OWN = [
    (rk.RNN, {"nonlinearity": "logistic"}),
    (rk.RNN, {"nonlinearity": "relu", "mask": torch.ones(H, H).tril()}),
    (rk.LSTM, {"bias": False}),
    (rk.GRU, {"reset_after": False}),
    (rk.GRU, {"reset_after": False, "activation": "relu"}),
    (rk.PeepholeLSTM, {"g": "identity", "h": "identity", "gradient": "truncated"}),
    (rk.PeepholeLSTM, {"g": "g1997", "h": "h1997", "bias": False}),
    (rk.LayerNormLSTM, {"norm": "carry"}),
    (rk.LayerNormLSTM, {"norm": "gate", "eps": 1e-3}),
    (rk.LayerNormLSTM, {"bias": False}),
    (rk.LayerNormGRU, {"norm": "gate"}),
    (rk.LayerNormGRU, {"bias": False}),
    (rk.GRU1, {"activation": "relu"}),
    (rk.GRU2, {"bias": False}),
    (rk.GRU3, {"bias": False}),
    (rk.IndRNN, {"nonlinearity": "relu"}),
    (rk.LSTM1997, {"block_size": 2, "bias": "gates"}),
    (rk.LSTM1997, {"block_size": 3, "bias": "all", "forget_gate": True, "gate_feedback": False}),
    (rk.LSTM1997, {"output_gate": False, "recurrent": False}),
    (
        rk.LSTM1997,
        {"output_gate": False, "forget_gate": True, "bias": "gates", "block_size": 2}
        | {"gradient": "truncated", "g": "logistic", "h": "identity"},
    ),
]


def name_of(kind, own):
    words = [f"{k}={'lower triangle' if k == 'mask' else v}" for k, v in own.items()]
    return f"{kind.__name__}({', '.join(words)})"


CONFIGS = [pytest.param(kind, own, id=name_of(kind, own)) for kind, own in [*((k, {}) for k in LAYERS), *OWN]]
every = pytest.mark.parametrize("kind, own", CONFIGS)
every_layer = pytest.mark.parametrize("kind", LAYERS, ids=lambda k: k.__name__)


def make(kind, own, **options):
    return kind(I, H, **{"dtype": torch.float64} | own | options)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def one_or_all(states):
    """States as a layer takes and returns them."""
    return tuple(states) if len(states) > 1 else states[0]


def state_of(module, *rows):
    count = module._streams
    return one_or_all([draw(count, *rows, module._width(name)) for name in module.states])


def flat(value):
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, dict):
        return flat(tuple(value.values()))
    return [value] if isinstance(value, torch.Tensor) else [t for v in value for t in flat(v)]


def same(actual, expected):
    """Equal but for the order of summation, in float64."""
    for a, e in zip(flat(actual), flat(expected), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-11)


def one_after_another(x):
    """Rows of LENGTHS, as `cu_seqlens` wants them."""
    return torch.cat([x[:n, b] for b, n in enumerate(LENGTHS)])


def pack(x):
    return pack_padded_sequence(x, LENGTHS, enforce_sorted=False)


def everything_on(module):
    """Every option that the cell can have, at once."""
    options = {"zoneout": 0.3, "input_dropout": 0.2}
    if module.has_recurrent_product:
        options |= {"recurrent_dropout": 0.4, "weight_dropout": 0.2}
    if "c" in module.states:
        options |= {"zoneout_cell": 0.1, "cell_clip": 0.5}
    return options


# -- how sequences lie -------------------------------------------------------------------------------------------------


@every
def test_layouts(kind, own):
    options = {"num_layers": 2, "bidirectional": True}
    module, by_row = make(kind, own, **options), make(kind, own, batch_first=True, **options)
    by_row.load_state_dict(module.state_dict())
    x, hx = draw(T, B, I), state_of(module, B)
    out, state, every_state = module(x, hx, return_all=True)
    assert out.shape == (T, B, 2 * H) and [s.shape for s in flat(state)] == [h.shape for h in flat(hx)]
    same(module(x, hx), (out, state))

    # all states: of layers and directions, at all ticks in time order
    assert list(every_state) == list(module.states)
    same(torch.cat([*every_state["h"][1]], -1), out)
    for name, final in zip(module.states, flat(state), strict=True):
        sequence = every_state[name]
        assert sequence.shape == (2, 2, T, B, module._width(name))
        same((sequence[:, 0, -1], sequence[:, 1, 0]), (final[0::2], final[1::2]))

    rows_out, rows_state, rows_every = by_row(x.transpose(0, 1), hx, return_all=True)
    same((rows_out.transpose(0, 1), rows_state), (out, state))
    same([s.transpose(2, 3) for s in flat(rows_every)], every_state)

    alone = one_or_all([h[:, 1] for h in flat(hx)])  # one sequence
    out_1, state_1, every_1 = module(x[:, 1], alone, return_all=True)
    same((out_1, state_1), (out[:, 1], [s[:, 1] for s in flat(state)]))
    same(every_1, {name: s[:, :, :, 1] for name, s in every_state.items()})


@every
def test_rows_of_unequal_length(kind, own):
    """Padded with lengths, packed, one after another: all as each row alone."""
    module = make(kind, own, num_layers=2, bidirectional=True)
    x, hx = draw(T, B, I), state_of(module, B)
    out, state, every_state = module(x, hx, lengths=torch.tensor(LENGTHS), return_all=True)
    for b, n in enumerate(LENGTHS):
        alone = module(x[:n, b], one_or_all([h[:, b] for h in flat(hx)]), return_all=True)
        same(alone, (out[:n, b], [s[:, b] for s in flat(state)], [s[:, :, :n, b] for s in flat(every_state)]))
        assert not out[n:, b].any() and not any(s[:, :, n:, b].any() for s in flat(every_state))

    packed, packed_state, packed_every = module(pack(x), hx, return_all=True)
    same((pad_packed_sequence(packed, total_length=T)[0], packed_state), (out, state))
    frames = pack(torch.arange(T * B).view(T, B)).data
    same(packed_every, [s.flatten(2, 3)[:, :, frames] for s in flat(every_state)])

    offsets = torch.tensor(OFFSETS)
    for given in (offsets, offsets.int(), OFFSETS):
        flat_out, flat_state, flat_every = module(one_after_another(x), hx, cu_seqlens=given, return_all=True)
        same((flat_out, flat_state), (one_after_another(out), state))
    same(flat_every, [one_after_another(s.movedim((0, 1), (2, 3))).movedim((1, 2), (0, 1)) for s in flat(every_state)])

    by_row = make(kind, own, num_layers=2, bidirectional=True, batch_first=True)
    by_row.load_state_dict(module.state_dict())
    same(by_row(x.transpose(0, 1), hx, lengths=LENGTHS)[0].transpose(0, 1), out)


@every
def test_nothing_past_the_end_is_read_or_gets_a_gradient(kind, own):
    module = make(kind, own, bidirectional=True)
    lengths, x = [3, 0, 5, 1], draw(T, B, I)
    for b, n in enumerate(lengths):
        x[n:, b] = float("nan")
    hx = one_or_all([h.requires_grad_() for h in flat(state_of(module, B))])
    x.requires_grad_()
    out, state = module(x, hx, lengths=lengths)
    for final, initial in zip(flat(state), flat(hx), strict=True):
        assert torch.equal(final[:, 1], initial[:, 1])  # a row without ticks
    out.sum().backward()
    for b, n in enumerate(lengths):
        assert not x.grad[n:, b].any() and x.grad[:n, b].isfinite().all() and (n == 0 or x.grad[:n, b].any())
        assert all(h.grad[:, b].isfinite().all() for h in flat(hx))
    assert all(p.grad.isfinite().all() for p in module.parameters())
    assert not any(h.grad[:, 1].any() for h in flat(hx))


@every_layer
@pytest.mark.parametrize("case", ["no rows", "no ticks in any row", "no rows, lengths"])
@pytest.mark.parametrize("recompute", [False, True])
def test_no_frames_at_all(kind, case, recompute, poison):
    module = make(kind, {}, num_layers=2, bidirectional=True, recompute=recompute)
    x = draw(T, 2 if case == "no ticks in any row" else 0, I).requires_grad_()
    lengths = None if case == "no rows" else [0] * x.size(1)
    hx = state_of(module, x.size(1))
    out, state = module(x, hx, lengths=None if lengths is None else torch.tensor(lengths, dtype=torch.int64))
    assert not out.any()
    same(state, hx)
    out.sum().backward()
    assert not x.grad.any() and not any(p.grad.any() for p in module.parameters())


# -- resets ------------------------------------------------------------------------------------------------------------


def gradients(module, results):
    """Of a weighted sum of `results`, by parameter."""
    generator = torch.Generator().manual_seed(1)
    loss = sum((r * torch.randn(r.shape, generator=generator, dtype=r.dtype)).sum() for r in results)
    found = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(module.parameters(), found, strict=True)]


@every
@pytest.mark.parametrize("learn", [False, True], ids=["zeros", "learned"])
def test_resets_cut_into_episodes(kind, own, learn):
    """Outputs, final states and gradients are those of every episode run alone, in both directions."""
    module = make(kind, own, bidirectional=True, learn_reset_state=learn)
    learned = {n: p for n, p in module.named_parameters() if n.startswith("reset_")}
    assert len(learned) == (2 * len(module.states) if learn else 0) and not any(p.any() for p in learned.values())
    for p in learned.values():
        nn.init.normal_(p)
    x, hx = draw(T, B, I), state_of(module, B)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[2, :2], resets[0, 3], resets[4, 1] = True, True, True
    out, state = module(x, hx, resets=resets)

    fresh = [torch.zeros(2, module._width(s), dtype=torch.float64) for s in module.states]
    if learn:
        fresh = [
            torch.stack([getattr(module, f"reset_{s}_l0{way}") for way in ("", "_reverse")]) for s in module.states
        ]
    outs, finals = [], []
    for b in range(B):
        starts = sorted({0, *resets[:, b].nonzero().flatten().tolist()})
        row, first, last = [], [], []
        for start, end in itertools.pairwise([*starts, T]):
            # Forward begins afresh where resets say so, the reverse direction wherever an episode follows.
            begins = resets[start, b], end < T
            given = [h[:, b] for h in flat(hx)]
            initial = [torch.stack([f[d] if begins[d] else g[d] for d in range(2)]) for f, g in zip(fresh, given)]
            episode, ended = module(x[start:end, b], one_or_all(initial))
            row.append(episode)
            first = first or [s[1] for s in flat(ended)]  # where the reverse direction ends
            last = [s[0] for s in flat(ended)]
        outs.append(torch.cat(row))
        finals.append([torch.stack(s) for s in zip(last, first, strict=True)])
    expected = [torch.stack(outs, 1), *(torch.stack(s, 1) for s in zip(*finals, strict=True))]
    same((out, state), expected)
    same(gradients(module, [out, *flat(state)]), gradients(module, expected))


@every_layer
def test_resets_in_every_layout(kind):
    module = make(kind, {}, num_layers=2, bidirectional=True, learn_reset_state=True)
    by_row = make(kind, {}, num_layers=2, bidirectional=True, learn_reset_state=True, batch_first=True)
    for name, p in module.named_parameters():
        if name.startswith("reset_"):
            nn.init.normal_(p)
    by_row.load_state_dict(module.state_dict())
    x, hx, resets = draw(T, B, I), state_of(module, B), torch.rand(T, B) < 0.4
    whole = module(x, hx, resets=resets)
    same(module(x, hx, resets=resets.unsqueeze(-1)), whole)  # TorchRL's is_init
    for flags in (resets.t(), resets.t().unsqueeze(-1)):
        out, state = by_row(x.transpose(0, 1), hx, resets=flags)
        same((out.transpose(0, 1), state), whole)
    row = one_or_all([h[:, 1] for h in flat(hx)])
    same(module(x[:, 1], row, resets=resets[:, 1])[0], whole[0][:, 1])

    ragged = module(x, hx, resets=resets, lengths=LENGTHS)
    out, state = module(pack(x), hx, resets=pack(resets))
    same((pad_packed_sequence(out, total_length=T)[0], state), ragged)
    out, state = module(one_after_another(x), hx, cu_seqlens=OFFSETS, resets=one_after_another(resets))
    same((out, state), (one_after_another(ragged[0]), ragged[1]))


# -- randomness --------------------------------------------------------------------------------------------------------


def masks_of(module, seed, ticks=T, rows=B):
    """The masks that `seed` stands for, one `Masks` a layer and direction."""
    made = []
    for k, names in enumerate(module._weight_names):
        inputs = I if k < module._directions else H * module._directions
        per = (ticks,) if module.recurrent_dropout_mode == "step" else ()
        weight = names[1] and getattr(module, names[1]).shape
        shapes = {
            "zoneout": (ticks, rows, H),
            "zoneout_cell": (ticks, rows, H),
            "recurrent": (*per, rows, H),
            "input": (*per, rows, inputs),
            "weight": weight,
        }
        rates = [getattr(module, f"{n}_dropout" if n in ("recurrent", "input", "weight") else n) for n in shapes]
        made.append(
            Masks(
                *(
                    reference.random.mask(name, p, torch.tensor(seed), tuple(shape), k) if p else None
                    for (name, shape), p in zip(shapes.items(), rates, strict=True)
                )
            )
        )
    return made


@every
@pytest.mark.parametrize("mode", ["sequence", "step"])
def test_seeds_and_masks(kind, own, mode):
    options = everything_on(make(kind, own)) | {"gradient_clip": 0.1, "recurrent_dropout_mode": mode}
    module, x = make(kind, own, num_layers=2, bidirectional=True, **options), draw(T, B, I)
    torch.manual_seed(4)
    drawn = module(x)
    torch.manual_seed(4)
    assert torch.equal(module(x)[0], drawn[0]) and not torch.equal(module(x)[0], drawn[0])

    seeded = module(x, seed=5)
    same(module(x, seed=torch.tensor(5)), seeded)
    same(module(x, masks=masks_of(module, 5)), seeded)
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0]) and not torch.equal(module(x)[0], seeded[0])
    same(module(x, seed=5), seeded)  # drawn in evaluation too, where a seed is given

    # by row and tick, however the input lies; packed rows count in their own order
    masks = masks_of(module, 5)
    ragged = module(x, seed=5, lengths=LENGTHS)
    same(module(x, masks=masks, lengths=LENGTHS), ragged)
    same(module(one_after_another(x), seed=5, cu_seqlens=OFFSETS)[1], ragged[1])
    same(module(pack(x), masks=masks)[1], ragged[1])
    longest_first = module(x[:, [1, 3, 0, 2]], seed=5, lengths=[5, 4, 3, 1])
    same(module(pack(x), seed=5)[1], [s[:, [2, 0, 3, 1]] for s in flat(longest_first[1])])


@every_layer
@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63 - 1])
def test_any_64_bits_are_a_seed(kind, seed):
    module, x = make(kind, {}, zoneout=0.5), draw(T, B, I)
    same(module(x, seed=seed), module(x, masks=masks_of(module, seed)))


@every_layer
def test_masks_are_the_same_for_every_thread_count_and_instruction_set(kind):
    module, x, results = make(kind, {}, **everything_on(make(kind, {}))), draw(T, 12, I), []
    for isa in rk.info()["available"]:
        for threads in (1, 2):
            rk.set_isa(isa)
            torch.set_num_threads(threads)
            results.append(module(x, seed=3))
    for result in results[1:]:
        same(result, results[0])


@every
def test_evaluation_takes_the_expectation(kind, own):
    """Zoneout mixes old and new, h made of the c before its own zoneout; dropouts do nothing."""
    cell = getattr(rk, f"{kind.__name__}Cell")
    rates = {"zoneout": 0.3} | ({"zoneout_cell": 0.4} if "c" in make(kind, own).states else {})
    options = {k: v for k, v in everything_on(make(kind, own)).items() if k.endswith("dropout")}
    layer, plain = make(kind, own, **rates, **options).eval(), cell(I, H, **own, dtype=torch.float64)
    plain.load_state_dict({k.replace("_l0", ""): v for k, v in layer.state_dict().items()})
    x, hx = draw(3, B, I), state_of(layer, B)
    old = [h[0] for h in flat(hx)]
    for tick in x:
        new = flat(plain(tick, one_or_all(old)))
        rate = {"h": 0.3, "c": rates.get("zoneout_cell", 0.0)}
        old = [
            o * rate[name] + n * (1 - rate[name]) if name in rate else n
            for name, o, n in zip(layer.states, old, new, strict=True)
        ]
    same([s[0] for s in flat(layer(x, hx)[1])], old)


@every
def test_rates_of_zero_and_one(kind, own):
    x = draw(T, B, I)
    kept = make(kind, own, zoneout=1.0)
    hx = state_of(kept, B)
    out, state = kept(x, hx)
    same((out, flat(state)[0]), (flat(hx)[0].expand(T, B, H), flat(hx)[0]))
    deaf = make(kind, own, input_dropout=1.0)
    same(deaf(x), deaf(torch.zeros_like(x)))
    plain = make(kind, own)
    same(plain(x, seed=1), plain(x))
    if plain.has_recurrent_product and plain.cell != "gru3":
        dropped = make(kind, own, weight_dropout=1.0)
        same(dropped(x, hx, masks=Masks(weight=torch.zeros_like(dropped.weight_hh_l0))), dropped(x, hx))


WITH_PRODUCT = [k for k in LAYERS if k.has_recurrent_product is not False]


@pytest.mark.parametrize("kind", WITH_PRODUCT, ids=lambda k: k.__name__)
def test_weight_dropout_never_touches_the_parameter(kind):
    module, x = make(kind, {}, num_layers=2, weight_dropout=0.5), draw(T, B, I)
    before = {n: (p, p._version, p.detach().clone()) for n, p in module.named_parameters()}
    first, names = module(x)[0], list(module.state_dict())
    first.sum().backward()
    assert not torch.equal(first, module(x)[0]) and list(module.state_dict()) == names
    for name, p in module.named_parameters():
        was, version, value = before[name]
        assert p is was and p._version == version and torch.equal(p, value) and p.is_leaf
    mask = masks_of(module, 9)[0].weight
    module.zero_grad()
    module(x, seed=9)[0].sum().backward()
    assert torch.equal(module.weight_hh_l0.grad == 0, mask == 0)  # a weight that is out gets no gradient


@pytest.mark.parametrize("kind", LAYERS, ids=lambda k: k.__name__)
def test_vmap_over_seeds(kind):
    module, x = make(kind, {}, zoneout=0.5), draw(T, B, I)
    seeds = torch.tensor([3, 4])
    parameters = dict(module.named_parameters())

    def out(seed):
        return functional_call(module, parameters, (x,), {"seed": seed})[0]

    same(vmap(out, randomness="different")(seeds), torch.stack([out(s) for s in seeds]))


# -- the whole stack against the reference -----------------------------------------------------------------------------


def stack_results(module, x, hx, keywords, dtype):
    """Outputs, final and all states, and the gradients of their weighted sum, by name."""
    module = copy.deepcopy(module).to(dtype)
    x = x.to(dtype).requires_grad_()
    hx = [h.to(dtype).requires_grad_() for h in hx]
    results = flat(module(x, one_or_all(hx), **keywords))
    names, leaves = zip(*module.named_parameters())
    leaves = [*leaves, x, *hx]
    generator = torch.Generator().manual_seed(3)
    weighted = [torch.randn(r.shape, generator=generator).to(dtype) for r in results]
    found = torch.autograd.grad(results, leaves, weighted, allow_unused=True)
    labels = [
        "out",
        *(f"{s}_n" for s in module.states),
        *module.states,
        *names,
        "x",
        *(f"{s}_0" for s in module.states),
    ]
    values = [r.detach() for r in results] + [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found)]
    return dict(zip(labels, values, strict=True))


def plain_layer(cell, x, w_ih, w_hh, b_ih, b_hh, w_hr, states, batch_sizes=None, reverse=False, **rest):
    return reference.layer(cell, x, w_ih, w_hh, b_ih, b_hh, w_hr, states, batch_sizes, reverse, **rest)


def problem(kind, own, **options):
    """A stack with all options, and what is given to it."""
    options = everything_on(make(kind, own)) | options
    module = make(kind, own, num_layers=2, bidirectional=True, learn_reset_state=True, dtype=torch.float32, **options)
    for name, p in module.named_parameters():
        if name.startswith("reset_"):
            nn.init.uniform_(p, -0.5, 0.5)
    keywords = {"resets": torch.rand(T, B) < 0.3, "lengths": [4, 0, 3, 2], "return_all": True, "seed": 7}
    return module, torch.randn(T, B, I), [h.float() for h in flat(state_of(module, B))], keywords


@every
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("clip", [None, 0.05], ids=["", "gradient_clip"])
def test_everything_at_once_is_what_the_reference_does(kind, own, recompute, clip, monkeypatch):
    """All options, masks, lengths and resets together: outputs, all states and gradients."""
    given = problem(kind, own, recompute=recompute, gradient_clip=clip)
    ours = stack_results(*given, torch.float64)
    monkeypatch.setattr(functional, "layer", plain_layer)
    same(ours, stack_results(*given, torch.float64))


@every
def test_everything_at_once_in_float32(kind, own, monkeypatch):
    """The same by the error rule."""
    given = problem(kind, own)
    ours = stack_results(*given, torch.float32)
    monkeypatch.setattr(functional, "layer", plain_layer)
    wanted = expected(lambda: list(stack_results(*given, torch.float64).values()))
    for (label, actual), one in zip(ours.items(), wanted, strict=True):
        assert_as_good_as(actual, one, label)


@every
def test_recompute_is_save(kind, own):
    saved = make(kind, own, num_layers=2, bidirectional=True)
    again = make(kind, own, num_layers=2, bidirectional=True, recompute=True)
    again.load_state_dict(saved.state_dict())
    x = draw(40, 2, I)
    for one, other in ((saved(x), again(x)), (saved(x, lengths=[7, 11]), again(x, lengths=[7, 11]))):
        same(other, one)
        same(gradients(again, flat(other)), gradients(saved, flat(one)))


@every
def test_gradients_reach_every_parameter(kind, own):
    module = make(kind, own, num_layers=2, bidirectional=True)
    out, state = module(draw(T, B, I))
    (out.square().sum() + sum(s.square().sum() for s in flat(state))).backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


# -- limits ------------------------------------------------------------------------------------------------------------


WITH_CELL = [k for k in LAYERS if "c" in k.states]


@pytest.mark.parametrize("kind", WITH_CELL, ids=lambda k: k.__name__)
def test_cell_clip(kind):
    module = make(kind, {}, cell_clip=0.05, bidirectional=True)
    _, _, states = module(draw(T, B, I), return_all=True)
    assert states["c"].abs().max() == 0.05
    module.cell_clip = None
    assert module(draw(T, B, I), return_all=True)[2]["c"].abs().max() > 0.05


@every
def test_gradient_clip(kind, own):
    module = make(kind, own)
    x, hx = draw(T, B, I), [h.requires_grad_() for h in flat(state_of(module, B))]

    def gradient():
        (found,) = torch.autograd.grad(1e3 * module(x, one_or_all(hx))[0].sum(), hx[0], allow_unused=True)
        return 0.0 if found is None else found.abs().max()

    free = gradient()
    module.gradient_clip = 0.01
    clipped = gradient()
    assert clipped <= 0.01 and (free == 0 or clipped > 0)
    assert free == 0 or free > 0.01


@pytest.mark.parametrize("options", [{"gradient_clip": 0.1}, {"gradient": "truncated"}], ids=str)
def test_what_is_no_true_gradient_refuses_a_second_one(options):
    module, x = make(rk.PeepholeLSTM, options), draw(T, B, I).requires_grad_()
    (g,) = torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward|true gradient|derivative"):
        g.sum().backward()


def test_forget_bias():
    for kind in (rk.LSTM, rk.PeepholeLSTM, rk.LayerNormLSTM):
        layer = kind(I, H, 2, forget_bias=1.5, bidirectional=True)
        for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
            ih, hh = getattr(layer, f"bias_ih_{suffix}"), getattr(layer, f"bias_hh_{suffix}")
            assert (ih[H : 2 * H] == 1.5).all() and not hh[H : 2 * H].any() and (ih[:H] != 1.5).all() and hh[:H].any()
        cell = getattr(rk, f"{kind.__name__}Cell")(I, H, forget_bias=-1)
        assert ((cell.bias_ih + cell.bias_hh)[H : 2 * H] == -1).all()
    layer = rk.LSTM1997(I, H, block_size=2, bias="gates", forget_gate=True, forget_bias=2)
    assert (layer.bias_ih_l0[9:18] == 2).all() and (layer.bias_ih_l0[:9] != 2).all()


@every_layer
def test_options_are_attributes(kind):
    """Changed later, they act at the next call; a wrong value is refused and leaves the old one."""
    module, x = make(kind, {}), draw(T, B, I)
    before = module(x)[0]
    module.zoneout = 1.0
    assert not module(x)[0].any()
    with pytest.raises(ValueError, match="^zoneout: expected"):
        module.zoneout = 2
    assert module.zoneout == 1.0
    module.zoneout = 0.0
    same(module(x)[0], before)


# -- one tick ----------------------------------------------------------------------------------------------------------


@every
def test_a_layer_is_its_cell_ticked(kind, own):
    cell, layer = getattr(rk, f"{kind.__name__}Cell")(I, H, dtype=torch.float64, **own), make(kind, own)
    assert [f"{n}_l0" for n, _ in cell.named_parameters()] == [n for n, _ in layer.named_parameters()]
    layer.load_state_dict({f"{n}_l0": v for n, v in cell.state_dict().items()})
    x, hx, one = draw(T, B, I), None, None
    for tick in x:
        hx, one = cell(tick, hx), cell(tick[0], one)
    _, final = layer(x)
    same(hx, [s[0] for s in flat(final)])
    same(one, [s[0, 0] for s in flat(final)])


@every
def test_options_of_cells(kind, own):
    cell = getattr(rk, f"{kind.__name__}Cell")
    plain = cell(I, H, dtype=torch.float64, **own)
    zoned = cell(I, H, dtype=torch.float64, zoneout=0.5, input_dropout=0.5, **own)
    zoned.load_state_dict(plain.state_dict())
    x, hx = draw(B, I), one_or_all([draw(B, plain._width(s)) for s in plain.states])
    assert not torch.equal(flat(zoned(x, hx))[0], flat(zoned(x, hx))[0])
    same(zoned(x, hx, seed=1), zoned(x, hx, seed=torch.tensor(1)))
    keep, drop = (torch.rand(B, H) < 0.5).double(), 2 * (torch.rand(B, I) < 0.5).double()
    new, mixed = flat(plain(x * drop, hx)), flat(zoned(x, hx, masks=Masks(zoneout=keep, input=drop)))
    same(mixed, [keep * flat(hx)[0] + (1 - keep) * new[0], *new[1:]])
    row = one_or_all([h[0] for h in flat(hx)])
    same(zoned(x[0], row, masks=Masks(zoneout=keep[0], input=drop[0])), [s[0] for s in mixed])


# -- what users do with modules ----------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict", "replicate"])
def test_copies(kind, own, way):
    options = everything_on(make(kind, own)) | {"learn_reset_state": True}
    module, x = make(kind, own, num_layers=2, **options), draw(T, B, I)
    if way == "deepcopy":
        twin = copy.deepcopy(module)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(module))
    elif way == "state_dict":
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        twin = make(kind, own, num_layers=2, **options)
        twin.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    else:  # as DataParallel does
        twin = module._replicate_for_data_parallel()
        for name, p in module.named_parameters():
            setattr(twin, name, p.clone())
    resets = torch.rand(T, B) < 0.3
    same(twin(x, resets=resets, seed=2), module(x, resets=resets, seed=2))
    assert repr(twin) == repr(module)


@every
def test_parametrize(kind, own):
    class Double(nn.Module):
        def forward(self, w):
            return w + w

    options = everything_on(make(kind, own))
    module, x = make(kind, own, num_layers=2, **options), draw(T, B, I)
    plain = copy.deepcopy(module)
    for name in ("weight_ih_l0", *(["weight_hh_l1"] if hasattr(module, "weight_hh_l1") else [])):
        parametrize.register_parametrization(module, name, Double())
        with torch.no_grad():
            getattr(plain, name).mul_(2)
    same(module(x, seed=2), plain(x, seed=2))
    same(copy.deepcopy(module)(x, seed=2), plain(x, seed=2))
    module(x)[0].sum().backward()
    assert module.parametrizations.weight_ih_l0.original.grad is not None
    parametrize.remove_parametrizations(module, "weight_ih_l0")
    same(module(x, seed=2), plain(x, seed=2))


@every
def test_dtypes_and_devices(kind, own):
    module = make(kind, own, num_layers=2)
    assert all(t.dtype == torch.float32 for t in flat(module.float()(torch.randn(T, B, I))))
    half = copy.deepcopy(module).bfloat16()
    assert all(t.dtype == torch.bfloat16 for t in flat(half(torch.randn(T, B, I).bfloat16())))
    out, state = module.to("meta")(torch.zeros(T, B, I, device="meta"))
    assert out.shape == (T, B, H) and all(s.is_meta for s in flat(state))


@every
def test_autocast(kind, own):
    module, x = kind(I, H, 2, **own), torch.randn(T, B, I)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = module(x)
    assert torch.equal(out, copy.deepcopy(module).bfloat16()(x.bfloat16())[0])
    out.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in module.parameters() if p.grad is not None)


@every
def test_repr_says_what_differs(kind, own):
    assert repr(kind(I, H)) == f"{kind.__name__}({I}, {H})"
    text = repr(kind(I, H, 2, **own, zoneout=0.25, recompute=True))
    assert "num_layers=2" in text and "zoneout=0.25, recompute=True" in text
    for name, value in own.items():
        shown = name == "mask" or not (kind is rk.RNN and value in ("tanh", "relu"))  # torch.nn shows neither
        assert (f"{name}={'given' if name == 'mask' else value}" in text) == shown
    assert "dropout" not in text and "cell_clip" not in text


# -- compile and export ------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()


@every
def test_compile_and_export(kind, own, fresh_dynamo):
    options = everything_on(make(kind, own)) | {"learn_reset_state": True}
    module, x = make(kind, own, bidirectional=True, **options), draw(T, B, I)
    keywords = {"lengths": torch.tensor(LENGTHS), "resets": torch.rand(T, B) < 0.3, "return_all": True}
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.manual_seed(3)
    found = compiled(x, **keywords)
    torch.manual_seed(3)
    expected = module(x, **keywords)
    same(found, expected)
    same(gradients(module, flat(found)), gradients(module, flat(expected)))
    del keywords["return_all"]
    program = torch.export.export(module.eval(), (x,), keywords, strict=False)
    same(program.module()(x, **keywords), module(x, **keywords))


@every_layer
def test_compile_of_packed_frames(kind, fresh_dynamo):
    module, x = make(kind, {}), one_after_another(draw(T, B, I))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    offsets = torch.tensor(OFFSETS)
    same(compiled(x, cu_seqlens=offsets), module(x, cu_seqlens=offsets))


# -- which weights there are -------------------------------------------------------------------------------------------


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    "hidden, inputs, gru, variants, lstm",
    [
        (100, 1, 30_600, (30_400, 30_200, 10_400), 40_800),
        (100, 28, 38_700, (33_100, 32_900, 13_100), 51_600),
        (128, 128, 98_688, (65_920, 65_664, 33_152), 131_584),
    ],
)
def test_weights_of_dey_and_salem(hidden, inputs, gru, variants, lstm):
    assert tuple(count(kind(inputs, hidden)) for kind in (rk.GRU1, rk.GRU2, rk.GRU3)) == variants
    # They count one bias a gate, torch.nn has two.
    assert count(rk.GRU(inputs, hidden, reset_after=False)) - 3 * hidden == gru
    assert count(rk.LSTM(inputs, hidden)) - 4 * hidden == lstm


PAPERS = {
    "reber_3x2": 276,
    "reber_4x1": 264,
    "long_lag_2a": 10_504,
    "long_lag_2b": 10_504,
    "long_lag_2c": 364,
    "two_sequences_3a": 102,
    "two_sequences_3b": 102,
    "two_sequences_3c": 102,
    "adding": 93,
    "multiplication": 93,
    "temporal_order_6a": 156,
    "temporal_order_6b": 308,
    "continual": 424,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_of_hochreiter_schmidhuber_and_gers(name):
    assert weights(network(name, torch.Generator())) == PAPERS[name]


def test_weights_that_grow_with_p_and_those_of_the_peephole_network():
    for p in (50, 100, 200, 500, 1000):
        assert weights(network(variable_lag(p), torch.Generator())) == 6 * p + 64
    assert weights(timing(torch.Generator())) == 17


PARAMETERS = {
    rk.PeepholeLSTM: {"weight_ih": (4 * H, I), "weight_hh": (4 * H, H), "bias_ih": (4 * H,), "bias_hh": (4 * H,)}
    | {"weight_ch": (3 * H,)},
    rk.CoupledLSTM: {"weight_ih": (3 * H, I), "weight_hh": (3 * H, H), "bias_ih": (3 * H,), "bias_hh": (3 * H,)},
    rk.LayerNormLSTM: {"weight_ih": (4 * H, I), "weight_hh": (4 * H, H), "bias_ih": (4 * H,), "bias_hh": (4 * H,)}
    | {"ln_ih_weight": (4 * H,), "ln_hh_weight": (4 * H,), "ln_c_weight": (H,), "ln_c_bias": (H,)},
    rk.LayerNormGRU: {"weight_ih": (3 * H, I), "weight_hh": (3 * H, H), "bias_ih": (3 * H,), "bias_hh": (3 * H,)}
    | {"ln_ih_weight": (3 * H,), "ln_hh_weight": (3 * H,)},
    rk.GRU1: {"weight_ih": (H, I), "weight_hh": (3 * H, H), "bias_ih": (3 * H,)},
    rk.GRU2: {"weight_ih": (H, I), "weight_hh": (3 * H, H), "bias_ih": (H,)},
    rk.GRU3: {"weight_ih": (H, I), "weight_hh": (H, H), "bias_ih": (3 * H,)},
    rk.IndRNN: {"weight_ih": (H, I), "weight_hh": (H,), "bias_ih": (H,)},
    rk.LSTM1997: {"weight_ih": (3 * H, I), "weight_hh": (3 * H, 3 * H)},
}


@pytest.mark.parametrize("kind", PARAMETERS, ids=lambda k: k.__name__)
def test_names_and_shapes_of_parameters(kind):
    expected = {f"{n}_l0": shape for n, shape in PARAMETERS[kind].items()}
    assert {n: tuple(p.shape) for n, p in kind(I, H).named_parameters()} == expected
    bare = kind(I, H, 2, bias=False, bidirectional=True)
    names = [n for n in PARAMETERS[kind] if not n.startswith("bias")]
    suffixes = ("l0", "l0_reverse", "l1", "l1_reverse")
    assert [n for n, _ in bare.named_parameters()] == [f"{n}_{s}" for s in suffixes for n in names]
    for name, p in kind(I, H).named_parameters():
        if name.startswith("ln_"):
            assert (p == (1.0 if "weight" in name else 0.0)).all()
        else:
            assert p.abs().max() <= H**-0.5 and p.std() > 0.3 * H**-0.5


# -- the recurrent mask of RNN -----------------------------------------------------------------------------------------


def test_masked_weights_are_absent():
    masks = [torch.ones(H, H).tril(), None]
    module = make(rk.RNN, {}, num_layers=2, mask=masks, bidirectional=True)
    plain = make(rk.RNN, {}, num_layers=2, bidirectional=True)
    state = {name: v.clone() for name, v in module.state_dict().items()}
    assert torch.equal(state.pop("mask_l0"), masks[0].double()) and "mask_l1" not in state
    for name in ("weight_hh_l0", "weight_hh_l0_reverse"):
        state[name] *= masks[0]
    plain.load_state_dict(state)
    x = draw(T, B, I)
    same(module(x), plain(x))
    module(x)[0].sum().backward()
    assert not (module.weight_hh_l0.grad * (1 - masks[0])).any() and module.weight_hh_l1.grad.all()


def test_a_mask_makes_layers_of_a_fully_recurrent_network():
    """Two layers are one fully connected network in which the second half reads the first a tick later."""
    half = H // 2
    mask = torch.ones(H, H)
    mask[:half, half:] = 0
    whole = make(rk.RNN, {}, mask=mask, bias=False)
    with torch.no_grad():
        whole.weight_ih_l0[half:] = 0  # the input reaches the first layer alone
    layers = rk.RNN(I, half, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layers.weight_ih_l0.copy_(whole.weight_ih_l0[:half])
        layers.weight_hh_l0.copy_(whole.weight_hh_l0[:half, :half])
        layers.weight_ih_l1.copy_(whole.weight_hh_l0[half:, :half])
        layers.weight_hh_l1.copy_(whole.weight_hh_l0[half:, half:])
    x = draw(T, B, I)
    same(whole(x)[0][1:, :, half:], layers(x)[0][:-1])


# -- convert -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module, word",
    [
        (rk.LSTM(I, H, zoneout=0.1), "zoneout"),
        (rk.LSTM(I, H, cell_clip=3.0), "cell_clip"),
        (rk.LSTM(I, H, learn_reset_state=True), "learn_reset_state"),
        (rk.GRU(I, H, reset_after=False), "reset_after"),
        (rk.GRUCell(I, H, reset_after=False), "reset_after"),
        (rk.RNN(I, H, mask=torch.ones(H, H)), "mask"),
        (rk.RNN(I, H, nonlinearity="logistic"), "nonlinearity"),
        (rk.PeepholeLSTM(I, H), "no such module"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_what_torch_has_not_stays(module, word):
    report = []
    with pytest.warns(UserWarning, match=word):
        assert rk.convert(module, "torch", report) is module
    assert word in report[0].reason


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_what_torch_has_comes_back_as_torch_makes_it(name):
    options = {"forget_bias": 1.0} if "LSTM" in name else {}  # a matter of initialisation, done with
    back = rk.convert(getattr(rk, name)(I, H, **options), "torch")
    fresh = getattr(nn, name)(I, H)
    assert type(back) is type(fresh) and set(vars(back)) == set(vars(fresh))


# -- mistakes ----------------------------------------------------------------------------------------------------------

MISTAKES = [
    (rk.GRU, {"zoneout_cell": 0.1}, "zoneout_cell"),
    (rk.GRU, {"cell_clip": 1.0}, "cell_clip"),
    (rk.IndRNN, {"recurrent_dropout": 0.1}, "recurrent_dropout"),
    (rk.IndRNN, {"weight_dropout": 0.1}, "weight_dropout"),
    (rk.LSTM1997, {"recurrent": False, "weight_dropout": 0.1}, "weight_dropout"),
    (rk.LSTM, {"zoneout": 1.5}, "zoneout"),
    (rk.LSTM, {"zoneout": True}, "zoneout"),
    (rk.LSTM, {"zoneout": float("nan")}, "zoneout"),
    (rk.LSTM, {"proj_size": 2, "zoneout": 0.1}, "zoneout"),
    (rk.LSTM, {"input_dropout": "much"}, "input_dropout"),
    (rk.LSTM, {"cell_clip": -1}, "cell_clip"),
    (rk.LSTM, {"cell_clip": 0}, "cell_clip"),
    (rk.LSTM, {"gradient_clip": "x"}, "gradient_clip"),
    (rk.LSTM, {"recurrent_dropout_mode": "tick"}, "recurrent_dropout_mode"),
    (rk.LSTM, {"recompute": "drop"}, "recompute"),
    (rk.LSTM, {"learn_reset_state": 1}, "learn_reset_state"),
    (rk.LSTM, {"forget_bias": "1"}, "forget_bias"),
    (rk.LSTM, {"bias": False, "forget_bias": 1}, "forget_bias"),
    (rk.GRU, {"forget_bias": 1}, "forget_bias"),
    (rk.CoupledLSTM, {"forget_bias": 1}, "forget_bias"),
    (rk.LSTM1997, {"bias": "all", "forget_bias": 1}, "forget_bias"),
    (rk.LSTM1997, {"forget_gate": True, "forget_bias": 1}, "forget_bias"),
    (rk.PeepholeLSTM, {"g": "sine"}, "g"),
    (rk.PeepholeLSTM, {"gradient": "half"}, "gradient"),
    (rk.PeepholeLSTM, {"proj_size": 2}, "proj_size"),
    (rk.LayerNormGRU, {"norm": "carry"}, "norm"),
    (rk.LayerNormGRU, {"eps": -1}, "eps"),
    (rk.LayerNormLSTM, {"eps": "small"}, "eps"),
    (rk.GRU, {"activation": "relu"}, "activation"),
    (rk.GRU, {"reset_after": 1}, "reset_after"),
    (rk.GRU1, {"activation": "sine"}, "activation"),
    (rk.IndRNN, {"nonlinearity": "logistic"}, "nonlinearity"),
    (rk.LSTM1997, {"block_size": 4}, "hidden_size"),
    (rk.LSTM1997, {"block_size": 0}, "block_size"),
    (rk.LSTM1997, {"bias": "some"}, "bias"),
    (rk.LSTM1997, {"forget_gate": 1}, "forget_gate"),
    (rk.LSTM1997, {"h": "sine"}, "h"),
    (rk.RNN, {"mask": torch.ones(H - 1, H)}, "mask"),
    (rk.RNN, {"mask": torch.full((H, H), 2.0)}, "mask"),
    (rk.RNN, {"mask": [torch.ones(H, H)] * 2}, "mask"),
]


@pytest.mark.parametrize(
    "kind, options, word",
    MISTAKES,
    ids=lambda v: v.__name__ if isinstance(v, type) else None if v is dict else str(v)[:40],
)
def test_constructor_mistakes(kind, options, word):
    with pytest.raises(ValueError, match=f"^{word}: expected .*, got ") as raised:
        kind(I, H, **options)
    assert len(str(raised.value).splitlines()) == 1
    cell = getattr(rk, f"{kind.__name__}Cell")
    if set(options) <= set(inspect.signature(cell.__init__).parameters) and not isinstance(options.get("mask"), list):
        with pytest.raises(ValueError, match=f"^{word}: expected"):
            cell(I, H, **options)


FORWARD_MISTAKES = [
    ({"lengths": torch.ones(B)}, "lengths"),
    ({"lengths": torch.ones(B - 1, dtype=torch.int64)}, "lengths"),
    ({"lengths": [1, 2, 3, 4, 5]}, "lengths"),
    ({"resets": torch.zeros(T, B)}, "resets"),
    ({"resets": torch.zeros(B, T, dtype=torch.bool)}, "resets"),
    ({"resets": torch.zeros(T, B, 2, dtype=torch.bool)}, "resets"),
    ({"resets": [True]}, "resets"),
    ({"cu_seqlens": [0, 1]}, "input"),
    ({"cu_seqlens": [0, 1], "lengths": [1]}, "lengths"),
    ({"masks": []}, "masks"),
    ({"seed": 1, "masks": Masks()}, "seed"),
]


@pytest.mark.parametrize("keywords, word", FORWARD_MISTAKES, ids=[str(list(k)) for k, _ in FORWARD_MISTAKES])
def test_mistakes_in_keywords(keywords, word):
    with pytest.raises(ValueError, match=f"^{word}: expected .*, got ") as raised:
        rk.LSTM(I, H)(torch.zeros(T, B, I), **keywords)
    assert len(str(raised.value).splitlines()) == 1


OTHER_MISTAKES = {
    "a length beyond T": (lambda m, x: m(x, lengths=[1, 2, 3, T + 1]), RuntimeError, "lengths"),
    "a negative length": (lambda m, x: m(x, lengths=[1, 2, 3, -1]), RuntimeError, "lengths"),
    "lengths of one sequence": (lambda m, x: m(x[:, 0], lengths=[T]), ValueError, "lengths"),
    "lengths of a PackedSequence": (lambda m, x: m(pack(x), lengths=LENGTHS), ValueError, "lengths"),
    "resets of a PackedSequence": (
        lambda m, x: m(pack(x), resets=torch.zeros(T, B, dtype=torch.bool)),
        ValueError,
        "resets",
    ),
    "resets packed otherwise": (
        lambda m, x: m(
            pack(x),
            resets=pack_padded_sequence(torch.zeros(T, B, dtype=torch.bool), [5, 4, 3, 1]),
        ),
        ValueError,
        "resets",
    ),
    "no offsets": (lambda m, x: m(x[:, 0], cu_seqlens=[]), ValueError, "cu_seqlens"),
    "offsets that begin late": (lambda m, x: m(x[:, 0], cu_seqlens=[1, T + 1]), ValueError, "expected 0 first, got 1"),
    "offsets that miss the end": (lambda m, x: m(x[:, 0], cu_seqlens=[0, T - 1]), RuntimeError, "expected a sum of 5"),
    "offsets that fall": (lambda m, x: m(x[:, 0], cu_seqlens=[0, 4, 3, T]), ValueError, "no decrease, got 3 after 4"),
    "a mask of another shape": (lambda m, x: m(x, masks=Masks(zoneout=torch.zeros(T, B))), RuntimeError, "mask"),
}


@pytest.mark.parametrize("make_it, error, word", OTHER_MISTAKES.values(), ids=OTHER_MISTAKES.keys())
def test_other_mistakes(make_it, error, word):
    with pytest.raises(error, match=word) as raised:
        make_it(rk.LSTM(I, H), torch.zeros(T, B, I))
    assert len(str(raised.value).splitlines()) == 1, str(raised.value)
