"""Layers, Cells and the Neural Turing Machine: constructors, options set later, calls of every kind, and `convert`."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, rnn

import rnnkernels as rk
from rnnkernels import functional
from rnnkernels.modules.base import SETTINGS, Base
from rnnkernels.options import GUARDS, ORDERS, SQUASHES

from .cases import anything, check_devices, relaid
from .functions import spoil_one, with_gradients
from .harness import Draw, Fault, Misfit, attempt, examine, same, target, tensors_of
from .ops import close, set_machine

KINDS = [kind for kind in vars(rk).values() if isinstance(kind, type)]
LAYERS = [kind for kind in KINDS if issubclass(kind, rk.modules.recurrent.Recurrent)]
CELLS = [kind for kind in KINDS if issubclass(kind, rk.modules.cells.RecurrentCell)]
DROP_INS = {kind: getattr(nn, kind.__name__) for kind in (*LAYERS, *CELLS) if hasattr(nn, kind.__name__)}

# What the options may be; the first is the default.
OPTIONS: dict[str, tuple] = {
    "zoneout": (0.0, 0.3, 1.0, 1),
    "zoneout_cell": (0.0, 0.3),
    "recurrent_dropout": (0.0, 0.3),
    "recurrent_dropout_mode": ("sequence", "step"),
    "input_dropout": (0.0, 0.3),
    "weight_dropout": (0.0, 0.3),
    "cell_clip": (None, 0.5, 3),
    "gradient_clip": (None, 0.5),
    "forget_bias": (None, 1.0, -2),
    "recompute": (False, True),
    "learn_reset_state": (False, True),
}
OF_LAYERS = ("recurrent_dropout_mode", "recompute", "learn_reset_state")  # which Cells do not have
OWN: dict[str, tuple] = {
    "activation": ("tanh", "relu"),
    "reset_after": (True, False),
    "g": SQUASHES,
    "h": SQUASHES,
    "gradient": ("full", "truncated"),
    "norm": ("ba2016", "carry", "gate"),
    "eps": (1e-5, 1e-2, 0.0),
    "nonlinearity": ("tanh", "relu"),
    "block_size": (1, 2),
    "forget_gate": (False, True),
    "output_gate": (True, False),
    "recurrent": (True, False),
    "gate_feedback": (True, False),
}
SIZES: dict[str, tuple] = {"input_size": (3, 1, 5), "hidden_size": (4, 2, 6, 16)}
STACK: dict[str, tuple] = {
    "num_layers": (1, 2, 3),
    "batch_first": (False, True),
    "dropout": (0.0, 0.3),
    "bidirectional": (False, True),
}
MACHINE: dict[str, tuple] = {
    "input_size": (3, 1, 0),
    "output_size": (2, 1),
    "controller": ("lstm", "feedforward"),
    "controller_size": (5, 1),
    "controller_layers": (1, 2),
    "read_heads": (1, 2, 0),
    "write_heads": (1, 2, 0),
    "memory_rows": (7, 1, 16),
    "memory_width": (4, 1),
    "shift_range": (1, 0, 2),
    "preset": ("graves2014", "collier2018", "pytorch-ntm"),
    "batch_first": (False, True),
    "recompute": (False, True),
    "order": ORDERS,
    "key_activation": ("tanh", "linear"),
    "add_activation": ("tanh", "linear"),
    "similarity_guard": GUARDS,
    "similarity_eps": (1e-8, 1e-2),
    "sharpen_eps": (0.0, 1e-16, 1),
    "reversed_shift": (False, True),
    "head_clip": (0.0, 20.0),
    "output_clip": (0.0, 20.0),
    "memory_init": ("learned", "constant", "random"),
    "reads_init": ("learned", "random"),
    "weightings_init": ("learned", "zeros"),
    "controller_init": ("learned", "zeros"),
    "squash_initial": (False, True),
    "forget_bias": (None, 1.0),
}


def arguments(draw: Draw, kind: type, changes: float = 0.15) -> dict[str, Any]:
    """Arguments that the constructor of a layer or Cell may take, some of which exclude each other."""
    table = dict(SIZES)
    layer = kind in LAYERS
    table |= STACK if layer else {}
    table |= {name: v for name, v in OPTIONS.items() if layer or name not in OF_LAYERS}
    table |= {name: OWN[name] for name in kind.own}
    if kind in (rk.RNN, rk.RNNCell):
        table["nonlinearity"] = ("tanh", "relu", "logistic")
    table["bias"] = ("none", "gates", "all") if kind.default_bias == "none" else (True, False)
    if kind is rk.LSTM:
        table["proj_size"] = (0, 1, 3)
    given = {name: draw.choice(values) for name, values in table.items() if name in SIZES or draw.chance(changes)}
    if draw.chance(0.3):
        given["dtype"] = torch.float64
    return given


def made(draw: Draw, kinds: list[type]) -> tuple[nn.Module, dict[str, Any]]:
    """A module of one of these classes, and what it was made with."""
    for _ in range(50):
        kind = draw.choice(kinds)
        given = arguments(draw, kind)
        module, error = attempt(kind, what=f"{kind.__name__}({given}): ", **given)
        if error is None:
            return module.train(draw.chance(0.5)), given
    raise Fault("50 random modules were refused, one after the other")


# -- constructors ------------------------------------------------------------------------------------------------------


@target()
def constructors(draw: Draw) -> None:
    """Arguments of constructors, right and wrong; the drop-ins refuse what torch.nn refuses, and nothing else."""
    kind = draw.choice([*LAYERS, *CELLS, rk.NTM])
    given = machine_arguments(draw) if kind is rk.NTM else arguments(draw, kind)
    name = draw.choice([*given, "dtype", "device", *(("zoneout", "cell_clip") if kind is not rk.NTM else ())])
    value = anything(draw)
    if name in ("dtype", "device", "bidirectional"):  # torch looks at these, or nobody
        value = Misfit(value)
    if isinstance(value, int) and (abs(value) > 2**15 or name == "num_layers" and value > 5):
        value = -value if value > 0 else value  # of so many layers or units there is no end
    what = f"{kind.__name__}({given | {name: value}}): "
    module, error = attempt(kind, what=what, **given | {name: value})
    value = value.value if isinstance(value, Misfit) else value
    theirs = DROP_INS.get(kind)
    if theirs and not {*given, name} & {*OPTIONS, *kind.own} and given.get("nonlinearity") != "logistic":
        other = None
        try:
            theirs(**given | {name: value})
        except Exception as caught:
            other = caught
        if (error is None) != (other is None) and not isinstance(value, Tensor) and name != "bias":
            raise Fault(f"{what}{error!r} here, {other!r} in torch.nn")
    if error is None and not any(p.is_meta for p in module.parameters()):
        copied(module)
        repr(module)
        if kind is rk.NTM:
            attempt(module, torch.zeros(2, 1, module.input_size), what=what)
        else:
            shape = (2, 1, module.input_size) if kind in LAYERS else (1, module.input_size)
            attempt(module, torch.zeros(shape, dtype=module.weight_ih_l0.dtype if kind in LAYERS else None), what=what)


def machine_arguments(draw: Draw, changes: float = 0.2) -> dict[str, Any]:
    given = {name: draw.choice(values) for name, values in MACHINE.items() if draw.chance(changes)}
    given = {"input_size": 3, "output_size": 2, "controller_size": 5, "memory_rows": 7, "memory_width": 4} | given
    if not given.get("read_heads", 1) + given.get("write_heads", 1):
        given["read_heads"] = 1
    return given


# -- calls -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Modules run the reference, as on a device without kernels."""
    with mock.patch.object(functional, "has_kernel", lambda _: False):
        yield


def call_of_layer(draw: Draw, module: Any) -> dict[str, Any]:
    """Arguments of `forward`, in one of the layouts."""
    dtype = module.weight_ih_l0.dtype
    T, B, L = draw.randint(1, 6), draw.randint(1, 4), module._streams
    lengths = [draw.randint(1, T) for _ in range(B)]
    lengths[draw.randrange(B)] = T
    layout = draw.pick("dense", "dense", "lengths", "one", "packed", "offsets")
    flags: Any = torch.rand(T, B) < 0.3
    call: dict[str, Any] = {}
    if layout == "packed":
        rows = [torch.randn(n, module.input_size, dtype=dtype) for n in lengths]
        call["input"] = rnn.pack_sequence(rows, enforce_sorted=False)
        flags = rnn.pack_sequence([torch.rand(n) < 0.3 for n in lengths], enforce_sorted=False)
    elif layout == "one":
        call["input"], flags, T = torch.randn(T, module.input_size, dtype=dtype), flags[:, 0], T
    elif layout == "offsets":
        lengths = [draw.randint(0, T) for _ in range(B)]
        call["input"] = torch.randn(sum(lengths), module.input_size, dtype=dtype)
        offsets = [0]
        for n in lengths:
            offsets.append(offsets[-1] + n)
        call["cu_seqlens"] = draw.pick(offsets, torch.tensor(offsets), torch.tensor(offsets, dtype=torch.int32))
        flags = torch.rand(sum(lengths)) < 0.3
    else:
        x = torch.randn(T, B, module.input_size, dtype=dtype)
        call["input"] = relaid(draw, x.transpose(0, 1) if module.batch_first else x)
        flags = flags.T if module.batch_first else flags
        if layout == "lengths":
            lengths = [draw.randint(0, T) for _ in range(B)]
            call["lengths"] = draw.pick(lengths, tuple(lengths), torch.tensor(lengths), torch.tensor(lengths).int())
    rows_of_state = () if layout == "one" else (B,)
    if draw.chance(0.5):
        states = [torch.randn(L, *rows_of_state, width, dtype=dtype) for width in module._widths]
        states = [relaid(draw, s) if draw.chance(0.3) else s for s in states]
        call["hx"] = states[0] if len(states) == 1 else tuple(states)
    if draw.chance(0.3):
        call["resets"] = flags
    if draw.chance(0.3):
        call["return_all"] = True
    if draw.chance(0.3) or module.training:
        call["seed"] = draw.pick(draw.getrandbits(31), torch.tensor(-5), -1, 2**63 - 1)
    return call


@target(3)
def layers(draw: Draw) -> None:
    """Calls of layers, right and wrong, in every mode: against the reference and, where there is one, torch.nn."""
    set_machine(draw)
    module, given = made(draw, LAYERS)
    call = call_of_layer(draw, module)
    what = f"{type(module).__name__}({given}), {sorted(call)}: "
    _try_module(draw, module, call, what)
    _compare_with_torch(draw, module, given, call, what)


def _compare_with_torch(draw: Draw, module: nn.Module, given: dict[str, Any], call: dict[str, Any], what: str) -> None:
    """The same call of torch.nn's module, where it has one that takes the same arguments."""
    twin = DROP_INS.get(type(module))
    if twin and not set(given) & {*OPTIONS, *module.own} and given.get("nonlinearity") != "logistic":
        theirs = twin(**given)
        theirs.load_state_dict(module.state_dict())
        theirs.eval(), module.eval()
        call = {name: call[name] for name in ("input", "hx") if name in call}
        _compare(draw, module, theirs, call, what)


@target(2)
def cells(draw: Draw) -> None:
    """The same of Cells."""
    set_machine(draw)
    module, given = made(draw, CELLS)
    dtype, rows = module.weight_ih.dtype, draw.pick((), (draw.size(4),), (draw.size(4),))
    call: dict[str, Any] = {"input": relaid(draw, torch.randn(*rows, module.input_size, dtype=dtype))}
    if draw.chance(0.6):
        states = [torch.randn(*rows, width, dtype=dtype) for width in module._widths]
        call["hx"] = states[0] if len(states) == 1 else tuple(states)
    if draw.chance(0.3) or module.training:
        call["seed"] = draw.pick(draw.getrandbits(31), torch.tensor(7))
    what = f"{type(module).__name__}({given}), {sorted(call)}: "
    _try_module(draw, module, call, what)
    _compare_with_torch(draw, module, given, call, what)


@target(2)
def machines(draw: Draw) -> None:
    """The same of the Neural Turing Machine."""
    set_machine(draw)
    given = machine_arguments(draw) | {"dtype": draw.pick(torch.float32, torch.float64)}
    module = rk.NTM(**given)
    T, B = draw.randint(1, 5), draw.randint(1, 4)
    x = torch.randn(T, B, module.input_size, dtype=given["dtype"])
    single = draw.chance(0.2)
    call: dict[str, Any] = {"x": x[:, 0] if single else x.transpose(0, 1) if module.batch_first else x}
    if draw.chance(0.4):
        state = module.initial_state(1 if single else B)
        call["state"] = rk.NTMState(tuple(t.detach() for t in state.controller), *(t.detach() for t in state[1:]))
    if draw.chance(0.4) and not single:
        lengths = [draw.randint(0, T) for _ in range(B)]
        call["lengths"] = draw.pick(lengths, torch.tensor(lengths))
    what = f"NTM({given}), {sorted(call)}: "
    _try_module(draw, module, call, what)
    if not module.recompute and draw.chance(0.3):
        examine(module, **call, return_trace=True, what=what, separate=False)


def _try_module(draw: Draw, module: nn.Module, call: dict[str, Any], what: str) -> None:
    """A right call, in some mode, then wrong ones."""
    run: Callable[..., Any] = module
    mode = draw.pick("plain", "gradients", "gradients", "no_grad", "inference", "autocast", "copy", "functional")
    if mode == "gradients":
        run = with_gradients(module, [p for p in module.parameters() if p.requires_grad])
    elif mode == "copy":
        run = copied(module)
    elif mode == "functional":
        weights = {name: p.detach().clone() for name, p in module.named_parameters()}

        def run(**keywords: Any) -> Any:
            return torch.func.functional_call(module, weights, (), keywords)
    elif mode != "plain":
        manager = {"no_grad": torch.no_grad, "inference": torch.inference_mode}.get(mode)
        dtype = draw.pick(torch.bfloat16, torch.float16)

        def run(**keywords: Any) -> Any:
            with manager() if manager else torch.autocast("cpu", dtype):
                return module(**keywords)

    state = torch.get_rng_state()
    results, error = examine(run, **call, what=f"{what}{mode}: ", separate=mode != "gradients")
    if error is not None:
        raise Fault(f"{what}{mode}: refused a right call: {error}") from error
    for k, result in enumerate(tensors_of(results)):
        sequence = k == 0 or k > len(getattr(module, "states", ()))
        transposed = sequence and getattr(module, "batch_first", False)  # as torch.nn.LSTM's is
        if mode in ("plain", "no_grad") and type(result) is Tensor and result._is_view() and not transposed:
            raise Fault(f"{what}result {k} is a view, which `detach_` and other changes in place refuse")
    precise = next(module.parameters()).dtype == torch.float64
    if mode == "gradients" and getattr(module, "eps", None) == 0:
        precise = False  # a padded row has no variance, and 0 / 0 goes through the reference's `where` backward
    if mode in ("plain", "gradients") and precise:
        torch.set_rng_state(state)  # of dropout between layers
        with plain_torch():
            exact = run(**call)
        for k, (ours, theirs) in enumerate(zip(tensors_of(results), tensors_of(exact), strict=True)):
            close(ours.detach(), theirs.detach(), f"{what}{mode}: result {k}")
    for _ in range(3):
        wrong, name = spoil_one(draw, call)
        results, error = examine(run, **wrong, what=f"{what}{mode}: {name}", separate=False)
        if error is None and mode != "gradients":
            if isinstance(wrong.get("resets"), rnn.PackedSequence):
                wrong = wrong | {"resets": wrong["resets"].data}  # in the order of the input, whatever theirs says
            check_devices([list(module.parameters()), wrong], results, f"{what}{name}")


def _compare(draw: Draw, ours: nn.Module, theirs: nn.Module, call: dict[str, Any], what: str) -> None:
    """Both take the same calls and say the same."""
    for wrong in (False, True):
        name = ""
        if wrong:
            call, name = spoil_one(draw, call)
            call = {k: v.value if isinstance(v, Misfit) else v for k, v in call.items()}
            tensors = list(tensors_of(call))
            if any(t.layout != torch.strided or t.is_nested or torch._is_zerotensor(t) for t in tensors):
                return  # torch.nn has ops of its own for some of those, and oneDNN reads the last as if it had memory
        results, error = _outcome(ours, call)
        others, other = _outcome(theirs, call)
        if (error is None) != (other is None):
            lenient = (
                "hx: expected .*, got 3|batch_sizes: expected|expected device cpu|its indices|, the dtype of the input"
            )
            if isinstance(call.get("input"), rnn.PackedSequence):
                lenient += "|hx: expected shape"  # of which it picks rows before it looks at how many there are
            if other is None and re.search(lenient, str(error)):
                continue  # torch.nn takes no notice of a third state, frames left over, or a product with a meta tensor
            raise Fault(f"{what}{name}{error!r} here, {other!r} in torch.nn")
        if error is None and not any(t.is_meta for t in tensors_of([results, others])):
            for k, (a, b) in enumerate(zip(tensors_of(results), tensors_of(others), strict=True)):
                close(a.detach(), b.detach().double(), f"{what}{name}result {k} beside torch.nn's")


def _outcome(function: Callable[..., Any], call: dict[str, Any]) -> tuple[Any, Exception | None]:
    try:
        return function(**call), None
    except Exception as error:
        return None, error


def copied(module: nn.Module) -> nn.Module:
    """The module after one of the ways in which modules travel: all of them must work."""
    state = module.state_dict()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    copy.deepcopy(module).load_state_dict(torch.load(buffer, weights_only=True))
    return pickle.loads(pickle.dumps(copy.deepcopy(module)))


# -- options set later -------------------------------------------------------------------------------------------------


@target()
def attributes(draw: Draw) -> None:
    """An option set later does what it does in the constructor, or is refused."""
    kind = draw.choice([*LAYERS, *CELLS, rk.NTM])
    if kind is rk.NTM:
        module, given, table = rk.NTM(**(given := machine_arguments(draw))), given, MACHINE
    else:
        module, given = made(draw, [kind])
        table = {name: OPTIONS[name] for name in OPTIONS if name in SETTINGS} | {name: OWN[name] for name in kind.own}
        table = {name: values for name, values in table.items() if kind in LAYERS or name not in OF_LAYERS}
        table |= {"batch_first": (False, True), "dropout": (0.0, 0.3)} if kind in LAYERS else {}
        table.pop("forget_bias")  # has done its work when the parameters were made
    name = draw.choice(list(table))
    value = draw.choice(table[name]) if draw.chance(0.6) else anything(draw)
    what = f"{kind.__name__}({given}).{name} = {value!r}: "
    module.eval()
    try:
        setattr(module, name, value)
    except AttributeError as error:  # what Python calls an attribute that cannot be set
        if name not in str(error):
            raise Fault(f"{what}raised AttributeError: {error}") from error
        return
    except Exception as error:
        attempt(_raise, error, what=what)
        return
    try:
        fresh = kind(**given | {name: value}).eval()
    except Exception as error:
        raise Fault(f"{what}accepted, but the constructor says {error!r}") from error
    shapes = [{n: p.shape for n, p in m.state_dict().items()} for m in (module, fresh)]
    if shapes[0] != shapes[1]:
        raise Fault(f"{what}accepted, but it would change the parameters")
    fresh.load_state_dict(module.state_dict())
    x = torch.randn((2, module.input_size) if kind in CELLS else (3, 2, module.input_size))
    x = x.to(next(module.parameters()).dtype).requires_grad_()
    keywords = {} if kind is rk.NTM else {"seed": 3}
    outcomes = []
    for one in (module, fresh):
        results = list(tensors_of(one(x, **keywords)))
        grads = torch.autograd.grad(sum(r.sum() for r in results), [x, *one.parameters()], allow_unused=True)
        outcomes.append([*results, *(g for g in grads if g is not None)])
    for k, (a, b) in enumerate(zip(*outcomes, strict=True)):
        if not same(a, b):
            raise Fault(f"{what}taken without a word, but result {k} is not what a module made so computes")


def _raise(error: Exception) -> None:
    raise error


# -- convert -----------------------------------------------------------------------------------------------------------


@target()
def conversions(draw: Draw) -> None:
    """`convert` of torch.nn's modules, whatever was done to them: what it replaces computes the same."""
    name = draw.pick("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
    given: dict[str, Any] = {"input_size": 3, "hidden_size": 5}
    if not name.endswith("Cell"):
        table = STACK | ({"proj_size": (0, 2)} if name == "LSTM" else {})
        given |= {option: draw.choice(values) for option, values in table.items() if draw.chance(0.3)}
    given |= {"bias": False} if draw.chance(0.2) else {}
    given["dtype"] = draw.pick(None, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.float8_e4m3fn)
    try:
        module = getattr(nn, name)(**given).eval()
    except Exception:  # torch.nn has no such
        return
    _convert(draw, module, f"nn.{name}({given})")


def _convert(draw: Draw, module: nn.Module, what: str) -> None:
    done = draw.pick("", "", "weight_norm", "frozen", "hook", "mixed dtype", "meta", "pruned", "forward")
    weights = [n for n, _ in module.named_parameters()]
    one = draw.choice(weights)
    if done == "weight_norm":
        parametrizations.weight_norm(module, draw.choice([n for n in weights if n.startswith("weight")]))
    elif done == "frozen":
        module.requires_grad_(False)
    elif done == "hook":
        module.register_forward_hook(lambda m, i, o: o)
    elif done == "mixed dtype":
        setattr(module, one, nn.Parameter(getattr(module, one).detach().to(torch.float64)))
    elif done == "meta":
        setattr(module, one, nn.Parameter(getattr(module, one).detach().to("meta")))
    elif done == "pruned" and module.get_parameter(one).dtype in (torch.float32, torch.float64):
        prune.random_unstructured(module, one, 0.5)
    elif done == "forward":
        module.forward = lambda *a, **k: torch.zeros(())
    what = f"{what}, {done}: "
    x = torch.randn((2, 3) if isinstance(module, nn.RNNCellBase) else (4, 2, 3))
    own = next(iter(module.parameters())).dtype
    x = x.to(own)
    expected, theirs = _outcome(lambda: module(x), {})
    model, report = nn.Sequential(module), []
    converted, error = attempt(rk.convert, model, report=report, what=what)
    if error is not None:
        raise Fault(f"{what}convert raised {error!r}") from error
    if len(report) != 1:
        raise Fault(f"{what}{len(report)} reports of one module")
    results, ours = _outcome(lambda: converted[0](x), {})
    if (ours is None) != (theirs is None):
        raise Fault(f"{what}{report[0]}: then {ours!r}, torch.nn {theirs!r}")
    if ours is None and isinstance(converted[0], Base) and own.is_floating_point:
        for k, (a, b) in enumerate(zip(tensors_of(results), tensors_of(expected), strict=True)):
            close(a.detach(), b.detach().double(), f"{what}result {k}")
