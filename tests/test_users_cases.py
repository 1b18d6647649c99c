"""What users do with torch.nn's layers and expect to do with these, and what must not pass in silence."""

import copy
import itertools
import math

import pytest
import torch
from conftest import CELLS
from torch import nn
from torch.func import grad, vmap

import rnnkernels as rk
from rnnkernels import _C, functional, modules, reference
from rnnkernels.options import Masks, Options
from rnnkernels.testing import MACHINES, STEPS, Case, MachineProblem, Problem
from rnnkernels.testing import OPTIONS as CASES_OF

T, B, I, H = 5, 4, 3, 6
KINDS = [k for k in vars(rk).values() if isinstance(k, type) and issubclass(k, modules.base.Base)]
LAYERS = [k for k in KINDS if issubclass(k, modules.recurrent.Recurrent)]
CELL_KINDS = [k for k in KINDS if k not in LAYERS]
OPS = [f"{name}{way}" for name in (*CELLS, "ntm", "ntm_step") for way in ("", "_backward")]

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
every_layer = pytest.mark.parametrize("kind", LAYERS, ids=lambda k: k.__name__)


def machine(**arguments):
    return rk.NTM(I, 2, controller_size=7, memory_rows=5, memory_width=4, **arguments)


def an_input(module):
    return torch.randn(T, B, I) if not isinstance(module, modules.cells.RecurrentCell) else torch.randn(B, I)


def tensors_in(result):
    if isinstance(result, torch.Tensor):
        return [result]
    values = result.values() if isinstance(result, dict) else result
    return [t for value in values if value is not None for t in tensors_in(value)]


# -- one device, documented dtypes -------------------------------------------------------------------------------------


def arguments_of(op):
    """A valid call of an op: its arguments by name."""
    name, backward = op.removesuffix("_backward"), op.endswith("_backward")
    if name in CELLS:
        problem = Problem(name, next(c for c in CASES_OF[name] if c.layout == "dense" and not c.reverse))
        tensors, config = [None if t is None else t.float() for t in problem.tensors], Options().flat()
        states = tensors[7 : 7 + CELLS[name]["states"]]
        tensors = [*tensors[:7], *states, *(torch.zeros(s.size(1)) for s in states)]
        resets = torch.zeros(tensors[0].shape[:2], dtype=torch.bool)
        config = [None, False, None, resets, torch.tensor(3), *config[1:]]
    else:
        problem = MachineProblem((MACHINES if name == "ntm" else STEPS)[0])
        tensors, c = [t.float() for t in problem.tensors], problem.case.conventions
        config = list((c if name == "ntm" else c._replace(layers=0)).flat())
        if name == "ntm":
            config = [torch.full((tensors[0].size(1),), tensors[0].size(0)), *config]
    forward = getattr(torch.ops.rnnkernels, name).default
    args = [*tensors, *config, True]
    schema = forward._schema
    if backward:
        results = forward(*args)
        backward_op = getattr(torch.ops.rnnkernels, op).default
        schema = backward_op._schema
        grads = [torch.ones_like(r) for r in results[:-1] if r.numel() or name not in CELLS]
        while len(grads) < next(i for i, a in enumerate(schema.arguments) if a.name in ("x", "parameters")):
            grads.append(None)
        args = [*grads, *tensors, results[0], results[-1], *config, True, True]
        forward = backward_op
    return forward, {a.name: value for a, value in zip(schema.arguments, args)}


@pytest.mark.parametrize("op", OPS)
def test_every_tensor_of_an_op_is_on_one_device(op):
    """A meta tensor makes torch call the fake: what that returns for CPU tensors would be uninitialised memory."""
    run, arguments = arguments_of(op)
    run(**arguments)
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            with pytest.raises(RuntimeError, match=r"expected device (cpu|meta), got") as raised:
                run(**arguments | {name: value.to("meta")})
            assert "\n" not in str(raised.value)


@pytest.mark.parametrize("op", OPS)
def test_every_tensor_of_an_op_has_a_documented_dtype(op):
    run, arguments = arguments_of(op)
    fakes = {
        k: v.to("meta") if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in arguments.items()
    }
    fakes |= {"resets": fakes["resets"].to("meta")} if "resets" in fakes else {}
    run(**fakes)
    for name, value in arguments.items():
        if not isinstance(value, torch.Tensor):
            continue
        for given in (arguments, fakes):
            with pytest.raises(RuntimeError, match=f"{name}: expected"):
                run(**given | {name: given[name].to(torch.complex64)})


def test_a_parameter_on_the_meta_device_is_refused_by_name():
    module = rk.GRU(I, H)
    module.bias_hh_l0 = nn.Parameter(module.bias_hh_l0.to("meta"))
    with pytest.raises(RuntimeError, match="^bias_hh_l0: expected device cpu, as weight_ih_l0 has, got meta$"):
        module(torch.randn(T, B, I))


@every_kind
@pytest.mark.parametrize("place", [1, -1])
def test_a_parameter_of_another_dtype_is_refused_by_name(kind, place):
    module = kind(I, H)
    name, parameter = list(module.named_parameters())[place]
    parameter.data = parameter.data.double()
    with pytest.raises(
        RuntimeError, match=f"^{name}: expected dtype torch.float32, as weight_ih.* has, got torch.float64$"
    ):
        module(an_input(module))


def test_a_parameter_of_a_machine_of_another_dtype_is_refused_by_name():
    module = machine()
    module.bias_out.data = module.bias_out.data.double()
    with pytest.raises(RuntimeError, match="^bias_out: expected dtype"):
        module(torch.randn(T, B, I))


@pytest.mark.parametrize("kind", [rk.LayerNormLSTM, rk.LayerNormGRU, rk.LayerNormLSTMCell, rk.LayerNormGRUCell])
def test_normalisations_may_stay_in_float32(kind):
    module = kind(I, H).bfloat16()
    for name, parameter in module.named_parameters():
        if name.startswith("ln_"):
            parameter.data = parameter.data.float() * 1.2345678
    x = an_input(module).bfloat16()
    result = tensors_in(module(x))
    assert all(t.dtype == torch.bfloat16 for t in result)
    sum(t.float().sum() for t in result).backward()
    assert all(p.grad.dtype == p.dtype for p in module.parameters())
    exact = tensors_in(copy.deepcopy(module).float()(x.float()))
    torch.testing.assert_close(result[0].float(), exact[0], rtol=2**-8, atol=2**-8)  # rounded once, at the end


# -- states under autocast ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CELL_KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_state_carried_under_autocast_is_not_rounded(kind, dtype):
    cell, x, exact = kind(1, 1), torch.zeros(1, 1), None
    with torch.no_grad():  # slow: a state that moves by less than half a unit in the last place a time step
        for name, parameter in cell.named_parameters():
            parameter.fill_(0.0 if name.startswith("weight") else 6.0 if name.startswith("bias_ih") else 0.5)
    double, state, exact = copy.deepcopy(cell).double(), None, None
    for _ in range(1000):
        exact = double(x.double(), exact)
        with torch.autocast("cpu", dtype):
            state = cell(x, state)
    for ours, right in zip(tensors_in(state), tensors_in(exact)):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), right, rtol=2e-3, atol=1e-3)


def test_a_gru_that_moves_slowly_under_autocast():
    cell = rk.GRUCell(1, 1)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.bias_ih[1], cell.bias_ih[2] = 6.0, 10.0
    h = torch.zeros(1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(1000):
            h = cell(torch.zeros(1, 1), h)
    assert abs(h.item() - 0.916) < 1e-3


@every_layer
@pytest.mark.parametrize("given", [None, torch.float32, torch.bfloat16], ids=str)
def test_states_return_in_their_own_dtype_under_autocast(kind, given):
    module, x = kind(I, H, 2, bidirectional=True), torch.randn(T, B, I, requires_grad=True)
    with torch.no_grad():
        shapes = [s.shape for s in tensors_in(module(x)[1])]
    hx = [torch.randn(s, dtype=given, requires_grad=True) for s in shapes] if given else None
    arguments = () if hx is None else (hx[0],) if len(hx) == 1 else (tuple(hx),)
    with torch.autocast("cpu", torch.bfloat16):
        out, state = module(x, *arguments)
    assert out.dtype == torch.bfloat16
    assert all(s.dtype == (given or x.dtype) for s in tensors_in(state))
    (out.float().sum() + sum(s.float().sum() for s in tensors_in(state))).backward()
    assert x.grad.dtype == torch.float32 and all(s.grad.dtype == given for s in hx or ())


@every_layer
def test_states_under_autocast_compiled(kind):
    torch._dynamo.reset()
    module, x = kind(I, H, 2), torch.randn(T, B, I)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        for ours, expected in zip(tensors_in(compiled(x)), tensors_in(module(x)), strict=True):
            assert ours.dtype == expected.dtype and torch.equal(ours, expected)


# -- results belong to the caller --------------------------------------------------------------------------------------


def calls_of(kind):
    """Calls whose results must be the caller's own, by name."""
    if kind in CELL_KINDS:
        return {"batch": lambda m: m(torch.randn(B, I)), "row": lambda m: m(torch.randn(I))}
    x = torch.randn(T, B, I)
    return {
        "batch": lambda m: m(x),
        "one": lambda m: m(x[:, 0]),
        "all": lambda m: m(x, return_all=True),
        "lengths": lambda m: m(x, lengths=[3, 0, 5, 1]),
        "packed": lambda m: m(nn.utils.rnn.pack_padded_sequence(x, [5, 4, 2, 1])),
        "rows": lambda m: m(x.flatten(0, 1), cu_seqlens=[0, 5, 20]),
    }


@every_kind
def test_results_may_be_changed_in_place(kind):
    for name, call in calls_of(kind).items():
        for more in ({},) if kind in CELL_KINDS else ({}, {"num_layers": 2, "bidirectional": True}):
            module = kind(I, H, **more)
            results = [t for t in tensors_in(call(module)) if t.is_floating_point()]
            pointers = [t.untyped_storage().data_ptr() for t in results]
            assert len(set(pointers)) == len(pointers), name
            sum(t.sum() for t in results).backward()
            for t in results if name != "all" else results[:2]:
                t.detach_()
            kept = [t.clone() for t in results]
            results[0].zero_()
            assert all(torch.equal(a, b) for a, b in zip(results[1:], kept[1:]))


@pytest.mark.parametrize("controller", ["lstm", "feedforward"])
def test_results_of_a_machine_may_be_changed_in_place(controller):
    module, x = machine(controller=controller), torch.randn(T, B, I)
    y, state = module(x)
    given = tensors_in(state)
    results = tensors_in(module(x, state))
    assert not {t.untyped_storage().data_ptr() for t in results} & {t.untyped_storage().data_ptr() for t in given}
    sum(t.sum() for t in results).backward()
    for t in (*results, *tensors_in(module(x[:, 0]))):
        t.detach_()


@every_layer
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_output_changed_before_backward(kind, batch_first, dtype):
    """Backward reads the output: changed, it is computed again."""
    module, x = kind(I, H, 2, batch_first=batch_first, zoneout=0.1).to(dtype), torch.randn(B, T, I).to(dtype)
    x.requires_grad_()

    def gradients(in_place):
        out, state = module(x, seed=3)
        if in_place:
            out *= 2
            torch.relu_(out)
        else:
            out = torch.relu(out * 2)
        return torch.autograd.grad(out.square().sum() + tensors_in(state)[0].sum(), [x, *module.parameters()])

    for ours, expected in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(ours, expected)


def test_an_output_of_a_machine_changed_before_backward():
    module, x = machine(output_clip=0.5), torch.randn(T, B, I)

    def gradients(in_place):
        y, _ = module(x)
        y = y.mul_(2) if in_place else y * 2
        return torch.autograd.grad(y.square().sum(), list(module.parameters()), allow_unused=True)

    for ours, expected in zip(gradients(True), gradients(False), strict=True):
        assert (ours is None and expected is None) or torch.equal(ours, expected)


def test_an_output_changed_before_a_second_derivative():
    module, x = rk.GRU(I, H).double(), torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)

    def second(in_place):
        out, _ = module(x)
        out = out.mul_(2) if in_place else out * 2
        (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), list(module.parameters()))

    for ours, expected in zip(second(True), second(False), strict=True):
        torch.testing.assert_close(ours, expected)


def test_an_input_changed_before_backward_is_still_an_error():
    module, x = rk.GRU(I, H), torch.randn(T, B, I)
    out, _ = module(x)
    out += 1
    x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
    out, _ = module(x)
    out.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        out.sum().backward()


# -- attributes set later ----------------------------------------------------------------------------------------------


def built(kind):
    return machine() if kind is rk.NTM else kind(I, H)


@pytest.mark.parametrize("kind", [*KINDS, rk.NTM], ids=lambda k: k.__name__)
def test_every_checked_attribute_is_checked_when_set(kind):
    module = built(kind)
    x = torch.randn(T, B, I) if kind is rk.NTM else an_input(module)
    assert module.checks
    with torch.no_grad():
        before = tensors_in(module(x))
        for name in module.checks:
            value = getattr(module, name)
            with pytest.raises((ValueError, TypeError), match=f"^{name}: expected"):
                setattr(module, name, object())
            assert getattr(module, name) == value
            setattr(module, name, value)  # what it is, it may be set to
        for name in module.fixed:
            value = getattr(module, name)
            other = value + 1 if type(value) is int else not value if isinstance(value, bool) else None
            if other is None:
                other = {"ba2016": "gate", "none": "all"}.get(value)
            if other is None:
                continue
            with pytest.raises(AttributeError, match=f"^{name}: expected no change"):
                setattr(module, name, other)
            assert getattr(module, name) == value
        assert all(torch.equal(a, b) for a, b in zip(before, tensors_in(module(x))))


@pytest.mark.parametrize(
    "kind, name, value",
    [
        (rk.PeepholeLSTM, "gradient", "truncate"),
        (rk.PeepholeLSTM, "g", "sine"),
        (rk.LayerNormLSTM, "eps", -1),
        (rk.GRU, "activation", "relu"),
        (rk.RNN, "nonlinearity", "sine"),
        (rk.IndRNN, "nonlinearity", "logistic"),
        (rk.LSTM, "dropout", 2),
        (rk.NTM, "key_activation", "tnah"),
        (rk.NTM, "similarity_eps", -1e-8),
        (rk.NTM, "recompute", "yes"),
    ],
)
def test_a_wrong_value_set_later_is_refused(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        setattr(built(kind), name, value)


def test_a_value_set_later_takes_effect():
    module, x = rk.PeepholeLSTM(I, H), torch.randn(T, B, I)
    other = rk.PeepholeLSTM(I, H, g="logistic")
    other.load_state_dict(module.state_dict())
    module.g = "logistic"
    assert torch.equal(module(x)[0], other(x)[0])
    gru, before = rk.GRU(I, H), None
    before, gru.reset_after = gru(x)[0], False
    assert not torch.equal(gru(x)[0], before)


@every_kind
def test_names_that_hook_tools_own_are_free(kind):
    module = kind(I, H)
    for name in ("activations", "grad_sample", "ddp_hooks", "qconfig", "input", "output", "rule"):
        setattr(module, name, [])
    module(an_input(module))


# -- integers, empty tensors, padding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("recompute", [2**31, 2**62, 2**63 - 1, -1, -(2**63)])
def test_pieces_to_recompute_are_bounded(recompute):
    problem = Problem("gru", CASES_OF["gru"][0])
    tensors = [None if t is None else t.float().requires_grad_() for t in problem.tensors]
    with pytest.raises(RuntimeError, match="recompute: expected 0 to 2147483647"):
        functional.layer("gru", *tensors[:6], tensors[7:8], options=Options(recompute=recompute))
    ntm = MachineProblem(MACHINES[0])
    c = ntm.case.conventions._replace(recompute=recompute)
    with pytest.raises(RuntimeError, match="recompute: expected 0 to 2147483647"):
        functional.ntm(*(t.float() for t in ntm.tensors), conventions=c)


def test_a_piece_longer_than_the_sequence_is_the_sequence():
    for recompute in (1000, 2**31 - 1):
        problem = Problem("gru", CASES_OF["gru"][0])
        ours = problem.outputs_and_gradients(functional.layer, torch.float64)
        problem.options = problem.options._replace(recompute=recompute)
        again = problem.outputs_and_gradients(functional.layer, torch.float64)
        assert all(torch.equal(ours[k], again[k]) for k in ours)
        ntm = MachineProblem(MACHINES[0])
        ours = ntm.outputs_and_gradients(functional.ntm, torch.float64)
        ntm.case = copy.copy(ntm.case)
        object.__setattr__(ntm.case, "conventions", ntm.case.conventions._replace(recompute=recompute))
        again = ntm.outputs_and_gradients(functional.ntm, torch.float64)
        for k in ours:
            torch.testing.assert_close(ours[k], again[k])


def test_other_integers_are_bounded():
    for threads in (0, -1, 1025, 2**62):
        with pytest.raises(RuntimeError, match="threads: expected 1 to 1024"):
            torch.ops.rnnkernels._fma_peak(threads, False)
    with pytest.raises(RuntimeError, match="expected sizes"):
        _C.recompute_piece(-1, 1, 1)
    assert _C.recompute_piece(2**31, 2**31, 2**40) == 46341
    w = (torch.randn(3 * H, I), torch.randn(3 * H, H))
    for sizes in ([2**62, 2**62], [2**63 - 1, 1], [T * B + 2, -2]):
        with pytest.raises(RuntimeError, match="lengths: expected 0 to"):
            functional.layer("gru", torch.randn(T * B, I), *w, lengths=torch.tensor(sizes))
    with pytest.raises(RuntimeError, match="batch_sizes: expected at most"):
        functional.layer("gru", torch.randn(T * B, I), *w, batch_sizes=torch.tensor([2**40]))
    with pytest.raises(RuntimeError, match="expected sizes of at most"):
        functional.layer("gru", torch.randn(1).expand(2**32, 1, I), *w, states=[torch.randn(1, H)])
    for eps in (-1.0, float("nan")):
        with pytest.raises(RuntimeError, match="eps: expected 0 or more"):
            functional.layer("gru", torch.randn(T, B, I), *w, options=Options(eps=eps))


def test_a_projection_needs_rows():
    w = torch.randn(4 * H, I), torch.randn(4 * H, 0)
    with pytest.raises(RuntimeError, match=r"w_hr: expected shape \(P, H\) of at least one row .* got \(0, 6\)"):
        functional.layer("lstm", torch.randn(T, B, I), *w, w_hr=torch.empty(0, H))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("P", [1, H, 3 * H])
def test_a_projection_may_be_wider_than_the_cells(dtype, P):
    Problem("lstm", Case(T, B, I, H, P=P), dtype).check(functional.layer, dtype)


@pytest.mark.parametrize("of", ["layer", "ntm"])
def test_nan_in_padding_has_no_part_in_any_derivative(of):
    lengths, x = [3, 5, 0, 1], torch.randn(T, B, I, dtype=torch.float64)
    module = (rk.GRU(I, H) if of == "layer" else machine(weightings_init="learned")).double()
    padded = x.clone()
    for row, n in enumerate(lengths):
        padded[n:, row] = float("nan")
    results = []
    for given in (x, padded):
        given = given.clone().requires_grad_()
        out, state = module(given, lengths=torch.tensor(lengths))
        weight = torch.where(out == 0, torch.nan, 1.0)  # of padded rows, too, nobody asks for a gradient
        out = torch.where(out == 0, 0.0, out)
        loss = (out * weight.nan_to_num(0)).square().sum() + tensors_in(state)[0].square().sum()
        (first,) = torch.autograd.grad(loss, given, create_graph=True)
        second = torch.autograd.grad(first.square().sum(), [given, *module.parameters()], allow_unused=True)
        _, tangent = torch.func.jvp(
            lambda z: module(z, lengths=torch.tensor(lengths))[0], (given.detach(),), (torch.ones_like(x),)
        )
        results.append([first, tangent, *(g for g in second if g is not None)])
    for clean, dirty in zip(*results, strict=True):
        assert not dirty.isnan().any()
        torch.testing.assert_close(clean, dirty)


# -- convert -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_convert_leaves_what_no_kernel_runs(name):
    kind = getattr(nn, name)
    mixed = kind(I, H)
    bias = "bias_hh" if name.endswith("Cell") else "bias_hh_l0"
    setattr(mixed, bias, nn.Parameter(getattr(mixed, bias).double()))
    for module, word in ((kind(I, H, dtype=torch.complex64), "complex64"), (mixed, "several dtypes")):
        report = []
        with pytest.warns(UserWarning, match=word):
            assert type(rk.convert(module, report=report)) is kind
        assert report[0].after is None and word in report[0].reason
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        converted = rk.convert(kind(I, H, dtype=dtype))
        assert type(converted) is getattr(rk, name)
        converted(an_input(converted).to(dtype))


# -- masks, offsets, samples, devices ----------------------------------------------------------------------------------


def test_a_mask_that_wants_a_gradient_is_refused():
    module, masks = rk.GRU(I, H), Masks(recurrent=torch.ones(B, H, requires_grad=True))
    with pytest.raises(RuntimeError, match="^masks: expected tensors without requires_grad"):
        module(torch.randn(T, B, I), masks=masks)
    with torch.no_grad():
        module(torch.randn(T, B, I), masks=masks)


def test_a_mask_of_weights_is_cut_from_the_graph():
    mask = torch.ones(H, H, requires_grad=True)
    module = rk.RNN(I, H, mask=mask)
    assert not module.mask_l0.requires_grad
    copy.deepcopy(module)


@pytest.mark.parametrize("given", [[0, 5, 3, T * B], [0, T * B, T * B - 1], torch.tensor([0, 7, 6, T * B])])
def test_offsets_that_decrease(given):
    with pytest.raises(ValueError, match="^cu_seqlens: expected no decrease, got [0-9]+ after [0-9]+$"):
        rk.GRU(I, H)(torch.randn(T * B, I), cu_seqlens=given)


def test_vmap_over_no_sample():
    gru, ntm = rk.GRU(I, H), machine()
    for module, x in itertools.product((gru, ntm), (torch.randn(0, T, B, I),)):
        out = vmap(lambda x, m=module: m(x)[0])(x)
        assert out.shape == (0, *module(torch.randn(T, B, I))[0].shape)
        gradient = vmap(grad(lambda x, m=module: m(x)[0].sum()))(x)
        assert gradient.shape == x.shape


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 1.5, "7", True])
def test_a_seed_is_64_bits(seed):
    with pytest.raises(ValueError, match="^seed: expected an integer of 64 bits"):
        rk.GRU(I, H, zoneout=0.5)(torch.randn(T, B, I), seed=seed)


def test_helper_tensors_name_their_device():
    """Under a default device that is not the inputs', as in code that builds a large model on meta first."""
    x = torch.randn(T, B, I)
    layer, ntm = rk.LSTM(I, H, zoneout=0.5), machine()
    lengths = [5, 3, 2, 1]
    w, on_cpu = (torch.randn(3 * H, I), torch.randn(3 * H, H)), torch.tensor(lengths)
    calls = {
        "lengths": lambda: layer(x, lengths=lengths),
        "offsets": lambda: layer(x.flatten(0, 1), cu_seqlens=[0, 5, 20]),
        "seed": lambda: layer(x, seed=3),
        "training": lambda: layer(x),
        "trace": lambda: ntm(x, lengths=lengths, return_trace=True),
        "machine": lambda: ntm(x, lengths=lengths),
        "reference": lambda: reference.layer(
            "gru", x, *w, lengths=on_cpu, options=Options(zoneout=0.5, seed=on_cpu[0])
        ),
    }
    for name, call in calls.items():
        torch.manual_seed(0)
        expected = tensors_in(call())
        torch.manual_seed(0)
        with torch.device("meta"):
            got = tensors_in(call())
        assert all(t.device.type == "cpu" for t in got), name
        if name != "reference":
            assert all(torch.equal(a, b) for a, b in zip(got, expected)), name


@pytest.mark.parametrize("value", [torch.zeros(2, 3), "a\nb", list(range(100))], ids=["tensor", "lines", "list"])
def test_messages_are_one_short_line(value):
    for make_it in (
        lambda: rk.GRU(I, H, zoneout=value),
        lambda: rk.LSTM1997(I, H, bias=value),
        lambda: machine(memory_init=value),
        lambda: rk.GRU(I, H)(torch.randn(T, B, I), seed=value if not isinstance(value, torch.Tensor) else "\n"),
        lambda: functional.layer(value if isinstance(value, str) else "\n", torch.randn(T, B, I), torch.randn(3, 3)),
    ):
        with pytest.raises(ValueError) as raised:
            make_it()
        assert len(str(raised.value).splitlines()) == 1 and len(str(raised.value)) < 400


@every_kind
@pytest.mark.parametrize("sizes", [(None, H), (I, "6"), (I, []), (-1, H), (I, -1), (set(), H), (1.5, H)])
def test_sizes_are_integers(kind, sizes):
    with pytest.raises((TypeError, ValueError), match="^(input|hidden)_size: expected"):
        kind(*sizes)


@every_kind
def test_a_bias_is_there_or_not(kind):
    for value in (torch.zeros(2, 3), torch.zeros(0), "yes", None):
        with pytest.raises((TypeError, ValueError), match="^bias: expected"):
            kind(I, H, bias=value)


def test_any_finite_number_is_a_forget_bias():
    for value in (1, 0.5, -(2**64)):
        bias = rk.LSTM(I, H, forget_bias=value).bias_ih_l0
        assert (bias[H : 2 * H] == float(value)).all()
    for value in (10**400, math.inf, math.nan, "1"):
        with pytest.raises(ValueError, match="^forget_bias: expected a finite number or None, got"):
            rk.LSTM(I, H, forget_bias=value)


@pytest.mark.parametrize("value", ["tnah", None, nn.Parameter(torch.zeros(3))], ids=str)
def test_an_rnn_cell_looks_at_its_nonlinearity_when_it_is_called(value):
    cell = rk.RNNCell(I, H, nonlinearity=value)
    with pytest.raises(RuntimeError, match="^nonlinearity: expected 'tanh', 'relu' or 'logistic', got"):
        cell(torch.zeros(B, I))


@every_kind
@pytest.mark.parametrize("name", ["input_size", "hidden_size"])
def test_sizes_are_no_bools(kind, name):
    with pytest.raises(TypeError, match=f"^{name}: expected int, got bool$"):
        kind(**{"input_size": I, "hidden_size": H, name: True})


def test_a_projection_may_be_false():
    assert rk.LSTM(I, H, proj_size=False).proj_size == nn.LSTM(I, H, proj_size=False).proj_size
    with pytest.raises(TypeError, match="^proj_size: expected int, got bool$"):
        rk.LSTM(I, H, proj_size=True)


@pytest.mark.parametrize("kind", [*LAYERS, rk.NTM], ids=lambda k: k.__name__)
def test_batch_first_is_a_bool(kind):
    module = built(kind)
    for value in (None, 1, "yes"):
        with pytest.raises(TypeError, match="^batch_first: expected bool, got"):
            module.batch_first = value
    with pytest.raises(TypeError, match="^batch_first: expected bool, got NoneType"):
        machine(batch_first=None) if kind is rk.NTM else kind(I, H, batch_first=None)


@pytest.mark.parametrize("place", ["sorted_indices", "unsorted_indices"])
def test_indices_of_a_packed_sequence_on_another_device(place):
    """Those on the meta device would make torch return states of uninitialised memory."""
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(T, B, I), [1, 5, 2, 4], enforce_sorted=False)
    packed = packed._replace(**{place: getattr(packed, place).to("meta")})
    with pytest.raises(RuntimeError, match="^input: expected its indices on cpu, as its data, got meta$"):
        rk.GRU(I, H)(packed)
