"""Every cell's ops on every instruction set: numbers, gradients, memory, schemas and messages."""

from itertools import product

import pytest
import torch
from conftest import CELLS, ISAS, check
from torch.autograd import gradcheck, gradgradcheck

from rnnkernels import functional
from rnnkernels.testing import CASES, LARGE, OPTIONS, Case, Problem, assert_as_good_as

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
every_cell = pytest.mark.parametrize("cell", CELLS)
any_layer = pytest.mark.parametrize("cell, case", [
    (cell, case) for cell in CELLS for case in OPTIONS if case.P is None or CELLS[cell]["projection"]
], ids=str)  # fmt: skip

# Tiny sizes for finite differences, every pair of options.
TINY = [Case(3, 3, 2, 3, 2 if case.P else None, case.bias, case.packed, case.reverse) for case in OPTIONS]
any_tiny_layer = pytest.mark.parametrize("cell, case", [
    (cell, case) for cell in CELLS for case in TINY if case.P is None or CELLS[cell]["projection"]
], ids=str)  # fmt: skip
# Inputs or gradients of several blocks of ticks, which is where a block ends and the next begins.
BLOCKS = [Case(70, 64, 3, 300, packed=packed, reverse=reverse) for packed, reverse in product((False, True), repeat=2)]


def ops(cell):
    return getattr(torch.ops.rnnkernels, cell), getattr(torch.ops.rnnkernels, f"{cell}_backward")


def forward_arguments(problem, dtype=torch.float32, save=True, requires_grad=False):
    tensors = [None if t is None else t.to(dtype).requires_grad_(requires_grad) for t in problem.tensors]
    return [*tensors, problem.batch_sizes, problem.case.reverse, save]


def backward_arguments(problem, dtype=torch.float32, needs_x=True, needs_w=True, requires_grad=False):
    *tensors, batch_sizes, reverse, _ = forward_arguments(problem, dtype)
    out, *_, saved = ops(problem.cell)[0](*tensors, batch_sizes, reverse, True)
    grads = [w.to(dtype).requires_grad_(requires_grad) for w in problem.weights]
    tensors = [None if t is None else t.requires_grad_(requires_grad) for t in tensors]
    return [*grads, *tensors, out, saved, batch_sizes, reverse, needs_x, needs_w]


def packed_case(cell):
    return Case(6, 5, 9, 17, 7 if CELLS[cell]["projection"] else None, packed=True, reverse=True)


# -- numbers -----------------------------------------------------------------------------------------------------------


@every_cell
@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: str(CASES[i]))
def test_cases(cell, index, isa):
    shift = index + ISAS.index(isa)  # every size meets both precisions and both numbers of threads
    torch.set_num_threads(1 + shift // 2 % 2)
    check(cell, CASES[index], DTYPES[shift % 2])


@any_layer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_options(cell, case, dtype, isa):
    torch.set_num_threads(1 + OPTIONS.index(case) % 2)
    check(cell, case, dtype)


@every_cell
@pytest.mark.parametrize("case", [*LARGE, *BLOCKS], ids=str)
def test_large(cell, case):
    torch.set_num_threads(2)
    check(cell, case, torch.float32)


@every_cell
@pytest.mark.parametrize("which", [3, 4], ids=["b_hh alone", "b_ih alone"])
def test_one_bias_alone(cell, which, isa):
    problem = Problem(cell, Case(4, 3, 5, 9), seed=1)
    problem.tensors[which] = None
    problem.check(functional.layer, torch.float32)


@every_cell
def test_no_inputs(cell, isa):
    check(cell, Case(3, 4, 0, 9), torch.float32)


@every_cell
def test_no_hidden_units(cell, isa):
    gates, states = CELLS[cell]["gates"], CELLS[cell]["states"]
    x, first = torch.randn(3, 2, 5, requires_grad=True), [torch.zeros(2, 0)] * states
    w_ih, w_hh, b = torch.zeros(0, 5), torch.zeros(0, 0), torch.zeros(gates * 0)
    out, *finals = functional.layer(cell, x, w_ih, w_hh, b, b, None, first)
    assert out.shape == (3, 2, 0) and all(s.shape == (2, 0) for s in finals)
    out.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@every_cell
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
def test_no_ticks(cell, packed, isa):
    problem = Problem(cell, Case(1, 3, 5, 9))
    problem.tensors[0] = torch.empty(0, 5) if packed else torch.empty(0, 3, 5)
    problem.weights[0] = torch.empty(0, 9) if packed else torch.empty(0, 3, 9)
    problem.batch_sizes = torch.empty(0, dtype=torch.int64) if packed else None
    out, *finals, saved = ops(cell)[0](*forward_arguments(problem))
    assert out.shape == problem.weights[0].shape and saved.numel() == 0
    for final, first in zip(finals, problem.tensors[6:], strict=True):
        assert torch.equal(final, first.float()) and final.data_ptr() != first.data_ptr()
    names = [label for label in problem.labels() if label.startswith("grad")]
    grads = dict(zip(names, filter(lambda g: g.shape != (0,), ops(cell)[1](*backward_arguments(problem)))))
    assert grads["grad_x"].shape == problem.tensors[0].shape
    assert not any(grads[name].any() for name in ("grad_w_ih", "grad_w_hh", "grad_b_ih", "grad_b_hh"))
    for name, weight in zip(names[-len(finals) :], problem.weights[1:], strict=True):
        assert torch.equal(grads[name], weight.float())


@every_cell
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_rows_that_never_live_and_ticks_without_rows(cell, reverse, isa):
    """What no PackedSequence holds but batch_sizes can say."""
    problem = Problem(cell, Case(4, 6, 3, 9, packed=True, reverse=reverse))
    problem.batch_sizes = torch.tensor([4, 2, 1, 0])
    problem.tensors[0], problem.weights[0] = torch.randn(7, 3).double(), torch.randn(7, 9).double()
    short = Problem(cell, Case(3, 4, 3, 9, packed=True, reverse=reverse))
    short.batch_sizes = torch.tensor([4, 2, 1])
    short.tensors = [*problem.tensors[:6], *(s[:4] for s in problem.tensors[6:])]
    short.weights = [problem.weights[0], *(w[:4] for w in problem.weights[1:])]
    ours = problem.outputs_and_gradients(functional.layer, torch.float32)
    theirs = short.outputs_and_gradients(functional.layer, torch.float32)
    for s, (first, weight) in enumerate(zip(problem.tensors[6:], problem.weights[1:], strict=True)):
        final, grad = (label for label in problem.labels() if label in ("hc"[s] + "_n", f"grad_{'hc'[s]}0"))
        assert torch.equal(ours[final][4:], first[4:].float()) and torch.equal(ours[grad][4:], weight[4:].float())
        ours[final], ours[grad] = ours[final][:4], ours[grad][:4]
    for label, value in theirs.items():
        assert_as_good_as(ours[label], value, value.double(), label)


@every_cell
def test_nan_stays_in_its_row(cell, isa):
    problem = Problem(cell, Case(5, 7, 4, 19))
    clean = problem.run(functional.layer, *(None if t is None else t.float() for t in problem.tensors))
    problem.tensors[0][2, 3, 1] = torch.nan
    stained = problem.run(functional.layer, *(None if t is None else t.float() for t in problem.tensors))
    expected = torch.zeros(5, 7, dtype=torch.bool)
    expected[2:, 3] = True
    assert torch.equal(stained[0].isnan().all(-1), expected) and torch.equal(stained[0].isnan().any(-1), expected)
    for ours, theirs in zip(stained, clean, strict=True):
        assert torch.equal(ours[~ours.isnan()], theirs[~ours.isnan()])


# -- memory ------------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "batch first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "features first": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1),
    "every other number": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "inside wider rows": lambda x: torch.cat((x, x * torch.nan), -1)[..., : x.size(-1)],
    "odd offset": lambda x: torch.cat((torch.zeros(1), x.flatten()))[1:].view(x.shape),
}
REPEATS = {"one tick": (0,), "one row": (1,), "one feature": (2,), "one number": (0, 1, 2)}


def gradients(cell, x, others, batch_sizes=None, reverse=False):
    leaves = [t.detach().requires_grad_() for t in (x, *others)]
    x, w_ih, w_hh, b_ih, b_hh, *states = leaves
    out, *finals = functional.layer(cell, x, w_ih, w_hh, b_ih, b_hh, None, states, batch_sizes, reverse)
    return [out, *finals, *torch.autograd.grad([out.square().sum(), *(s.sum() for s in finals)], leaves)]


def some_layer(cell):
    tensors = [t.float() for t in Problem(cell, Case(4, 3, 6, 9)).tensors if t is not None]
    return tensors[0], tensors[1:]


@every_cell
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_matter(cell, layout, isa):
    x, others = some_layer(cell)
    plain = gradients(cell, x, others)
    for ours, theirs in zip(gradients(cell, LAYOUTS[layout](x), others), plain, strict=True):
        assert torch.equal(ours, theirs)
    matrices = [LAYOUTS["inside wider rows"](w) for w in others]
    for ours, theirs in zip(gradients(cell, x, matrices), plain, strict=True):
        assert torch.equal(ours, theirs)
    rows = x.flatten(0, 1)[:8]
    sizes = torch.tensor([3, 3, 2])
    moved = LAYOUTS[layout](rows.unsqueeze(0)).squeeze(0)
    for ours, theirs in zip(gradients(cell, moved, others, sizes), gradients(cell, rows, others, sizes), strict=True):
        assert torch.equal(ours, theirs)


@every_cell
@pytest.mark.parametrize("axes", REPEATS.values(), ids=REPEATS.keys())
def test_expanded_inputs(cell, axes, isa):
    x, others = some_layer(cell)
    narrow = x[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(3))].expand(x.shape)
    assert 0 in narrow.stride()
    for ours, theirs in zip(gradients(cell, narrow, others), gradients(cell, narrow.contiguous(), others), strict=True):
        assert torch.equal(ours, theirs)
    expanded = [t[:1].expand(t.shape) for t in others]
    for ours, theirs in zip(
        gradients(cell, x, expanded), gradients(cell, x, [t.clone() for t in expanded]), strict=True
    ):
        assert torch.equal(ours, theirs)


@any_layer
def test_poisoned_memory(cell, case, isa, poison):
    check(cell, case, torch.float32)
    problem = Problem(cell, case, torch.float64)
    for save in (False, True):
        for result in ops(cell)[0](*forward_arguments(problem, torch.float64, save))[:-1]:
            assert result.isfinite().all()


@every_cell
@pytest.mark.parametrize("case", [case for case in CASES if case.T > 1 and case.B], ids=str)
def test_poisoned_memory_at_every_size(cell, case, poison):
    problem = Problem(cell, case)
    for save in (False, True):
        for result in ops(cell)[0](*forward_arguments(problem, save=save))[:-1]:
            assert result.isfinite().all()
    for result in ops(cell)[1](*backward_arguments(problem)):
        assert result.isfinite().all()


@any_layer
def test_bitwise_repeatable_and_inputs_untouched(cell, case, isa, threads):
    problem = Problem(cell, case)
    arguments = backward_arguments(problem)
    before = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
    first = ops(cell)[1](*arguments)
    for a, b in zip(arguments, before, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a is b
    results = ops(cell)[0](*forward_arguments(problem))
    for _ in range(3):
        for ours, theirs in zip(ops(cell)[1](*arguments), first, strict=True):
            assert torch.equal(ours, theirs)
        for ours, theirs in zip(ops(cell)[0](*forward_arguments(problem)), results, strict=True):
            assert torch.equal(ours, theirs)
    for ours, theirs in zip(ops(cell)[0](*forward_arguments(problem, save=False))[:-1], results[:-1], strict=True):
        assert torch.equal(ours, theirs)


@every_cell
def test_bitwise_repeatable_when_large(cell, threads):
    problem = Problem(cell, BLOCKS[-1])
    first = problem.outputs_and_gradients(functional.layer, torch.float32)
    for label, value in problem.outputs_and_gradients(functional.layer, torch.float32).items():
        assert torch.equal(value, first[label]), label


@any_layer
def test_backward_twice_over_a_retained_graph(cell, case, isa):
    problem = Problem(cell, case)
    tensors = [None if t is None else t.float().requires_grad_() for t in problem.tensors]
    results = problem.run(functional.layer, *tensors)
    leaves = [t for t in tensors if t is not None]
    weights = [w.float() for w in problem.weights]
    first = torch.autograd.grad(results, leaves, weights, retain_graph=True)
    for ours, theirs in zip(torch.autograd.grad(results, leaves, weights), first, strict=True):
        assert torch.equal(ours, theirs)


# -- which gradients ---------------------------------------------------------------------------------------------------


@any_layer
@pytest.mark.parametrize("needs_x, needs_w", [(True, False), (False, True), (False, False)])
def test_gradients_that_nobody_needs_are_empty(cell, case, needs_x, needs_w, isa, poison):
    problem = Problem(cell, case)
    whole = ops(cell)[1](*backward_arguments(problem))
    part = ops(cell)[1](*backward_arguments(problem, needs_x=needs_x, needs_w=needs_w))
    needs = [needs_x, *[needs_w] * 5, *[True] * CELLS[cell]["states"]]
    for ours, theirs, t, needed in zip(part, whole, problem.tensors, needs, strict=True):
        assert theirs.shape == ((0,) if t is None else t.shape) and theirs.is_contiguous()
        assert torch.equal(ours, theirs) if needed else ours.shape == (0,)


@any_layer
def test_absent_gradients_are_zero(cell, case, isa, poison):
    arguments = backward_arguments(Problem(cell, case))
    given = 1 + CELLS[cell]["states"]
    for absent in range(given):
        zeros = [torch.zeros_like(a) if i == absent else a for i, a in enumerate(arguments)]
        nothing = [None if i == absent else a for i, a in enumerate(arguments)]
        for ours, theirs in zip(ops(cell)[1](*nothing), ops(cell)[1](*zeros), strict=True):
            assert torch.equal(ours, theirs)


# -- derivatives -------------------------------------------------------------------------------------------------------


def differentiable(problem):
    """`problem` as a function of its float64 tensors, and those."""
    where = [i for i, t in enumerate(problem.tensors) if t is not None]

    def run(*given):
        tensors = dict(zip(where, given, strict=True))
        return problem.run(functional.layer, *(tensors.get(i) for i in range(len(problem.tensors))))

    return run, [problem.tensors[i].clone().requires_grad_() for i in where]


@any_tiny_layer
def test_gradcheck(cell, case, isa):
    assert gradcheck(*differentiable(Problem(cell, case, torch.float64, seed=2)), fast_mode=isa != ISAS[-1])


@any_tiny_layer
@pytest.mark.filterwarnings("ignore:rnnkernels. double backward")
def test_gradgradcheck(cell, case):
    case = Case(2, 2, 1, 2, 1 if case.P else None, case.bias, case.packed, case.reverse)
    assert gradgradcheck(*differentiable(Problem(cell, case, torch.float64, seed=3)))


@any_layer
@pytest.mark.filterwarnings("ignore:rnnkernels. forward-mode")
def test_forward_mode(cell, case):
    """One directional derivative, by forward mode and as the product with the gradients."""
    run, leaves = differentiable(Problem(cell, case, torch.float64))
    directions = [torch.randn_like(t) for t in leaves]
    results, pushed = torch.func.jvp(run, tuple(t.detach() for t in leaves), tuple(directions))
    weights = [torch.randn_like(r) for r in results]
    grads = torch.autograd.grad(run(*leaves), leaves, weights)
    ours = sum((w * p).sum() for w, p in zip(weights, pushed, strict=True))
    theirs = sum((g * d).sum() for g, d in zip(grads, directions, strict=True))
    torch.testing.assert_close(ours, theirs)


# -- registrations -----------------------------------------------------------------------------------------------------


@every_cell
@pytest.mark.parametrize("requires_grad", [False, True], ids=["no grad", "grad"])
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.filterwarnings("ignore:rnnkernels. double backward")
def test_opcheck(cell, packed, requires_grad):
    problem = Problem(cell, packed_case(cell) if packed else Case(3, 4, 5, 7, bias=False))
    forward, backward = ops(cell)
    torch.library.opcheck(forward.default, forward_arguments(problem, requires_grad=requires_grad))
    torch.library.opcheck(backward.default, backward_arguments(problem, requires_grad=requires_grad))
    if not requires_grad:
        torch.library.opcheck(forward.default, forward_arguments(problem, torch.bfloat16, save=False))
        torch.library.opcheck(
            backward.default, backward_arguments(problem, torch.bfloat16, needs_x=False, needs_w=False)
        )


@every_cell
def test_opcheck_double_backward(cell):
    arguments = backward_arguments(Problem(cell, packed_case(cell)))[: 7 + 2 * CELLS[cell]["states"]]
    where = [i for i, a in enumerate(arguments) if a is not None]
    arrived = [0, 1, 2]
    grads = [torch.randn_like(arguments[1 + CELLS[cell]["states"] + k]) for k in arrived]
    op = getattr(torch.ops.rnnkernels, f"{cell}_double_backward").default
    sizes = Problem(cell, packed_case(cell)).batch_sizes
    torch.library.opcheck(op, ([arguments[i] for i in where], where, grads, arrived, sizes, True))


def test_every_op_is_under_test():
    ours = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("rnnkernels::")]
    assert {n for n in (name.removeprefix("rnnkernels::") for name in ours) if not n.startswith("_")} == {
        cell + step for cell in CELLS for step in ("", "_backward", "_double_backward")
    }


# -- messages ----------------------------------------------------------------------------------------------------------

T, B, I, H = 3, 4, 5, 6  # noqa: E741
SIZES = torch.tensor([4, 3, 1])


def z(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


# What is wrong with the call, as changes of its arguments by name, and how the message goes on after the op's name.
FORWARD_MISTAKES = [
    ({"x": z(T, B, I, dtype=torch.int32)}, "x: expected float32, float64, bfloat16 or float16, got Int"),
    ({"x": z(T, I)}, r"x: expected 3 dimensions \(T, B, I\), got shape \(3, 5\)"),
    ({"x": z(T, B, 2)}, r"w_ih: expected shape \({G}, 2\), got \({G}, 5\)"),
    ({"x": z(T, 2, I)}, r"h0: expected shape \(2, 6\), got \(4, 6\)"),
    ({"x": z(T, B, I, dtype=torch.float64)}, "w_ih: expected dtype Double as x has, got Float"),
    ({"w_hh": z(1)}, r"w_hh: expected shape \({gates} \* H, P\), got \(1,\)"),
    ({"w_hh": z(H, 7)}, "w_.h: expected shape"),
    ({"b_ih": z(2)}, r"b_ih: expected shape \({G},\), got \(2,\)"),
    ({"b_hh": z(2)}, r"b_hh: expected shape \({G},\), got \(2,\)"),
    ({"h0": z(H)}, r"h0: expected shape \(B, P\), got \(6,\)"),
    ({"h0": z(B, 2)}, r"h0: expected shape \(4, 6\), got \(4, 2\)"),
    ({"h0": z(B, H, dtype=torch.float64)}, "h0: expected dtype Float as x has, got Double"),
    ({"c0": z(B, 2)}, r"c0: expected shape \(4, 6\), got \(4, 2\)"),
    ({"w_hr": z(2, H)}, "w_hr: this cell has no projection|w_hh: expected shape"),
    ({"x": z(8, I)}, r"x: expected 3 dimensions \(T, B, I\), got shape \(8, 5\)"),
    ({"batch_sizes": SIZES}, r"x: expected 2 dimensions \(N, I\), got shape \(3, 4, 5\)"),
    (
        {"x": z(8, I), "batch_sizes": SIZES.int()},
        r"batch_sizes: expected int64 on the CPU of shape \(T,\), got Int on cpu",
    ),
    ({"x": z(8, I), "batch_sizes": SIZES.view(1, 3)}, r"batch_sizes: expected int64 .* of shape \(1, 3\)"),
    ({"x": z(8, I), "batch_sizes": torch.tensor([4, 1, 3])}, "batch_sizes: expected at most 1 rows at tick 2 .* got 3"),
    ({"x": z(8, I), "batch_sizes": torch.tensor([5, 3])}, "batch_sizes: expected at most 4 rows at tick 0 .* got 5"),
    ({"x": z(8, I), "batch_sizes": torch.tensor([4, -1])}, "batch_sizes: expected at most 4 rows at tick 1 .* got -1"),
    ({"x": z(9, I), "batch_sizes": SIZES}, "batch_sizes: expected a sum of 9 as x has rows, got 8"),
]
BACKWARD_MISTAKES = [
    ({"out": z(T, B, 2)}, r"out: expected shape \(3, 4, 6\), got \(3, 4, 2\)"),
    ({"saved": z(0)}, r"saved: expected what the forward saved, Float of shape .*, got Float of shape \(0,\)"),
    ({"grad_out": z(T, B, 2)}, r"grad_out: expected shape \(3, 4, 6\), got \(3, 4, 2\)"),
    ({"grad_h_n": z(B, 2)}, r"grad_h_n: expected shape \(4, 6\), got \(4, 2\)"),
    ({"grad_c_n": z(B, 2)}, r"grad_c_n: expected shape \(4, 6\), got \(4, 2\)"),
]


def mistaken(op, arguments, changes, message, cell):
    names = [a.name for a in op.default._schema.arguments]
    if not set(changes) <= set(names):
        pytest.skip(f"{cell} has no {' '.join(changes)}")
    arguments = [changes.get(name, value) for name, value in zip(names, arguments, strict=True)]
    gates = CELLS[cell]["gates"]
    message = message.replace("{gates}", str(gates)).replace("{G}", str(gates * H))
    with pytest.raises(RuntimeError, match=f"^{op.default.name()}: ({message})") as raised:
        op(*arguments)
    assert len(str(raised.value).splitlines()) == 1


@every_cell
@pytest.mark.parametrize("changes, message", FORWARD_MISTAKES, ids=[m for _, m in FORWARD_MISTAKES])
def test_messages(cell, changes, message):
    if "w_hh" in changes and changes["w_hh"].dim() == 2:
        changes = {"w_hh": z(CELLS[cell]["gates"] * H, 7)}
    if "w_hh" in changes and changes["w_hh"].dim() == 1 and CELLS[cell]["gates"] == 1:
        message = r"w_hh: expected shape \(1 \* H, P\), got \(1,\)"
    problem = Problem(cell, Case(T, B, I, H))
    mistaken(ops(cell)[0], forward_arguments(problem), changes, message, cell)
    if "grad_out" not in changes:
        mistaken(ops(cell)[1], backward_arguments(problem), changes, message, cell)


@every_cell
@pytest.mark.parametrize("changes, message", BACKWARD_MISTAKES, ids=[m for _, m in BACKWARD_MISTAKES])
def test_backward_messages(cell, changes, message):
    mistaken(ops(cell)[1], backward_arguments(Problem(cell, Case(T, B, I, H))), changes, message, cell)


@every_cell
def test_sizes_that_overflow(cell):
    arguments = forward_arguments(Problem(cell, Case(1, 1, 1, H)))
    for ticks, rows in ((2**62, 1), (2**42, 2**20)):
        huge = [arguments[0].expand(ticks, rows, 1), *arguments[1:6], *(s.expand(rows, H) for s in arguments[6:-3])]
        with pytest.raises(RuntimeError, match="overflow"):
            ops(cell)[0](*huge, None, False, True)


def test_an_unknown_cell():
    with pytest.raises(ValueError, match=r"^cell: expected one of lstm, .*, got 'lstn'$"):
        functional.layer("lstn", z(1, 1, 1), z(4, 1), z(4, 1))


@every_cell
def test_states(cell):
    arguments = forward_arguments(Problem(cell, Case(T, B, I, H)))
    zeros = functional.layer(cell, *arguments[:6], [torch.zeros(B, H)] * CELLS[cell]["states"])
    for ours, theirs in zip(functional.layer(cell, *arguments[:6]), zeros, strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(RuntimeError, match=rf"^states: expected {CELLS[cell]['states']} for {cell}, got 3$"):
        functional.layer(cell, *arguments[:6], [torch.zeros(B, H)] * 3)
