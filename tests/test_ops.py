"""Every cell's ops on every instruction set: numbers, gradients, memory, schemas and messages."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from conftest import CELLS, ISAS, TORCHS, check, layers, share, some
from torch.autograd import gradcheck, gradgradcheck

from rnnkernels import functional
from rnnkernels.ops import LAYERS
from rnnkernels.options import Options
from rnnkernels.reference import STATES
from rnnkernels.testing import CASES, LARGE, OPTIONS, Case, Problem, assert_as_good_as, fitted

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
every_cell = pytest.mark.parametrize("cell", CELLS)


def tiny(cell, B=3, T=3, I=2):
    """Sizes for finite differences, with every option under which there is a derivative."""
    H, P = (6, None) if CELLS[cell]["shared"] else (3, 2)
    cases = [
        replace(
            case, T=T, B=B, I=I, H=H, P=case.P and P, options=case.options._replace(truncated=False, gradient_clip=0.0)
        )
        for case in OPTIONS[cell]
    ]
    return list(dict.fromkeys(cases))


# Inputs or gradients of several blocks of ticks, which is where a block ends and the next begins.
BLOCKS = [Case(70, 64, 3, 300, layout=layout, reverse=i % 2 == 1) for layout, i in product(("dense", "packed"), (0, 1))]


def ops(cell):
    return getattr(torch.ops.rnnkernels, cell), getattr(torch.ops.rnnkernels, f"{cell}_backward")


def forward_arguments(problem, dtype=torch.float32, save=True, requires_grad=False):
    states = CELLS[problem.cell]["states"]
    tensors = [None if t is None else t.to(dtype).requires_grad_(requires_grad) for t in problem.tensors]
    tensors += [None] * (7 + 2 * states - len(tensors))
    options = problem.options
    lies = problem.batch_sizes, problem.case.reverse, problem.lengths, problem.resets
    return [*tensors, *lies, *options.flat(), save, options.all_states]


def backward_arguments(problem, dtype=torch.float32, needs_x=True, needs_w=True, requires_grad=False):
    states = CELLS[problem.cell]["states"]
    arguments = forward_arguments(problem, dtype)
    tensors, config = arguments[: 7 + 2 * states], arguments[7 + 2 * states : -2]
    out, *_, saved = ops(problem.cell)[0](*tensors, *config, True, problem.options.all_states)
    grads = [w.to(dtype).requires_grad_(requires_grad) for w in problem.weights]
    grads += [None] * (2 * states - len(grads))
    tensors = [None if t is None else t.requires_grad_(requires_grad) for t in tensors]
    return [*grads, *tensors, out, saved, *config, needs_x, needs_w]


def packed_case(cell):
    options = Options(recurrent_dropout=0.5, input_dropout=0.25, all_states=True)
    return fitted(cell, Case(6, 5, 9, 17, 7, layout="packed", reverse=True, masks="seed", options=options))


# -- numbers -----------------------------------------------------------------------------------------------------------


@layers(lambda cell: share(cell, CASES, 7), every=4)
def test_cases(cell, case, isa):
    shift = CASES.index(case) + ISAS.index(isa)  # every size meets both precisions and both numbers of threads
    torch.set_num_threads(1 + shift // 2 % 2)
    check(cell, case, DTYPES[shift % 2])


@layers(OPTIONS.get)
def test_options(cell, case, isa, poison):
    shift = OPTIONS[cell].index(case) + list(CELLS).index(cell) + ISAS.index(isa)
    torch.set_num_threads(1 + shift // 4 % 2)
    for dtype in DTYPES if cell in TORCHS else DTYPES[shift % 4 :][:1]:
        check(cell, case, dtype)


@every_cell
def test_large(cell):
    torch.set_num_threads(2)
    for case in share(cell, (*BLOCKS, *LARGE), 8):
        check(cell, case, torch.float32)


@every_cell
@pytest.mark.parametrize("which", [3, 4], ids=["b_hh alone", "b_ih alone"])
def test_one_bias_alone(cell, which, isa):
    problem = Problem(cell, Case(4, 3, 5, 9), seed=1)
    if problem.tensors[which] is None or problem.tensors[7 - which] is None:
        pytest.skip("one bias at most")
    problem.tensors[which] = None
    problem.check(functional.layer, torch.float32)


@every_cell
def test_no_inputs(cell, isa):
    check(cell, Case(3, 4, 0, 9), torch.float32)


@every_cell
def test_no_hidden_units(cell, isa):
    problem = Problem(cell, Case(3, 2, 5, 1))
    x, w_ih, *others = problem.tensors
    others = [
        None if t is None else t.new_zeros(2, 0) if i >= 5 else t.new_zeros([0] * t.dim()) for i, t in enumerate(others)
    ]
    out, *finals = problem.run(functional.layer, x.requires_grad_(), w_ih[:0], *others)
    assert out.shape == (3, 2, 0) and all(s.shape == (2, 0) for s in finals)
    out.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@every_cell
@pytest.mark.parametrize("layout", ["dense", "packed", "padded", "ragged"])
def test_no_ticks(cell, layout, isa):
    problem = Problem(cell, Case(1, 3, 5, 9, layout=layout))
    flat = layout in ("packed", "ragged")
    problem.tensors[0] = torch.empty(0, 5) if flat else torch.empty(0, 3, 5)
    problem.weights[0] = torch.empty(0, 9) if flat else torch.empty(0, 3, 9)
    problem.batch_sizes = torch.empty(0, dtype=torch.int64) if layout == "packed" else None
    problem.lengths = torch.zeros(3, dtype=torch.int64) if layout in ("padded", "ragged") else None
    out, *finals = ops(cell)[0](*forward_arguments(problem))[: 1 + CELLS[cell]["states"]]
    assert out.shape == problem.weights[0].shape
    for final, first in zip(finals, problem.tensors[7:], strict=True):
        assert torch.equal(final, first.float()) and final.data_ptr() != first.data_ptr()
    grads = ops(cell)[1](*backward_arguments(problem))
    assert grads[0].shape == problem.tensors[0].shape
    assert not any(g.any() for g in grads[1:7])
    for grad, weight in zip(grads[7 : 7 + len(finals)], problem.weights[1:], strict=True):
        assert torch.equal(grad, weight.float())


@every_cell
def test_no_rows(cell, isa, poison):
    """Gradients of weights are zero, not whatever memory held."""
    for layout in ("dense", "padded"):
        for grad in ops(cell)[1](*backward_arguments(Problem(cell, Case(3, 0, 5, 9, layout=layout)))):
            assert torch.equal(grad, torch.zeros_like(grad))


@every_cell
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_rows_that_never_live_and_ticks_without_rows(cell, reverse, isa):
    """What no PackedSequence holds but batch_sizes can say."""
    problem = Problem(cell, Case(4, 6, 3, 9, layout="packed", reverse=reverse))
    problem.batch_sizes = torch.tensor([4, 2, 1, 0])
    problem.tensors[0], problem.weights[0] = torch.randn(7, 3).double(), torch.randn(7, 9).double()
    short = Problem(cell, Case(3, 4, 3, 9, layout="packed", reverse=reverse))
    short.batch_sizes = torch.tensor([4, 2, 1])
    short.tensors = [*problem.tensors[:7], *(s[:4] for s in problem.tensors[7:])]
    short.weights = [problem.weights[0], *(w[:4] for w in problem.weights[1:])]
    ours = problem.outputs_and_gradients(functional.layer, torch.float32)
    theirs = short.outputs_and_gradients(functional.layer, torch.float32)
    for name, first, weight in zip(STATES[cell], problem.tensors[7:], problem.weights[1:], strict=True):
        final, grad = f"{name}_n", f"grad_{name}0"
        assert torch.equal(ours[final][4:], first[4:].float()) and torch.equal(ours[grad][4:], weight[4:].float())
        ours[final], ours[grad] = ours[final][:4], ours[grad][:4]
    for label in theirs:
        assert_as_good_as(ours[label], short.expected[label], label)


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


def gradients(problem, x, others, batch_sizes=None):
    """Outputs and gradients of a problem with these tensors."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in (x, *others)]
    problem.batch_sizes = batch_sizes
    out, *finals = problem.run(functional.layer, *leaves)
    given = [t for t in leaves if t is not None]
    return [out, *finals, *torch.autograd.grad([out.square().sum(), *(s.sum() for s in finals)], given)]


def some_layer(cell):
    problem = Problem(cell, Case(4, 3, 6, 9))
    x, *others = (None if t is None else t.float() for t in problem.tensors)
    return problem, x, others


@every_cell
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_matter(cell, layout):
    problem, x, others = some_layer(cell)
    plain = gradients(problem, x, others)
    for ours, theirs in zip(gradients(problem, LAYOUTS[layout](x), others), plain, strict=True):
        assert torch.equal(ours, theirs)
    wide = [None if w is None else LAYOUTS["inside wider rows"](w) for w in others]
    for ours, theirs in zip(gradients(problem, x, wide), plain, strict=True):
        assert torch.equal(ours, theirs)
    rows = x.flatten(0, 1)[:8]
    sizes = torch.tensor([3, 3, 2])
    moved = LAYOUTS[layout](rows.unsqueeze(0)).squeeze(0)
    for ours, theirs in zip(
        gradients(problem, moved, others, sizes), gradients(problem, rows, others, sizes), strict=True
    ):
        assert torch.equal(ours, theirs)


@every_cell
@pytest.mark.parametrize("axes", REPEATS.values(), ids=REPEATS.keys())
def test_expanded_inputs(cell, axes):
    problem, x, others = some_layer(cell)
    narrow = x[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(3))].expand(x.shape)
    assert 0 in narrow.stride()
    for ours, theirs in zip(
        gradients(problem, narrow, others), gradients(problem, narrow.contiguous(), others), strict=True
    ):
        assert torch.equal(ours, theirs)
    expanded = [None if t is None else t[:1].expand(t.shape) for t in others]
    clones = [None if t is None else t.clone() for t in expanded]
    for ours, theirs in zip(gradients(problem, x, expanded), gradients(problem, x, clones), strict=True):
        assert torch.equal(ours, theirs)


@layers(some)
def test_poisoned_memory(cell, case, isa, poison):
    problem = Problem(cell, case, torch.float64)
    for save in (False, True):
        for result in ops(cell)[0](*forward_arguments(problem, torch.float64, save))[:-1]:
            assert result.isfinite().all()


@pytest.mark.parametrize("cell, case", [
    (cell, case) for cell in CELLS for case in share(cell, [case for case in CASES if case.T > 1 and case.B], 7)
], ids=str)  # fmt: skip
def test_poisoned_memory_at_every_size(cell, case, poison):
    problem = Problem(cell, case)
    for save in (False, True):
        for result in ops(cell)[0](*forward_arguments(problem, save=save))[:-1]:
            assert result.isfinite().all()
    for result in ops(cell)[1](*backward_arguments(problem)):
        assert result.isfinite().all()


def bits(t):
    """What memory holds; nothing is ever written, or read, of what is saved past a row's end."""
    return t.contiguous().view(-1).view(torch.uint8) if isinstance(t, torch.Tensor) else t


@layers(some)
def test_bitwise_repeatable_and_inputs_untouched(cell, case, isa, threads):
    problem = Problem(cell, case)
    arguments = backward_arguments(problem)
    before = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
    first = ops(cell)[1](*arguments)
    for a, b in zip(arguments, before, strict=True):
        assert torch.equal(bits(a), bits(b)) if isinstance(a, torch.Tensor) else a is b
    results = ops(cell)[0](*forward_arguments(problem))[:-1]
    for _ in range(3):
        for ours, theirs in zip(ops(cell)[1](*arguments), first, strict=True):
            assert torch.equal(ours, theirs)
        for ours, theirs in zip(ops(cell)[0](*forward_arguments(problem))[:-1], results, strict=True):
            assert torch.equal(ours, theirs)
    if not case.options.recompute:  # pieces of few ticks run unpacked, which sums in another order
        for ours, theirs in zip(ops(cell)[0](*forward_arguments(problem, save=False))[:-1], results, strict=True):
            assert torch.equal(ours, theirs)


@every_cell
def test_bitwise_repeatable_when_large(cell):
    torch.set_num_threads(2)
    problem = Problem(cell, BLOCKS[-1])
    first = problem.outputs_and_gradients(functional.layer, torch.float32)
    for label, value in problem.outputs_and_gradients(functional.layer, torch.float32).items():
        assert torch.equal(value, first[label]), label


@layers(some)
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


@layers(some)
@pytest.mark.parametrize("needs_x, needs_w", [(True, False), (False, True), (False, False)])
def test_gradients_that_nobody_needs_are_empty(cell, case, needs_x, needs_w, isa, poison):
    problem = Problem(cell, case)
    whole = ops(cell)[1](*backward_arguments(problem))
    part = ops(cell)[1](*backward_arguments(problem, needs_x=needs_x, needs_w=needs_w))
    states = CELLS[cell]["states"]
    needs = [needs_x, *[needs_w] * 6, *[True] * 2 * states]
    tensors = problem.tensors + [None] * (len(needs) - len(problem.tensors))
    for ours, theirs, t, needed in zip(part, whole, tensors, needs, strict=True):
        assert theirs.shape == ((0,) if t is None else t.shape) and theirs.is_contiguous()
        assert torch.equal(ours, theirs) if needed else ours.shape == (0,)


@layers(some)
def test_absent_gradients_are_zero(cell, case, isa, poison):
    problem = Problem(cell, case)
    arguments = backward_arguments(problem)
    for absent in range(len(problem.weights)):
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


@layers(lambda cell: share(cell, tiny(cell), 2))
def test_gradcheck(cell, case, isa):
    fast = isa != ISAS[-1] or cell not in TORCHS
    assert gradcheck(*differentiable(Problem(cell, case, torch.float64, seed=2)), fast_mode=fast)


@pytest.mark.parametrize("cell, case", [
    (cell, case) for cell in CELLS for case in share(cell, tiny(cell, 2, 2, 1)[::3], 2)
], ids=str)  # fmt: skip
@pytest.mark.filterwarnings("ignore:rnnkernels. double backward")
def test_gradgradcheck(cell, case):
    problem = Problem(cell, case, torch.float64, seed=3)
    assert gradgradcheck(*differentiable(problem), fast_mode=case != tiny(cell, 2, 2, 1)[0])


@pytest.mark.parametrize("cell, case", [(cell, case) for cell in CELLS for case in tiny(cell)[::5]], ids=str)
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
    if cell not in TORCHS and not (packed and requires_grad):
        pytest.skip("torch.nn's cells see all four")
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
    states = CELLS[cell]["states"]
    arguments = backward_arguments(Problem(cell, packed_case(cell)))
    n = 7 + 4 * states
    where = [i for i, a in enumerate(arguments[:n]) if a is not None]
    arrived = [0, 1, 7]
    grads = [torch.randn_like(arguments[2 * states + k]) for k in arrived]
    op = getattr(torch.ops.rnnkernels, f"{cell}_double_backward").default
    torch.library.opcheck(op, ([arguments[i] for i in where], where, grads, arrived, *arguments[n + 2 : -2]))


def test_every_op_is_under_test():
    ours = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("rnnkernels::")]
    assert {n for n in (name.removeprefix("rnnkernels::") for name in ours) if not n.startswith("_")} == {
        name + step for name in (*CELLS, "ntm", "ntm_step") for step in ("", "_backward", "_double_backward")
    }


# -- messages ----------------------------------------------------------------------------------------------------------

T, B, I, H = 3, 4, 5, 6  # noqa: E741
SIZES = torch.tensor([4, 3, 1])
ROWS = torch.tensor([1, 3, 0, 2])


def numbers(**options):
    return Options(**options).flat()[-2]


def choices(**options):
    return Options(**options).flat()[-1]


def z(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


# What is wrong with the call, as changes of its arguments by name, and how the message goes on after the op's name;
# {name} stands for the first size that argument should have.
FORWARD_MISTAKES = [
    ({"x": z(T, B, I, dtype=torch.int32)}, "x: expected float32, float64, bfloat16 or float16, got Int"),
    ({"x": z(T, I)}, r"x: expected 3 dimensions \(T, B, I\), got shape \(3, 5\)"),
    ({"x": z(T, B, 2)}, r"w_ih: expected shape \({w_ih}, 2\), got \({w_ih}, 5\)"),
    ({"x": z(T, 2, I)}, r"h0: expected shape \(2, 6\), got \(4, 6\)"),
    ({"x": z(T, B, I, dtype=torch.float64)}, "w_ih: expected dtype Double as x has, got Float"),
    ({"w_hh": z(1)}, r"w_hh: expected (shape \({w_hh}, \d+\), got \(1,\)|none, this cell has no recurrent product)"),
    ({"w_hh": z(7, H)}, r"w_hh: expected (shape \({w_hh}, 6\), got \(7, 6\)|none, this cell has no)"),
    ({"w_hh": z(7, 7)}, r"w_hh: expected (shape \({w_hh}, \d+\), got \(7, 7\)|none, this cell has no)"),
    ({"b_ih": z(2)}, r"b_ih: expected shape \({b_ih},\), got \(2,\)"),
    ({"b_hh": z(2)}, r"b_hh: expected (shape \({b_hh},\), got \(2,\)|none)"),
    ({"unit": z(2)}, r"unit: expected (shape \({unit},\), got \(2,\)|none)"),
    ({"h0": z(H)}, r"h0: expected shape \(B, P\), got \(6,\)"),
    ({"h0": z(B, 2)}, r"h0: expected shape \(4, 6\), got \(4, 2\)|w_.h: expected shape"),
    ({"h0": z(B, H, dtype=torch.float64)}, "h0: expected dtype Float as x has, got Double"),
    ({"c0": z(B, 2)}, r"c0: expected shape \(4, 6\), got \(4, 2\)"),
    ({"reset_h": z(2)}, r"reset_h: expected shape \(6,\), got \(2,\)"),
    ({"reset_c": z(1, H)}, r"reset_c: expected shape \(6,\), got \(1, 6\)"),
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
    ({"x": z(8, I), "batch_sizes": SIZES, "lengths": ROWS}, "lengths: expected none beside batch_sizes"),
    ({"lengths": ROWS.int()}, r"lengths: expected int64 on the CPU of shape \(4,\), got Int on cpu of shape \(4,\)"),
    ({"lengths": SIZES}, r"lengths: expected int64 on the CPU of shape \(4,\), got Long on cpu of shape \(3,\)"),
    ({"lengths": torch.tensor([3, 4, 0, 1])}, "lengths: expected 0 to 3 ticks, got 4 for row 1"),
    ({"lengths": torch.tensor([3, 2, -1, 1])}, "lengths: expected 0 to 3 ticks, got -1 for row 2"),
    ({"x": z(7, I), "lengths": ROWS}, "lengths: expected a sum of 7 as x has rows, got 6"),
    ({"resets": z(T, B)}, r"resets: expected bool of shape \(3, 4\), got Float of shape \(3, 4\)"),
    ({"resets": z(T, 2).bool()}, r"resets: expected bool of shape \(3, 4\), got Bool of shape \(3, 2\)"),
    ({"x": z(6, I), "lengths": ROWS, "resets": z(T, B).bool()}, r"resets: expected bool of shape \(6,\)"),
    ({"seed": torch.tensor([1, 2])}, r"seed: expected one int64 number, got Long of shape \(2,\)"),
    ({"seed": torch.tensor(1.0)}, r"seed: expected one int64 number"),
    ({"zoneout_mask": z(B, H)}, r"mask: expected shape \(3, 4, 6\), got \(4, 6\)"),
    ({"recurrent_mask": z(B, 2)}, r"mask: expected shape \(3, 4, 6\) or \(4, 6\), got \(4, 2\)"),
    ({"input_mask": z(2, B, I)}, r"mask: expected shape \(3, 4, 5\) or \(4, 5\), got \(2, 4, 5\)"),
    ({"weight_mask": z(2, 2)}, "weight_mask: expected the shape of w_hh"),
    ({"numbers": [0.1]}, "numbers: expected none or 8"),
    ({"choices": [1]}, "choices: expected none or 7"),
    ({"numbers": numbers(zoneout=1.5)}, r"numbers: expected a probability in \[0, 1\], got 1.5"),
    ({"numbers": numbers(input_dropout=-0.5)}, r"numbers: expected a probability in \[0, 1\], got -0.5"),
    ({"numbers": numbers(input_dropout=torch.nan)}, r"numbers: expected a probability in \[0, 1\], got nan"),
    ({"numbers": numbers(gradient_clip=-1)}, r"numbers: expected a bound of 0 \(none\) or more, got -1"),
    ({"choices": choices(stream=-1)}, r"stream: expected 0 to 2\^24 - 1, got -1"),
    ({"choices": choices(stream=1 << 24)}, r"stream: expected 0 to 2\^24 - 1, got 16777216"),
    ({"choices": choices(block_size=4)}, "block_size: expected a divisor of the 6 cells.*, got 4"),
    ({"choices": choices(block_size=0)}, "block_size: expected a divisor of the 6 cells.*, got 0"),
    ({"choices": [0, 0, 0, 6, 0, 1, 0]}, "choices: expected a nonlinearity, got 6"),
]
BACKWARD_MISTAKES = [
    ({"out": z(T, B, 2)}, r"out: expected shape \(3, 4, 6\), got \(3, 4, 2\)"),
    ({"saved": z(0)}, r"saved: expected what the forward saved, Float of shape .*, got Float of shape \(0,\)"),
    ({"grad_out": z(T, B, 2)}, r"grad_out: expected shape \(3, 4, 6\), got \(3, 4, 2\)"),
    ({"grad_h_n": z(B, 2)}, r"grad_h_n: expected shape \(4, 6\), got \(4, 2\)"),
    ({"grad_c_n": z(B, 2)}, r"grad_c_n: expected shape \(4, 6\), got \(4, 2\)"),
    ({"grad_c_all": z(B, H)}, r"grad_c_all: expected shape \(3, 4, 6\), got \(4, 6\)"),
]


def mistaken(op, arguments, changes, message, problem):
    names = [a.name for a in op.default._schema.arguments]
    if not set(changes) <= set(names):
        pytest.skip(f"{problem.cell} has no {' '.join(changes)}")
    arguments = [changes.get(name, value) for name, value in zip(names, arguments, strict=True)]
    for name, t in zip(("x", "w_ih", "w_hh", "b_ih", "b_hh", "w_hr", "unit"), problem.tensors):
        message = message.replace(f"{{{name}}}", str(t.size(0)) if t is not None else r"\d+")
    with pytest.raises(RuntimeError, match=f"^{op.default.name()}: ({message})") as raised:
        op(*arguments)
    assert len(str(raised.value).splitlines()) == 1


@every_cell
@pytest.mark.parametrize("changes, message", FORWARD_MISTAKES, ids=[m for _, m in FORWARD_MISTAKES])
def test_messages(cell, changes, message):
    problem = Problem(cell, Case(T, B, I, H))
    mistaken(ops(cell)[0], forward_arguments(problem), changes, message, problem)
    if "grad_out" not in changes:
        mistaken(ops(cell)[1], backward_arguments(problem), changes, message, problem)


@every_cell
@pytest.mark.parametrize("changes, message", BACKWARD_MISTAKES, ids=[m for _, m in BACKWARD_MISTAKES])
def test_backward_messages(cell, changes, message):
    problem = Problem(cell, Case(T, B, I, H))
    mistaken(ops(cell)[1], backward_arguments(problem), changes, message, problem)


@every_cell
def test_what_a_cell_has_not_is_refused(cell):
    """Never silence, and never a gradient of what had no part."""
    problem = Problem(cell, Case(T, B, I, H))
    forward, arguments = ops(cell)[0], forward_arguments(problem)
    names, facts = [a.name for a in forward.default._schema.arguments], CELLS[cell]

    def refuses(message, **changes):
        with pytest.raises(RuntimeError, match=f"^{forward.default.name()}: {message}"):
            forward(*(changes.get(name, value) for name, value in zip(names, arguments, strict=True)))

    if problem.tensors[6] is None:
        refuses("unit: expected", unit=z(H))
    else:
        refuses("unit: expected .*, got none", unit=None)
    if facts["fed"] and not facts["shared"]:
        refuses("w_hh: expected recurrent weights, got none", w_hh=None)
    if not facts["cell_state"]:
        refuses("zoneout_cell, cell_clip: expected none", numbers=numbers(zoneout_cell=0.5))
        refuses("zoneout_cell, cell_clip: expected none", numbers=numbers(cell_clip=0.5))
        refuses("zoneout_cell, cell_clip: expected none", zoneout_cell_mask=z(T, B, H))
    if not facts["shared"]:
        refuses("block_size: expected .* 1 for this cell", choices=choices(block_size=2))
    if facts["projection"]:
        projected = forward_arguments(Problem(cell, Case(T, B, I, H, 2)))
        projected[names.index("numbers")] = numbers(zoneout=0.5)
        with pytest.raises(RuntimeError, match="zoneout: expected none under a projection"):
            forward(*projected)


@every_cell
@pytest.mark.parametrize("block_size", [1, 3])
@pytest.mark.parametrize("which", [3, 4], ids=["b_ih", "b_hh"])
def test_a_bias_that_the_cell_has_not_is_refused_or_right(cell, which, block_size, poison):
    problem = Problem(cell, fitted(cell, Case(T, B, I, H, options=Options(block_size=block_size))))
    if problem.tensors[which] is not None:
        pytest.skip(f"{cell} has it")
    layer = LAYERS[cell]
    gates = range(layer.first_bias_ih if which == 3 else layer.first_bias_hh, layer.gates)
    shared = sum(layer.shared >> g & 1 for g in gates)
    problem.tensors[which] = torch.rand((len(gates) - shared) * H + shared * H // problem.options.block_size).double()
    try:
        problem.run(functional.layer, *(None if t is None else t.float() for t in problem.tensors))
    except RuntimeError as error:
        assert f"{('b_ih', 'b_hh')[which - 3]}: expected" in str(error)
    else:
        problem.check(functional.layer, torch.float32)


@every_cell
def test_sizes_that_overflow(cell):
    problem = Problem(cell, Case(1, 1, 1, H))
    arguments = forward_arguments(problem)
    states = CELLS[cell]["states"]
    for ticks, rows in ((2**62, 1), (2**42, 2**20)):
        first = [s.expand(rows, -1) for s in arguments[7 : 7 + states]]
        huge = [arguments[0].expand(ticks, rows, 1), *arguments[1:7], *first, *arguments[7 + states :]]
        with pytest.raises(RuntimeError, match="expected sizes of at most 2147483647, got"):
            ops(cell)[0](*huge)


def test_an_unknown_cell():
    with pytest.raises(ValueError, match=r"^cell: expected one of lstm, .*, got 'lstn'$"):
        functional.layer("lstn", z(1, 1, 1), z(4, 1), z(4, 1))


@every_cell
@pytest.mark.parametrize("block_size", [1, 3])
def test_states(cell, block_size):
    options = Options(block_size=block_size)
    problem = Problem(cell, fitted(cell, Case(T, B, I, H, options=options)))
    tensors = [None if t is None else t.float() for t in problem.tensors]
    zeros = problem.run(functional.layer, *tensors[:7], *(torch.zeros_like(s) for s in tensors[7:]))
    for ours, theirs in zip(problem.run(functional.layer, *tensors[:7]), zeros, strict=True):
        assert torch.equal(ours, theirs)
    for what in ("states", "reset_states"):
        with pytest.raises(RuntimeError, match=rf"^{what}: expected {CELLS[cell]['states']} for {cell}, got 6$"):
            functional.layer(cell, *tensors[:6], unit=tensors[6], **{what: [torch.zeros(B, H)] * 6})
