"""The Neural Turing Machine: both ops against the paper in plain torch, their derivatives, and the module on top."""

import functools
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import EXECUTED_CUDA, ISAS
from torch.autograd import gradcheck, gradgradcheck

import rnnkernels as rk
from rnnkernels import functional, reference
from rnnkernels.modules.ntm import PRESETS
from rnnkernels.options import Conventions
from rnnkernels.testing import MACHINES, STEPS, Expected, MachineCase, MachineProblem, assert_as_good_as

F64 = torch.float64
OPS = {False: functional.ntm, True: functional.ntm_step}
SMALL = MachineCase(3, 2, 2, 2, 3, 5, 2)  # for derivatives by differences
quiet = pytest.mark.filterwarnings("ignore:rnnkernels. (double backward|forward-mode)")


def function(case):
    return OPS[case.T == 0]


def step_of(case):
    return replace(case, T=0, I=0, O=0, H=0, ragged=False)


def small(**conventions):
    return replace(SMALL, conventions=Conventions(**conventions))


def each(cases, every=4):
    """Each case on the best instruction set, and every so many on each other."""
    pairs = [(c, isa) for i, c in enumerate(cases) for k, isa in enumerate(ISAS) if isa == ISAS[-1] or i % every == k]
    return pytest.mark.parametrize("case, isa", pairs, indirect=["isa"], ids=str)


# -- results and gradients ---------------------------------------------------------------------------------------------


@functools.cache
def problems_of(case):
    problems = [MachineProblem(case, seed) for seed in range(2)]
    assert all(p.expected for p in problems)  # computed here, on one thread
    return problems


@each([*MACHINES, *STEPS])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
def test_error_rule(case, dtype, isa, poison):
    problems = problems_of(case)
    torch.set_num_threads(2)
    for problem in problems:
        problem.check(function(case), dtype)


DIFFERENTIABLE = [
    small(), small(controller="feedforward"), small(layers=2, read_heads=2), small(write_heads=2, order="write_first"),
    small(read_heads=2, write_heads=2, order="interleaved"), small(similarity_guard="floor", sharpen_eps=1e-3),
    small(key_activation="linear", add_activation="linear", reversed_shift=True), replace(SMALL, ragged=True),
    replace(SMALL, N=1), replace(SMALL, N=2, conventions=Conventions(shift_range=2)), small(recompute=2),
]  # fmt: skip


def leaves(problem):
    return [t.clone().requires_grad_() for t in problem.tensors]


@each([*DIFFERENTIABLE, *(step_of(c) for c in DIFFERENTIABLE[3:7])])
def test_gradcheck(case, isa):
    problem = MachineProblem(case, seed=1)
    fast = isa != ISAS[-1] or EXECUTED_CUDA
    assert gradcheck(lambda *t: problem.run(function(case), *t), leaves(problem), fast_mode=fast)


@quiet
@pytest.mark.parametrize("case", [*DIFFERENTIABLE[:1], *(step_of(c) for c in DIFFERENTIABLE[3:7])], ids=str)
def test_gradgradcheck(case):
    problem = MachineProblem(case, seed=2)
    fast = case.T > 0 or EXECUTED_CUDA
    assert gradgradcheck(lambda *t: problem.run(function(case), *t), leaves(problem), fast_mode=fast)


@quiet
@pytest.mark.parametrize("case", [SMALL, step_of(SMALL)], ids=str)
def test_forward_mode(case):
    problem = MachineProblem(case)
    directions = tuple(torch.randn_like(t) for t in problem.tensors)

    def run(*tensors):
        return problem.run(function(case), *tensors)

    results, pushed = torch.func.jvp(run, tuple(problem.tensors), directions)
    tensors, weights = leaves(problem), [torch.randn_like(r) for r in results]
    grads = torch.autograd.grad(run(*tensors), tensors, weights)
    ours = sum((w * p).sum() for w, p in zip(weights, pushed, strict=True))
    torch.testing.assert_close(ours, sum((g * d).sum() for g, d in zip(grads, directions, strict=True)))


@pytest.mark.parametrize("case", [replace(SMALL, N=128, M=20, H=33, B=8), step_of(replace(SMALL, N=128))], ids=str)
def test_bitwise_repeatable_and_twice_over_a_retained_graph(case, isa, threads):
    def once():
        problem = MachineProblem(case)
        tensors = [t.float().requires_grad_() for t in problem.tensors]
        results = problem.run(function(case), *tensors)
        weights = [w.float() for w in problem.weights]
        return [torch.autograd.grad(results, tensors, weights, retain_graph=True) for _ in range(2)]

    (first, again), (other, _) = once(), once()
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


@pytest.mark.parametrize("case", [small(recompute=2), replace(small(recompute=2), T=7, ragged=True)], ids=str)
def test_recomputing_changes_nothing_but_memory(case, isa):
    problem, plain = MachineProblem(case), MachineProblem(replace(case, conventions=Conventions()))
    ours, theirs = (p.outputs_and_gradients(functional.ntm, F64) for p in (problem, plain))
    for label, value in ours.items():
        torch.testing.assert_close(value, theirs[label], rtol=1e-12, atol=1e-13, msg=label)


def test_a_long_sequence_trains_in_little_memory():
    """T = 10,000, B = 16, N = 128, M = 20: at most 256 MiB beyond inputs, outputs and weights."""
    code = """
import re, torch, rnnkernels as rk
T, B = 10_000, 16
def peak():  # MiB
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
ntm = rk.NTM(9, 8, controller_size=20, recompute=True)
x = torch.zeros(T, B, 9)
y = ntm(x[:50])[0]
y.sum().backward()
x, g = torch.rand(T, B, 9, requires_grad=True), torch.ones(T, B, 8)
before = peak()
ntm(x)[0].backward(g)
print(peak() - before - (x.grad.numel() + g.numel()) * 4 / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 256


# -- what turned to NaN elsewhere --------------------------------------------------------------------------------------


def extreme(case, seed):
    """Activated parameters, memory and weightings of one tick, each entry among its extremes."""
    g = torch.Generator().manual_seed(seed)
    c, (B, N, M) = case.conventions, (case.B, case.N, case.M)

    def pick(values, *shape):
        return torch.tensor(values, dtype=F64)[torch.randint(len(values), shape, generator=g)]

    def one_hot_or_uniform(*shape):
        hot = torch.nn.functional.one_hot(torch.randint(shape[-1], shape[:-1], generator=g), shape[-1]).double()
        return torch.where(pick([0, 1], *shape[:-1]).bool().unsqueeze(-1), hot, torch.full(shape, 1 / shape[-1]))

    heads = []
    for k in range(c.heads):
        scale = pick([0, 1e-8, 1, 1e3], B, 1)
        fields = [scale * pick([-1, 0, 0.5, 1], B, M), pick([0, 1, 1e2, 1e8], B, 1), pick([0, 0.5, 1], B, 1)]
        fields += [one_hot_or_uniform(B, c.shifts), pick([1, 1.5, 30, 1000], B, 1)]
        if k >= c.read_heads:
            fields += [pick([0, 0.5, 1], B, M), pick([-1, 0, 1], B, M)]
        heads += fields
    memory = pick([0, 0, 1e-6, 1, 1e3], B, N, 1) * pick([-1, 1, 0.5], B, N, M)
    return [t.float().double() for t in (torch.cat(heads, 1), memory, one_hot_or_uniform(B, c.heads, N))]


@pytest.mark.parametrize("guard", ["sum", "floor"])
@pytest.mark.parametrize("N, M", [(1, 1), (1, 3), (5, 1), (33, 6), (128, 20)])
def test_extremes_are_finite(N, M, guard, isa):
    conventions = Conventions(
        layers=0, write_heads=2, similarity_guard=guard, activated=True, sharpen_eps=1e-16 * (guard == "floor")
    )
    case = MachineCase(0, 8, 0, 0, 0, N, M, conventions=conventions)
    for seed in range(20):
        problem = MachineProblem(case, seed)
        problem.tensors = extreme(case, seed)
        for dtype in (torch.float32, F64):
            for label, value in problem.outputs_and_gradients(functional.ntm_step, dtype).items():
                assert value.isfinite().all(), f"{label}, {dtype}, seed {seed}"


@pytest.mark.parametrize("N, M", [(1, 1), (5, 1), (33, 6), (128, 20)])
def test_extremes_as_good_as_plain_torch(N, M, isa):
    """Where float64 is finite, and so is its spread. No two rows of the memory are alike: equal numbers round equally,
    and the errors of a long sum of them do not cancel, as the rule takes for granted."""
    case = MachineCase(0, 8, 0, 0, 0, N, M, conventions=Conventions(layers=0, activated=True))
    for seed in range(20):
        problem = MachineProblem(case, seed)
        problem.tensors = extreme(case, seed)
        generator = torch.Generator().manual_seed(seed)
        problem.tensors[1] *= torch.empty_like(problem.tensors[1]).uniform_(0.75, 1, generator=generator)
        problem.tensors[1] = problem.tensors[1].float().double()
        for head in range(2):  # a greater strength chooses among rows alike in direction by their rounding errors
            problem.tensors[0][:, head * case.conventions.head_size(M, False) + M].clamp_(max=10)
        for label, ours in problem.outputs_and_gradients(functional.ntm_step, torch.float32).items():
            expected = problem.expected[label]
            where = expected.value.isfinite() & expected.spread.isfinite()
            assert_as_good_as(ours[where], Expected(*(t[where] for t in expected)), f"{label}, seed {seed}")


@quiet
def test_derivatives_of_extremes_in_plain_torch_are_finite():
    """The reference is the kernels' second derivative: a strength of 200 is none that overflows."""
    problem = MachineProblem(step_of(SMALL))
    problem.tensors[0] = problem.tensors[0] * 100
    parameters, *others = (t.float() for t in problem.tensors)
    parameters.requires_grad_()
    for function in (functional.ntm_step, reference.ntm.step):
        results = problem.run(function, parameters, *others)
        grads = torch.autograd.grad([r.sum() for r in results], [parameters], create_graph=True)
        second = torch.autograd.grad(grads[0].square().sum(), parameters)
        assert all(t.isfinite().all() for t in (*results, *grads, *second))


# -- the paper ---------------------------------------------------------------------------------------------------------


def test_addressing_by_hand(isa):
    """Eqs 5 to 9 in scalars."""
    memory = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [-2.0, 0.0]]], dtype=F64)
    before = torch.tensor([[[0.2, 0.5, 0.3]]], dtype=F64)
    key, strength, gate, shifts, gamma = [2.0, 0.0], 1.5, 0.25, [0.1, 0.2, 0.7], 2.0
    similarity = [0.6, 1.0, -1.0]
    e = [math.exp(strength * s) for s in similarity]
    gated = [gate * v / sum(e) + (1 - gate) * w for v, w in zip(e, before[0, 0].tolist())]
    # shifts[2] moves the focus from row i to i + 1
    shifted = [sum(gated[j] * shifts[(i - j + 1) % 3] for j in range(3)) for i in range(3)]
    sharp = [w**gamma for w in shifted]
    expected = torch.tensor([[[w / sum(sharp) for w in sharp]]], dtype=F64)
    scalars = [torch.tensor([[v]], dtype=F64) for v in (strength, gate, gamma)]
    of = torch.tensor([[key]], dtype=F64), scalars[0], scalars[1], torch.tensor([[shifts]], dtype=F64), scalars[2]
    torch.testing.assert_close(functional.ntm_address(memory, before, *of), expected, rtol=1e-7, atol=0)
    turned = (*of[:3], of[3].flip(-1), of[4])
    conventions = Conventions(reversed_shift=True)
    torch.testing.assert_close(
        functional.ntm_address(memory, before, *turned, conventions), expected, rtol=1e-7, atol=0
    )


def test_a_shift_between_two_rows(isa):
    """A shift of 6.7 as the paper has it: 0.3 of what was at row i goes to i + 6, 0.7 to i + 7."""
    before = torch.zeros(1, 1, 10, dtype=F64)
    before[..., 5] = 1
    shifts = torch.zeros(1, 1, 15, dtype=F64)
    shifts[..., 7 + 6], shifts[..., 7 + 7] = 0.3, 0.7
    one, zero = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64)
    w = functional.ntm_address(
        torch.ones(1, 10, 2, dtype=F64), before, torch.ones(1, 1, 2, dtype=F64), one, zero, shifts, one
    )
    expected = torch.zeros(10, dtype=F64)
    expected[1], expected[2] = 0.3, 0.7
    torch.testing.assert_close(w[0, 0], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("order", ["read_first", "write_first", "interleaved"])
def test_a_tick_is_made_of_its_parts(order, isa):
    """ntm_step, and addressing, reading and writing one by one in the order that the convention names."""
    conventions = Conventions(layers=0, read_heads=2, write_heads=2, order=order)
    case = MachineCase(0, 3, 0, 0, 0, 7, 4, conventions=conventions)
    parameters, memory, before = MachineProblem(case).tensors
    heads = reference.ntm.activate(reference.ntm.split_heads(parameters, 4, conventions), conventions)
    after, reads = torch.empty_like(before), [None, None]

    def address(k):
        of_head = [part[:, [k]] for part in heads[:5]]
        after[:, [k]] = functional.ntm_address(memory, before[:, [k]], *of_head)

    def read(k):
        reads[k] = functional.ntm_read(memory, after[:, [k]])

    def write(*which):
        k = [w - 2 for w in which]
        return functional.ntm_write(memory, after[:, list(which)], heads.erase[:, k], heads.add[:, k])

    if order == "read_first":
        for k in range(4):
            address(k)
        read(0), read(1)
        memory = write(2, 3)
    elif order == "write_first":
        address(2), address(3)
        memory = write(2, 3)
        address(0), address(1), read(0), read(1)
    else:
        for k in range(2):
            address(k), read(k), address(2 + k)
            memory = write(2 + k)
    results = functional.ntm_step(*MachineProblem(case).tensors, conventions)
    for ours, theirs in zip(results, (torch.cat(reads, 1), memory, after), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_all_erase_before_any_adds(isa):
    conventions = Conventions(layers=0, read_heads=0, write_heads=2, activated=True)
    w = torch.tensor([[[1.0, 0.0]] * 2], dtype=F64)  # both heads on the first row, and staying there
    stay = torch.tensor([0.0, 1.0, 0.0])
    heads = [[torch.ones(1), torch.ones(1), torch.zeros(1), stay, torch.ones(1), e, a] for e, a in
             ((torch.tensor([0.5]), torch.tensor([2.0])), (torch.tensor([1.0]), torch.tensor([3.0])))]  # fmt: skip
    parameters = torch.cat([part for head in heads for part in head]).double().unsqueeze(0)
    _, memory, after = functional.ntm_step(parameters, torch.ones(1, 2, 1, dtype=F64), w, conventions)
    torch.testing.assert_close(after, w, rtol=0, atol=1e-12)
    torch.testing.assert_close(memory, torch.tensor([[[5.0], [1.0]]], dtype=F64), rtol=0, atol=1e-12)


# -- registrations -----------------------------------------------------------------------------------------------------


def arguments(problem, requires_grad, save):
    """Of the forward op, and of the backward."""
    c = problem.case.conventions
    tensors = [t.float().requires_grad_(requires_grad) for t in problem.tensors]
    config = () if problem.step else (problem.lengths,)
    config += (c._replace(layers=0) if problem.step else c).flat()
    forward = (*tensors, *config, save)
    op = getattr(torch.ops.rnnkernels, "ntm_step" if problem.step else "ntm")
    with torch.no_grad():
        results = op(*forward[:-1], True)
    grads = [w.float().requires_grad_(requires_grad) for w in problem.weights]
    return forward, (*grads, *tensors, results[0], results[-1], *config, True, True)


@quiet
@pytest.mark.parametrize("requires_grad", [False, True], ids=["no grad", "grad"])
@pytest.mark.parametrize("case", [SMALL, replace(SMALL, ragged=True), small(controller="feedforward", read_heads=2),
                                  small(recompute=2), step_of(SMALL)], ids=str)  # fmt: skip
def test_opcheck(case, requires_grad):
    problem = MachineProblem(case)
    forward, backward = arguments(problem, requires_grad, not case.ragged)
    name = "ntm_step" if problem.step else "ntm"
    if not (case.ragged and requires_grad):  # what is saved past the last frame is nobody's, and opcheck compares it
        torch.library.opcheck(getattr(torch.ops.rnnkernels, name).default, forward)
    op = getattr(torch.ops.rnnkernels, f"{name}_backward").default
    torch.library.opcheck(op, backward)
    torch.library.opcheck(op, (*backward[:-2], False, False))
    if requires_grad:
        n = len(problem.weights) + len(problem.tensors)
        where, arrived = list(range(n)), [0, len(problem.tensors) - 1]
        grads = [torch.randn_like(problem.tensors[k].float()) for k in arrived]
        op = getattr(torch.ops.rnnkernels, f"{name}_double_backward").default
        tensors = [t.detach() for t in backward[:n]]
        torch.library.opcheck(op, (tensors, where, grads, arrived, *backward[n + 2 : -2]))


# -- the module --------------------------------------------------------------------------------------------------------


def machine(preset="graves2014", controller="lstm", dtype=F64, **arguments):
    sizes = {"controller_size": 7, "memory_rows": 6, "memory_width": 5, "read_heads": 2, "dtype": dtype} | arguments
    return rk.NTM(4, 3, controller, preset=preset, **sizes)


every_preset = pytest.mark.parametrize("preset", PRESETS)
every_controller = pytest.mark.parametrize("controller", ["lstm", "feedforward"])


@every_preset
@every_controller
def test_a_sequence_in_pieces_and_tick_by_tick(preset, controller, isa):
    ntm, x = machine(preset, controller, controller_layers=2), torch.randn(7, 3, 4, dtype=F64)
    whole, end = ntm(x)
    for size in (1, 3):
        state, parts = None, []
        for piece in x.split(size):
            y, state = ntm(piece, state)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-14)
        for a, b in zip((*state.controller, *state[1:]), (*end.controller, *end[1:]), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@every_controller
def test_every_parameter_learns(controller):
    ntm = machine(controller=controller)
    ntm(torch.randn(5, 2, 4, dtype=F64))[0].square().sum().backward()
    for name, parameter in ntm.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("batch_first", [False, True])
def test_rows_of_unequal_length_are_as_if_alone(batch_first, isa):
    ntm, lengths = machine(batch_first=batch_first), torch.tensor([2, 5, 0, 4])
    x = torch.randn(5, 4, 4, dtype=F64)
    y, state, trace = ntm(x.transpose(0, 1) if batch_first else x, lengths=lengths, return_trace=True)
    if batch_first:
        y, trace = y.transpose(0, 1), [t.transpose(0, 1) for t in trace[:3]]
    for b, n in enumerate(lengths.tolist()):
        assert (y[n:, b] == 0).all() and all((t[n:, b] == 0).all() for t in trace[:3])
        if n == 0:
            torch.testing.assert_close(state.memory[b], ntm.initial_memory, rtol=0, atol=0)
            continue
        alone, end, of = ntm(x[:n, b], return_trace=True)
        torch.testing.assert_close(y[:n, b], alone, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(state.memory[b], end.memory[0], rtol=1e-12, atol=1e-14)
        for a, b_ in zip((t[:n, b] for t in trace[:3]), of[:3], strict=True):
            torch.testing.assert_close(a, b_, rtol=1e-12, atol=1e-14)


@every_preset
def test_the_trace_is_what_the_heads_did(preset, isa):
    """Held against the tick of the reference, fed with the heads' own numbers."""
    ntm = machine(preset, write_heads=2)
    x = torch.randn(4, 3, 4, dtype=F64)
    with torch.no_grad():
        y, state, trace = ntm(x, return_trace=True)
        assert torch.equal(y, ntm(x, return_trace=True)[0]) and not trace.memory.requires_grad
        before = ntm.initial_state(3)
        memory, w = before.memory, before.weightings
        c = ntm.conventions._replace(activated=True)
        for t in range(4):
            fields = [part[t] for part in trace.heads]
            reads, writes = ([f[:, part] for f in fields[:5]] for part in (slice(0, 2), slice(2, 4)))
            flat = [torch.cat(reads, -1).flatten(1), torch.cat([*writes, *fields[5:]], -1).flatten(1)]
            _, memory, w = reference.ntm.step(torch.cat(flat, 1), memory, w, c)
            torch.testing.assert_close(trace.memory[t], memory, rtol=1e-10, atol=1e-12)
            both = torch.cat((trace.read_weightings[t], trace.write_weightings[t]), 1)
            torch.testing.assert_close(both, w, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(trace.memory[-1], state.memory, rtol=1e-12, atol=1e-14)
    assert trace.gates.shape == (4, 3, 4) and ((trace.gates > 0) & (trace.gates < 1)).all()


def test_a_trace_while_training_costs_no_gradient():
    ntm, x = machine(), torch.randn(4, 2, 4, dtype=F64)
    y, _, _ = ntm(x, return_trace=True)
    ours = torch.autograd.grad(y.sum(), ntm.weight_heads)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(ntm(x)[0].sum(), ntm.weight_heads)[0], rtol=0, atol=0)


@every_controller
def test_compile_and_export(controller):
    ntm, x = machine(controller=controller, dtype=torch.float32), torch.randn(4, 2, 4)
    y = ntm(x)[0]
    grads = torch.autograd.grad(y.sum(), list(ntm.parameters()))
    torch._dynamo.reset()
    compiled = torch.compile(ntm, fullgraph=True, backend="aot_eager")
    again = compiled(x)[0]
    torch.testing.assert_close(again, y, rtol=1e-5, atol=1e-6)
    for a, b in zip(torch.autograd.grad(again.sum(), list(ntm.parameters())), grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    program = torch.export.export(ntm, (x,), strict=False)
    assert "rnnkernels.ntm" in program.graph_module.code
    torch.testing.assert_close(program.module()(x)[0], y.detach(), rtol=1e-5, atol=1e-6)


def test_func_grad_and_vmap():
    ntm, x = machine(), torch.randn(3, 4, 1, 4, dtype=F64)  # samples, ticks, rows, inputs
    parameters, buffers = dict(ntm.named_parameters()), dict(ntm.named_buffers())

    def loss(p, x):
        return torch.func.functional_call(ntm, (p, buffers), (x,))[0].square().sum()

    of_each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    to_inputs = torch.func.vmap(torch.func.grad(loss, argnums=1), in_dims=(None, 0))(parameters, x)
    for k in range(3):
        leaf = x[k].clone().requires_grad_()
        grads = torch.autograd.grad(loss(parameters, leaf), [*parameters.values(), leaf])
        for (name, g), expected in zip(of_each.items(), grads, strict=False):
            torch.testing.assert_close(g[k], expected, rtol=1e-10, atol=1e-12, msg=name)
        torch.testing.assert_close(to_inputs[k], grads[-1], rtol=1e-10, atol=1e-12)


def test_autocast_runs_in_float32():
    ntm, x = machine(dtype=torch.float32), torch.randn(4, 2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y = ntm(x.bfloat16())[0]
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, ntm(x.bfloat16().float())[0], rtol=0, atol=0)


def test_saving_and_loading():
    a, b = machine("collier2018"), machine("collier2018")
    b.load_state_dict(a.state_dict())
    x = torch.randn(3, 2, 4, dtype=F64)
    assert torch.equal(a(x)[0], b(x)[0])


def test_what_is_learned_is_what_the_preset_says():
    learned = {p: {n for n, _ in machine(p).named_parameters() if n.startswith("initial")} for p in PRESETS}
    assert learned["graves2014"] == {f"initial_{s}" for s in ("h", "c", "memory", "reads", "weightings")}
    assert learned["collier2018"] == {"initial_reads", "initial_weightings"}
    assert learned["pytorch-ntm"] == {"initial_h", "initial_c"}
    assert (machine("collier2018").initial_memory == 1e-6).all()


def test_forget_bias():
    ntm = machine("collier2018")
    assert (ntm.bias_ih_l0[7:14] == 1).all() and (ntm.bias_hh_l0[7:14] == 0).all()


# -- pytorch-ntm -------------------------------------------------------------------------------------------------------


def pytorch_ntm_checkpoint(heads=1, inputs=9, outputs=8, hidden=100, layers=1, N=128, M=20):
    """Keys and shapes of its EncapsulatedNTM; every shared tensor under each of its names."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=g, dtype=F64) * 0.3

    memory = draw(N, M)
    state = {"ntm.memory.mem_bias": memory, "memory.mem_bias": memory}
    state |= {f"ntm.read{i}_bias": draw(1, M) for i in range(heads)}
    for k in range(heads):
        for j, (kind, size) in enumerate((("read", M + 6), ("write", 3 * M + 6))):
            prefix = f"ntm.heads.{2 * k + j}"
            state |= {f"{prefix}.memory.mem_bias": memory, f"{prefix}.fc_{kind}.weight": draw(size, hidden)}
            state[f"{prefix}.fc_{kind}.bias"] = draw(size)
    state |= {f"ntm.controller.lstm_{s}_bias": draw(layers, 1, hidden) for s in "hc"}
    for k in range(layers):
        width = hidden if k else inputs + M * heads
        state[f"ntm.controller.lstm.weight_ih_l{k}"] = draw(4 * hidden, width)
        state[f"ntm.controller.lstm.weight_hh_l{k}"] = draw(4 * hidden, hidden)
        state |= {f"ntm.controller.lstm.bias_{s}_l{k}": draw(4 * hidden) for s in ("ih", "hh")}
    return state | {"ntm.fc.weight": draw(outputs, hidden + M * heads), "ntm.fc.bias": draw(outputs)}


def as_pytorch_ntm(state, x, heads, M):
    """Its forward as papers describe it, for one sequence (T,I), in loops: probabilities (T,O)."""
    take = {k.removeprefix("ntm."): v for k, v in state.items()}
    lstm = torch.nn.LSTM(x.size(1) + M * heads, take["controller.lstm.weight_hh_l0"].size(1), dtype=F64)
    lstm.load_state_dict({k.rpartition(".")[2]: v for k, v in take.items() if k.startswith("controller.lstm.")})
    hc = take["controller.lstm_h_bias"], take["controller.lstm_c_bias"]
    memory, outs = take["memory.mem_bias"].clone(), []
    reads = [take[f"read{i}_bias"][0] for i in range(heads)]
    weights = [torch.zeros(memory.size(0), dtype=F64) for _ in range(2 * heads)]
    for x_t in x:
        out, hc = lstm(torch.cat((x_t, *reads)).view(1, 1, -1), hc)
        out = out.flatten()
        for k in range(2 * heads):
            kind = "write" if k % 2 else "read"
            o = take[f"heads.{k}.fc_{kind}.weight"] @ out + take[f"heads.{k}.fc_{kind}.bias"]
            key, beta, gate, s, gamma = o[:M], o[M], o[M + 1], o[M + 2 : M + 5], o[M + 5]
            cosine = torch.cosine_similarity(memory + 1e-16, key.expand_as(memory) + 1e-16, dim=1)
            wc = (torch.log1p(beta.exp()) * cosine).softmax(0)
            wg, s = gate.sigmoid() * wc + (1 - gate.sigmoid()) * weights[k], s.softmax(0)
            shifted = torch.stack(
                [s[0] * wg[i - 1] + s[1] * wg[i] + s[2] * wg[(i + 1) % len(wg)] for i in range(len(wg))]
            )
            power = shifted ** (1 + torch.log1p(gamma.exp()))
            weights[k] = power / (power.sum() + 1e-16)
            if kind == "read":
                reads[k // 2] = weights[k] @ memory
            else:
                erase, add = o[M + 6 : 2 * M + 6].sigmoid(), o[2 * M + 6 :]
                memory = memory * (1 - weights[k][:, None] * erase) + weights[k][:, None] * add
        outs.append((take["fc.weight"] @ torch.cat((out, *reads)) + take["fc.bias"]).sigmoid())
    return torch.stack(outs)


@pytest.mark.parametrize("heads, N, M", [(1, 128, 20), (2, 9, 5)])
def test_a_checkpoint_of_pytorch_ntm(heads, N, M, isa):
    state = pytorch_ntm_checkpoint(heads, N=N, M=M)
    ntm = rk.NTM.from_pytorch_ntm(state)
    assert (ntm.input_size, ntm.output_size, ntm.read_heads, ntm.memory_rows) == (9, 8, heads, N)
    x = torch.randn(6, 9, dtype=F64)
    torch.testing.assert_close(ntm(x)[0].sigmoid(), as_pytorch_ntm(state, x, heads, M), rtol=1e-7, atol=1e-9)


def test_a_checkpoint_that_is_none_is_refused():
    state = pytorch_ntm_checkpoint()
    del state["ntm.fc.weight"]
    with pytest.raises(ValueError, match=r"state_dict: expected the key 'fc.weight' of pytorch-ntm"):
        rk.NTM.from_pytorch_ntm(state)
    state = pytorch_ntm_checkpoint()
    state["ntm.fc.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"state_dict: expected \(8,\) for bias_out, got \(3,\)"):
        rk.NTM.from_pytorch_ntm(state)


# -- messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, error, message", [
    ({"controller": "gru"}, ValueError, "controller: expected 'lstm' or 'feedforward', got 'gru'"),
    ({"preset": "mine"}, ValueError, "preset: expected 'graves2014', 'collier2018' or 'pytorch-ntm', got 'mine'"),
    ({"memory_rows": 0}, ValueError, "memory_rows: expected an integer of at least 1, got 0"),
    ({"read_heads": 0, "write_heads": 0}, ValueError, "expected at least one head, got none"),
    ({"order": "later"}, ValueError, "order: expected 'read_first', 'write_first' or 'interleaved', got 'later'"),
    ({"head_clip": -1}, ValueError, "head_clip: expected a finite number of at least 0, got -1"),
    ({"memory": "learned"}, TypeError, "NTM: expected no argument memory"),
], ids=lambda v: v if isinstance(v, str) else "")  # fmt: skip
def test_constructor_messages(arguments, error, message):
    with pytest.raises(error, match=message):
        machine(**arguments)


X = torch.zeros(3, 2, 4, dtype=F64)


@pytest.mark.parametrize("call, error, message", [
    (lambda n: n(X[0, 0]), ValueError, "input: expected 2 or 3 dimensions, got 1"),
    (lambda n: n(X.float()), ValueError, "input: expected torch.float64, the dtype of the weights"),
    (lambda n: n(X[..., :3]), RuntimeError, "input: expected 4 features in the last dimension, got 3"),
    (lambda n: n(X[:0]), RuntimeError, "input: expected at least one tick"),
    (lambda n: n(X, lengths=[3]), ValueError, r"lengths: expected shape \(2,\)"),
    (lambda n: n(X, lengths=[4, 1]), RuntimeError, "lengths: expected 0 to 3 ticks, got 4"),
    (lambda n: n(X, n.initial_state(3)), RuntimeError, r"memory0: expected shape \(2, 6, 5\)"),
    (lambda n: n(X, "state"), RuntimeError, "state: expected an NTMState"),
], ids=lambda v: v if isinstance(v, str) else "")  # fmt: skip
def test_forward_messages(call, error, message):
    with pytest.raises(error, match=message):
        call(machine())


@pytest.mark.parametrize("place, tensor, message", [
    (0, torch.zeros(3, 2), "x: expected 3 dimensions"),
    (0, torch.zeros(3, 2, 2, dtype=torch.bfloat16), "x: expected float32 or float64, got"),
    (1, torch.zeros(3), "controller: expected shape"),
    (2, torch.zeros(3, 3), "w_heads: expected shape"),
    (4, torch.zeros(2, 9), "w_out: expected shape"),
    (6, torch.zeros(1, 5, 3), "h0: expected shape"),
    (8, torch.zeros(2, 5, 2, dtype=F64), "memory0: expected dtype"),
    (9, torch.zeros(2, 2, 2), "reads0: expected shape"),
    (10, torch.zeros(2, 2, 6), "weightings0: expected shape"),
], ids=lambda v: v if isinstance(v, str) else "")  # fmt: skip
def test_op_messages(place, tensor, message):
    problem = MachineProblem(SMALL)
    tensors = [t.float() for t in problem.tensors]
    tensors[place] = tensor
    with pytest.raises(RuntimeError, match=f"rnnkernels::ntm: {message}"):
        functional.ntm(*tensors)


@pytest.mark.parametrize(
    "name, value",
    [
        ("controller", "rnn"),
        ("order", "last"),
        ("similarity_guard", ""),
        ("key_activation", "tnah"),
        ("add_activation", "relu"),
    ],
)
def test_conventions_messages(name, value):
    problem = MachineProblem(SMALL)
    conventions = SMALL.conventions._replace(**{name: value})
    with pytest.raises(ValueError, match=f"^{name}: expected one of .*, got '{value}'$"):
        functional.ntm(*(t.float() for t in problem.tensors), conventions=conventions)


@pytest.mark.parametrize("name", ["weighting", "erase", "add"])
def test_parts_on_another_device(name):
    tensors = {"weighting": torch.rand(2, 1, 5), "erase": torch.rand(2, 1, 3), "add": torch.rand(2, 1, 3)}
    tensors[name] = tensors[name].to("meta")
    with pytest.raises(RuntimeError, match=f"^{name}: expected device cpu as memory has, got meta$"):
        functional.ntm_write(torch.rand(2, 5, 3), **tensors)
    with pytest.raises(RuntimeError, match="^weighting: expected device cpu as memory has, got meta$"):
        functional.ntm_read(torch.rand(2, 5, 3), torch.rand(2, 1, 5, device="meta"))


def test_what_ran_is_told():
    ntm = machine(dtype=torch.float32)
    ntm(torch.randn(3, 2, 4))
    assert rk.info()["last_kernel"]["op"] == "rnnkernels::ntm"
