"""What each option means, said in another way than the reference says it; all of them together are in `test_ops.py`."""

import pytest
import torch
from conftest import CELLS, check, layers, share
from recursion_1997 import recursion
from torch.autograd import grad

from rnnkernels import functional, reference
from rnnkernels.options import PLAIN, Masks, Options
from rnnkernels.reference import STATES
from rnnkernels.testing import Case, Problem, assert_as_good_as, expected, fitted

every_cell = pytest.mark.parametrize("cell", CELLS)
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
with_a_cell_state = pytest.mark.parametrize("cell", [cell for cell in CELLS if CELLS[cell]["cell_state"]])


def small(cell, **fields):
    """A case of few numbers; LSTM1997 with blocks of two."""
    sizes = {"T": 6, "B": 4, "I": 5, "H": 10}
    options = fields.pop("options", PLAIN)
    if CELLS[cell]["shared"]:
        options = options._replace(block_size=2)
    return fitted(cell, Case(**(sizes | fields), options=options))


def floats(problem, dtype=torch.float32):
    return [None if t is None else t.to(dtype) for t in problem.tensors]


# -- how sequences lie -------------------------------------------------------------------------------------------------


def by_episodes(layer):
    """`layer` without lengths, packed frames and resets: every row alone, every episode of a row a call of its own."""

    def run(cell, x, w_ih, w_hh, b_ih, b_hh, w_hr, states, batch_sizes, reverse, *, unit, lengths, resets, reset_states,
            options):  # fmt: skip
        B = states[0].size(0)
        if batch_sizes is not None:
            lengths = (batch_sizes[:, None] > torch.arange(B)).sum(0)
            first = batch_sizes.cumsum(0) - batch_sizes
            frames = [first[:n] + b for b, n in enumerate(lengths)]
        elif x.dim() == 2:
            first = lengths.cumsum(0) - lengths
            frames = [first[b] + torch.arange(n) for b, n in enumerate(lengths)]
        else:
            lengths = torch.full((B,), x.size(0)) if lengths is None else lengths
            frames = [torch.arange(n) * B + b for b, n in enumerate(lengths)]
        flat = x.reshape(-1, x.size(-1))
        flags = torch.zeros(len(flat)).bool() if resets is None else resets.reshape(-1)
        fresh = [torch.zeros_like(s[0]) for s in states]
        fresh = [f if r is None else r for f, r in zip(fresh, reset_states or [None] * len(fresh), strict=True)]
        count = len(states) if options.all_states else 1
        sequences = [flat.new_zeros(len(flat), s.size(1)) for s in states[:count]]
        finals = []
        for b, places in enumerate(frames):
            state = [s[b : b + 1] for s in states]
            cuts = [0, *(t for t in range(1, len(places)) if flags[places[t]]), len(places)]
            episodes = list(zip(cuts[:-1], cuts[1:])) if len(places) else []
            for k, (begin, end) in enumerate(reversed(episodes) if reverse else episodes):
                if k or (not reverse and flags[places[0]]):
                    state = [f.unsqueeze(0) for f in fresh]
                where = places[begin:end]
                result = layer(cell, flat[where].unsqueeze(1), w_ih, w_hh, b_ih, b_hh, w_hr, state, None, reverse,
                               unit=unit, options=options)  # fmt: skip
                state, every = result[1 : 1 + len(states)], (result[0], *result[1 + len(states) :])
                sequences = [s.index_put((where,), e[:, 0]) for s, e in zip(sequences, every, strict=True)]
            finals.append(state)
        finals = [torch.cat(rows) for rows in zip(*finals, strict=True)]
        out, *rest = (s.reshape(*x.shape[:-1], s.size(1)) for s in sequences)
        return out, *finals, *rest

    return run


@every_cell
@both_ways
@pytest.mark.parametrize("layout", ["padded", "packed", "ragged"])
@pytest.mark.parametrize("resets", [False, True], ids=["no resets", "resets"])
def test_rows_and_episodes_are_as_if_alone(cell, layout, reverse, resets):
    """Outputs, all states, and the gradients of everything, learned reset states among them."""
    problem = Problem(
        cell, small(cell, layout=layout, reverse=reverse, resets=resets, options=Options(all_states=True))
    )
    exact = problem.outputs_and_gradients(by_episodes(reference.layer), torch.float64)
    for layer, dtype in ((functional.layer, torch.float32), (reference.layer, torch.float64)):
        for label, value in problem.outputs_and_gradients(layer, dtype).items():
            wanted = problem.expected[label]._replace(value=exact[label])
            assert_as_good_as(value, wanted, f"{layer.__module__} {label}")


@every_cell
@both_ways
def test_resets_of_dense_rows(cell, reverse):
    problem = Problem(cell, small(cell, reverse=reverse, resets=True))
    exact = problem.outputs_and_gradients(by_episodes(reference.layer), torch.float64)
    for label, value in problem.outputs_and_gradients(functional.layer, torch.float32).items():
        assert_as_good_as(value, problem.expected[label]._replace(value=exact[label]), label)
    if not reverse:  # nothing before the first tick survives a reset there
        problem.resets[0] = True
        assert not problem.outputs_and_gradients(functional.layer, torch.float32)["grad_h0"].any()


@every_cell
@both_ways
def test_nothing_past_the_end_matters(cell, reverse, isa, poison):
    problem = Problem(
        cell, small(cell, layout="padded", reverse=reverse, resets=True, options=Options(all_states=True))
    )
    assert 0 in problem.lengths.tolist()
    past = torch.arange(6)[:, None] >= problem.lengths
    clean = problem.outputs_and_gradients(functional.layer, torch.float32)
    problem.tensors[0][past] = torch.nan
    for w in (problem.weights[0], *problem.weights[1 + len(STATES[cell]) :]):
        w[past] = torch.nan
    problem.resets |= past
    for label, value in problem.outputs_and_gradients(functional.layer, torch.float32).items():
        assert torch.equal(value, clean[label]), label
        if label in ("out", "grad_x") or label.endswith("_all"):
            assert torch.equal(value[past], torch.zeros_like(value[past])), label


@every_cell
@both_ways
def test_all_states_are_the_final_states_of_every_part(cell, reverse):
    problem = Problem(cell, small(cell, reverse=reverse, options=Options(all_states=True)))
    states = STATES[cell]
    results = problem.run(functional.layer, *floats(problem))
    sequences = [results[0], *results[1 + len(states) :]]
    for t in range(6):
        part = slice(5 - t, None) if reverse else slice(t + 1)
        x, *others = floats(problem, torch.float64)
        finals = expected(lambda x=x[part], o=others: problem.run(reference.layer, x, *o)[1 : 1 + len(states)])
        for name, sequence, final in zip(states, sequences, finals, strict=True):
            assert_as_good_as(sequence[5 - t if reverse else t], final, f"{name} at {t}")


# -- what is remembered ------------------------------------------------------------------------------------------------


def recomputed(cell):
    options = Options(zoneout=0.25, recurrent_dropout=0.5, all_states=True)
    for piece, T, layout in ((2, 1, "dense"), (2, 9, "packed"), (5, 17, "dense"), (6, 30, "padded"), (4, 9, "ragged")):
        for reverse in (False, True):
            kept = options._replace(recompute=piece)
            yield small(cell, T=T, layout=layout, reverse=reverse, resets=True, masks="seed", options=kept)


@layers(lambda cell: share(cell, list(recomputed(cell)), 2))
def test_recomputing(cell, case, isa, threads, poison):
    """Pieces the sequence is a multiple of or not; in one piece not a bit changes."""
    check(cell, case, torch.float32)
    problem = Problem(cell, case)
    problem.options = problem.options._replace(recompute=case.T + 1)
    ours = problem.outputs_and_gradients(functional.layer, torch.float32)
    problem.options = problem.options._replace(recompute=0)
    for label, value in problem.outputs_and_gradients(functional.layer, torch.float32).items():
        assert torch.equal(value, ours[label]), label


def kept(problem):
    """The numbers saved for backward, by shape."""
    op, tensors = getattr(torch.ops.rnnkernels, problem.cell), floats(problem)
    tensors += [None] * (7 + 2 * len(STATES[problem.cell]) - len(tensors))
    return op(*tensors, None, False, None, None, *problem.options.flat(), True, False)[-1].shape


@every_cell
def test_recomputing_keeps_states_alone(cell):
    numbers = sum(s.size(1) if CELLS[cell]["fed"] < 2 else 10 for s in Problem(cell, small(cell)).tensors[7:])
    for T, piece, pieces in ((1, 7, 1), (49, 7, 7), (50, 7, 8), (50, 1, 1)):
        problem = Problem(cell, small(cell, T=T, options=Options(recompute=piece)))
        assert kept(problem) == (pieces, 4 * numbers)  # 50 ticks of so few numbers are one piece, left to itself
    problem = Problem(cell, small(cell, T=1, B=1, H=60, options=Options(recompute=1)))
    found = []
    for T, B in ((400, 4000), (1600, 4000), (6400, 4000)):
        problem.tensors = [None if t is None else t.to("meta") for t in problem.tensors]
        problem.tensors[0] = problem.tensors[0].new_empty(T, B, 5)
        problem.tensors[7:] = [s.new_empty(B, s.size(1)) for s in problem.tensors[7:]]
        found.append(kept(problem)[0])
    assert found == [20, 40, 80]  # pieces as the root of the ticks


# -- regularisers and limits -------------------------------------------------------------------------------------------


@every_cell
def test_zoneout_of_everything_keeps_everything(cell, isa):
    cell_state = 1.0 if CELLS[cell]["cell_state"] else 0.0
    problem = Problem(cell, small(cell, masks="seed", options=Options(zoneout=1.0, zoneout_cell=cell_state)))
    for options in (problem.options, problem.options._replace(seed=None)):
        problem.options = options
        tensors = floats(problem)
        out, *finals = problem.run(functional.layer, *tensors)
        assert torch.equal(out, tensors[7].expand(6, -1, -1)) and torch.equal(finals[0], tensors[7])
        if cell_state:
            c = CELLS[cell]["cell_state"]
            assert torch.equal(finals[c], tensors[7 + c])


@every_cell
def test_zoneout_in_evaluation_is_the_mean_over_all_masks_of_a_tick(cell):
    """One tick is linear in its mask, and so exactly the mean of both."""
    p, problem = 0.25, Problem(cell, small(cell, T=1, options=Options(zoneout=0.25)))
    ours = problem.outputs_and_gradients(functional.layer, torch.float32)["out"]
    wanted = problem.expected["out"]
    old, new = (
        problem.run(functional.layer, *floats(problem, torch.float64))[0]
        for problem.options in [problem.options._replace(masks=Masks(torch.full((1, 4, 10), z))) for z in (1.0, 0.0)]
    )
    assert_as_good_as(ours, wanted._replace(value=p * old + (1 - p) * new))


@with_a_cell_state
def test_cell_clip_bounds_what_the_cell_adds_to(cell, isa):
    normalised = cell in ("layernorm_lstm_carry", "layernorm_lstm_gate")  # they carry c after its normalisation
    problem = Problem(cell, small(cell, options=Options(cell_clip=0.125)))
    where = 1 + CELLS[cell]["cell_state"]
    c = problem.run(functional.layer, *floats(problem))[where]
    assert (c.abs().max() == 0.125) == (not normalised)
    assert not torch.equal(
        c, Problem(cell, small(cell)).run(functional.layer, *floats(problem))[1 + CELLS[cell]["cell_state"]]
    )


def test_a_cell_state_at_its_limit_has_no_gradient(isa):
    """Not even one that stays there without being cut: a kernel cannot tell the two apart."""
    problem = Problem("lstm1997_open", small("lstm1997_open", options=Options(cell_clip=0.5)))
    for tensor in problem.tensors[:5]:  # the input, weights and biases, and with them what would be added
        if tensor is not None:
            tensor.zero_()
    problem.tensors[-1].fill_(0.5)
    for function, dtype in ((functional.layer, torch.float32), (problem.theirs, torch.float64)):
        results = problem.outputs_and_gradients(function, dtype)
        assert (results["c_n"] == 0.5).all() and not results["grad_c0"].any()


@every_cell
def test_gradient_clip_bounds_the_gradient_of_h(cell, isa):
    problem = Problem(cell, small(cell, options=Options(gradient_clip=0.03125)))
    grad_h0 = problem.outputs_and_gradients(functional.layer, torch.float32)["grad_h0"]
    assert grad_h0.abs().max() == 0.03125


@every_cell
@pytest.mark.parametrize("options", [Options(truncated=True), Options(gradient_clip=1.0)], ids=["truncated", "clip"])
def test_no_double_backward_of_what_is_no_gradient(cell, options):
    problem = Problem(cell, small(cell, options=options))
    tensors = [None if t is None else t.requires_grad_() for t in problem.tensors]
    (g,) = grad(problem.run(functional.layer, *tensors)[0].sum(), tensors[0], create_graph=True)
    with pytest.raises(
        RuntimeError, match=f"^{cell}: expected gradient='full' and no gradient_clip for a double backward"
    ):
        g.sum().backward()


# -- truncated gradients -----------------------------------------------------------------------------------------------


@every_cell
@both_ways
def test_truncated_as_the_reference_detaches(cell, reverse):
    problem = Problem(cell, small(cell, reverse=reverse, resets=True, options=Options(truncated=True)))
    problem.check(functional.layer, torch.float64)
    full = Problem(cell, small(cell, reverse=reverse, resets=True)).exact
    assert torch.equal(problem.exact["out"], full["out"])
    assert not torch.allclose(problem.exact["grad_x"], full["grad_x"])


@pytest.mark.parametrize("cell", [cell for cell in CELLS if CELLS[cell]["shared"]])
@pytest.mark.parametrize("block_size", [1, 2, 3])
@pytest.mark.parametrize("recurrence", ["full", "cells", "none"])
@pytest.mark.parametrize("squash", [("g1997", "h1997"), ("tanh", "identity")], ids=str)
def test_truncated_gradient_is_that_of_the_paper(cell, block_size, recurrence, squash, isa):
    """Backward in time here, forward in time there."""
    options = Options(truncated=True, block_size=block_size, squash=squash)
    problem = Problem(cell, Case(12, 3, 4, 6, recurrence=recurrence, options=options), torch.float64)
    x, w_ih, w_hh, b_ih = leaves = [None if t is None else t.clone().requires_grad_() for t in problem.tensors[:4]]
    out = functional.layer(cell, *leaves, options=options)[0]
    given = [t for t in leaves[1:] if t is not None]
    ours = grad(out, given, problem.weights[0])
    facts = {"block_size": block_size, "forget_gate": "forget" in cell, "output_gate": "open" not in cell}
    plain = [None if t is None else t.detach() for t in (w_ih, w_hh, b_ih)]
    rows = [recursion(x[:, b].detach(), *plain, problem.weights[0][:, b], squash=squash, **facts) for b in range(3)]
    assert (out - torch.stack([row[0] for row in rows], 1)).abs().max() <= 1e-10
    theirs = [sum(parts) for parts in list(zip(*rows))[1:] if parts[0] is not None]
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-10 and b.abs().max() > 1e-3


@pytest.mark.parametrize(
    "cell", ["lstm1997", "lstm1997_open", "lstm1997_forget", "lstm1997_forget_open", "peephole_lstm"]
)
def test_constant_error_flow(cell, isa):
    """An error at the last of 1000 ticks reaches every tick before unchanged: gates in closed, forget gates open."""
    gates = {"lstm1997": "igo", "lstm1997_open": "ig", "lstm1997_forget": "ifgo", "lstm1997_forget_open": "ifg"}
    options = Options(truncated=True)
    problem = Problem(cell, Case(10, 2, 3, 4, options=options), torch.float64)
    for gate, rows in zip(gates.get(cell, "ifgo"), problem.tensors[3].split(4)):
        if gate in "if":
            rows.copy_(torch.full((4,), -1000.0 if gate == "i" else 1000.0))
    x, *weights = torch.zeros(10, 2, 3, dtype=torch.float64), *problem.tensors[1:7]
    states, carried = problem.tensors[7:], []
    for _ in range(100):
        states = [s.requires_grad_() for s in states]
        carried.append(states[-1])
        out, *states = problem.run(functional.layer, x, *weights, *states)
    out[-1].sum().backward(inputs=carried)
    last = carried[-1].grad
    assert last.abs().min() > 1e-3
    for c in carried:
        assert (c.grad - last).abs().max() <= 1e-12


# -- transforms --------------------------------------------------------------------------------------------------------


def everything(cell, layout="padded", masks="seed", **fields):
    """A problem with every option that leaves a derivative, and a function of x, w_ih and h0 alone."""
    options = Options(zoneout=0.25, zoneout_cell=0.5, recurrent_dropout=0.5, input_dropout=0.25, weight_dropout=0.25)
    options = options._replace(cell_clip=0.5, recompute=2, all_states=True, **fields)
    problem = Problem(cell, small(cell, layout=layout, resets=True, masks=masks, options=options))
    tensors = floats(problem, torch.float64)

    def run(x, w_ih, h0):
        return problem.run(functional.layer, x, w_ih, *tensors[2:7], h0, *tensors[8:])

    return run, (tensors[0], tensors[1], tensors[7])


def loss(run):
    return lambda *given: sum(r.square().sum() for r in run(*given))


@every_cell
@pytest.mark.parametrize("masks", ["seed", "given"])
def test_func_grad_with_options(cell, masks):
    run, given = everything(cell, masks=masks)
    leaves = [t.clone().requires_grad_() for t in given]
    expected = grad(loss(run)(*leaves), leaves)
    for ours, theirs in zip(torch.func.grad(loss(run), (0, 1, 2))(*given), expected, strict=True):
        assert torch.equal(ours, theirs)


@every_cell
@pytest.mark.parametrize("layout", ["dense", "padded", "ragged"])
@pytest.mark.parametrize("where", [(0, None, None), (0, None, 0), (None, 0, 0)], ids=["x", "x and h0", "w_ih and h0"])
def test_vmap_with_options(cell, layout, where):
    """Every sample is treated as if it were alone: the masks of a seed go by its own rows."""
    run, given = everything(cell, layout)
    samples = [t if d is None else torch.stack((t, -t, t / 2)) for t, d in zip(given, where, strict=True)]
    for transform in (lambda f: f, lambda f: torch.func.grad(loss(f), (0, 1, 2))):
        together = torch.func.vmap(transform(run), where)(*samples)
        for v in range(3):
            one = transform(run)(*(t if d is None else t[v] for t, d in zip(samples, where, strict=True)))
            for ours, theirs in zip(together, one, strict=True):
                torch.testing.assert_close(ours[v], theirs)


@every_cell
def test_compile_with_options(cell):
    torch._dynamo.reset()
    run, given = everything(cell)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    leaves = [t.clone().requires_grad_() for t in given]
    for ours, theirs in zip(compiled(*leaves), run(*leaves), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(grad(loss(compiled)(*leaves), leaves), grad(loss(run)(*leaves), leaves), strict=True):
        assert torch.equal(ours, theirs)
    with torch.no_grad():
        for ours, theirs in zip(compiled(*given), run(*given), strict=True):
            assert torch.equal(ours, theirs)


@every_cell
def test_export_with_options(cell):
    run, given = everything(cell)

    class Module(torch.nn.Module):
        def forward(self, *given):
            return run(*given)

    exported = torch.export.export(Module(), given).module()
    for ours, theirs in zip(exported(*given), run(*given), strict=True):
        torch.testing.assert_close(ours, theirs)


# -- layer normalisation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.startswith("layernorm")])
@pytest.mark.parametrize("what", [1, 2], ids=["input", "recurrent"])
def test_layer_normalisation_of_a_large_mean_and_a_small_variance(cell, what, isa):
    """The products' mean is some hundred times their deviation: the mean of squares less the square loses everything.

    One tick, since whatever is lost here grows from tick to tick.
    """
    for seed in range(30):
        problem = Problem(cell, Case(1, 8, 6, 65), seed=seed)
        problem.tensors[what] = (problem.tensors[what] * 8).round() / 256 + 1
        for i in (0, 7):  # few bits, so that the products themselves are exact
            problem.tensors[i] = (problem.tensors[i].abs() * 16).round() / 16
        ours = problem.run(functional.layer, *floats(problem))
        for actual, (label, wanted) in zip(ours, problem.expected.items()):
            assert_as_good_as(actual, wanted, f"{label}, seed {seed}")


@every_cell
def test_options_when_large(cell):
    """More than one block of ticks, and two threads."""
    torch.set_num_threads(2)
    options = Options(zoneout=0.25, zoneout_cell=0.5, recurrent_dropout=0.5, input_dropout=0.25, weight_dropout=0.25)
    options = options._replace(cell_clip=0.5, gradient_clip=0.5, all_states=True)
    for T, B, I, H in share(cell, ((28, 32, 28, 100), (70, 64, 3, 100)), 2):  # noqa: E741
        case = Case(T, B, I, H, layout="padded", resets=True, masks="seed", options=options)
        check(cell, fitted(cell, case), torch.float32)


@every_cell
def test_a_nonlinearity_that_is_none_is_refused(cell):
    problem = Problem(cell, Case(2, 1, 3, 6))
    problem.options = Options(squash=("tanh", "gelu"))
    with pytest.raises(ValueError, match="^squash: expected one of tanh, relu, .*, got 'gelu'$"):
        problem.run(functional.layer, *problem.tensors)
