"""Random right arguments, and what can be wrong with one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rnnkernels.ops import LAYERS
from rnnkernels.options import GUARDS, ORDERS, SQUASHES, Conventions, Options
from rnnkernels.testing import Case, MachineCase, MachineProblem, Problem, fitted

from .harness import Draw, Fault, tensors_of

HUGE = (2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1)
INTEGERS = (0, 1, -1, 2, 3, 7, -7, 2**16, *HUGE, *(-n for n in HUGE), -(2**63))
NUMBERS = (0.0, -0.0, 1.0, 0.5, -0.5, 1.5, -1.0, 1e-300, 1e300, -1e300, math.inf, -math.inf, math.nan, 5e-324)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OTHER_DTYPES = (*DTYPES, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn)
# Values of every kind, for arguments that Python code looks at.
ANYTHING: tuple[Callable[[], Any], ...] = (
    *(lambda n=n: n for n in (*INTEGERS, 2**64, 10**30, *NUMBERS)),
    *(lambda v=v: v for v in (None, True, False, "", "tanh", "full", "3", b"x", 1 + 2j, ..., object, int)),
    *(list, tuple, dict, set, object),
    *(lambda v=v: v for v in ([1], (1, 2), [None], ["a"], {"a": 1}, [[1, 2], [3]], range(3), [2**70], [1.5])),
    lambda: torch.tensor(1),
    lambda: torch.tensor(2.5),
    lambda: torch.tensor([3, 2]),
    lambda: torch.zeros(2, 3),
    lambda: torch.zeros(0),
    lambda: torch.ones(2, dtype=torch.bool),
    lambda: torch.zeros(2, 3, 4, device="meta"),
    lambda: torch.nn.Parameter(torch.zeros(3)),
    lambda: torch.nn.utils.rnn.pack_sequence([torch.zeros(2, 3), torch.zeros(1, 3)]),
)


def anything(draw: Draw) -> Any:
    return draw.choice(ANYTHING)()


# -- right arguments ---------------------------------------------------------------------------------------------------


def layer_problem(draw: Draw, cell: str | None = None) -> Problem:
    """Tensors and options of a layer: any cell, sizes, layout and options that it can have."""
    cell = cell or draw.choice(list(LAYERS))
    rate = lambda: draw.pick(0.0, 0.0, 0.3, 1.0)  # noqa: E731
    options = Options(
        zoneout=rate(), zoneout_cell=rate(), recurrent_dropout=rate(), input_dropout=rate(), weight_dropout=rate(),
        step=draw.chance(0.5), cell_clip=draw.pick(0.0, 0.0, 0.5), gradient_clip=draw.pick(0.0, 0.0, 0.25),
        truncated=draw.chance(0.2), eps=draw.pick(1e-5, 1e-2),
        squash=draw.pick(None, (draw.choice(SQUASHES), draw.choice(SQUASHES))), block_size=draw.randint(1, 3),
        recompute=draw.pick(0, 0, 1, 2, 5, 100), all_states=draw.chance(0.3), stream=draw.pick(0, 3, 2**24 - 1),
    )  # fmt: skip
    T, B = max(1, draw.size(8)), draw.size(9)
    layout = draw.pick("dense", "dense", "packed", "padded", "ragged") if B else draw.pick("dense", "padded")
    H = max(1, draw.size(20))
    case = Case(
        T, B, draw.size(10), H * options.block_size if LAYERS[cell].shared else H,
        draw.pick(None, None, draw.randint(1, 24)), draw.pick(True, True, False, "gates"), layout, draw.chance(0.4),
        draw.chance(0.3), draw.pick("full", "cells", "none"), draw.pick("", "seed", "given"), options,
    )  # fmt: skip
    return Problem(cell, fitted(cell, case), seed=draw.getrandbits(32))


def machine_problem(draw: Draw, step: bool = False) -> MachineProblem:
    """Tensors and conventions of a Neural Turing Machine, or of one tick of its heads."""
    reads = draw.pick(1, 1, 2, 3, 0)
    c = Conventions(
        controller=draw.pick("lstm", "feedforward"), layers=draw.pick(1, 1, 2, 3), read_heads=reads,
        write_heads=draw.pick(1, 1, 2, 3, *([0] if reads else [])), shift_range=draw.pick(1, 1, 0, 2, 5),
        order=draw.choice(ORDERS), key_activation=draw.pick("tanh", "linear"),
        add_activation=draw.pick("tanh", "linear"), similarity_guard=draw.choice(GUARDS),
        similarity_eps=draw.pick(1e-8, 1e-2), sharpen_eps=draw.pick(0.0, 1e-16, 1e-2),
        reversed_shift=draw.chance(0.5), head_clip=draw.pick(0.0, 0.0, 1.0), output_clip=draw.pick(0.0, 0.0, 0.7),
        recompute=0 if step else draw.pick(0, 0, 1, 2, 100), activated=step and draw.chance(0.3),
    )  # fmt: skip
    T, N = max(1, draw.size(7)), draw.pick(1, 2, draw.randint(1, 20))
    c = c._replace(layers=1) if step else c
    sizes = {"T": 0 if step else T, "B": draw.size(6), "N": N, "M": draw.pick(1, draw.randint(1, 10))}
    if not step:
        sizes |= {"I": draw.size(6), "O": draw.size(5), "H": max(1, draw.size(12)), "ragged": draw.chance(0.4)}
    return MachineProblem(MachineCase(**sizes, conventions=c), seed=draw.getrandbits(32))


def stretched(problem: Problem, factor: float) -> None:
    """Makes all data of the problem larger: gates that saturate, values that overflow halves."""
    problem.tensors = [None if t is None else t * factor for t in problem.tensors]


# -- the same values, anyhow in memory ---------------------------------------------------------------------------------


def relaid(draw: Draw, t: Tensor) -> Tensor:
    """Equal to `t`, but not contiguous, or among NaN, or with a negative bit, or a subclass of Tensor."""
    how = draw.pick("strided", "transposed", "among", "negative", "parameter", "subclass", "zero stride")
    t = t.detach()
    if how == "strided" or how == "transposed":
        steps = [draw.randint(1, 3) for _ in t.shape]
        order = list(range(t.dim()))
        draw.shuffle(order)
        wide = _filled([n * s for n, s in zip(t.shape, steps)], t)
        wide = wide.permute(order).contiguous().permute([order.index(k) for k in range(t.dim())])
        return wide[tuple(slice(None, None, s) for s in steps)].copy_(t) if t.dim() else t.clone()
    if how == "among":  # in the middle of a larger memory: what reads beyond meets NaN
        flat = _filled([t.numel() + 2 * draw.randint(1, 17)], t)
        begin = draw.randint(1, flat.numel() - t.numel() - 1)
        return flat[begin : begin + t.numel()].copy_(t.flatten()).view(t.shape)
    if how == "negative" and t.is_floating_point():
        return torch._neg_view(-t)
    if how == "parameter" and t.is_floating_point():
        return torch.nn.Parameter(t.clone(), requires_grad=False)
    if how == "zero stride" and t.dim() and t.size(0) == 1:
        return t[0].clone().expand(1, *t.shape[1:])
    return t.as_subclass(_Subclass) if how == "subclass" else t.clone()


class _Subclass(Tensor):
    pass


def _filled(shape: list[int], like: Tensor) -> Tensor:
    return torch.full(shape, math.nan if like.is_floating_point() else 1, dtype=like.dtype)


# -- one thing that is wrong -------------------------------------------------------------------------------------------


def spoil_tensor(draw: Draw, t: Tensor) -> Any:
    """`t` of another dtype, device, rank, size or layout, or with other values."""
    t = t.detach().as_subclass(Tensor)
    floating, n = t.is_floating_point(), t.dim()
    kinds = ["dtype", "meta", "rank", "sizes", "sparse", "none", "zero", "nested", "huge"]
    kind = draw.choice(kinds + (["values"] * 3 if floating else ["values"] * 8))
    if kind == "dtype":
        return t.to(draw.choice([d for d in OTHER_DTYPES if d != t.dtype]))
    if kind == "meta":
        return t.to("meta")
    if kind == "rank" or (kind in ("sizes", "huge") and not n):
        return draw.pick(t.unsqueeze(draw.randint(0, n)), t.flatten() if n != 1 else t.view(-1, 1), t.sum().reshape(()))
    if kind == "sizes":
        shape = list(t.shape)
        shape[draw.randrange(n)] = draw.pick(0, 1, draw.randint(0, 40), max(shape), shape[0] + 1, max(shape[0] - 1, 0))
        return torch.zeros(shape, dtype=t.dtype)
    if kind == "huge":  # of no memory: one element, seen often
        shape = list(t.shape)
        shape[draw.randrange(n)] = draw.pick(2**33, 2**40, 2**61)
        if math.prod(max(size, 1) for size in shape) >= 2**60:
            return None
        return torch.zeros([1] * n, dtype=t.dtype).expand(shape)
    if kind == "sparse":
        return t.to_sparse() if n else t.clone()
    if kind == "zero":
        return torch._efficientzerotensor(t.shape, dtype=t.dtype)
    if kind == "nested":
        return torch.nested.nested_tensor([t.clone(), t.clone()])
    if kind == "none":
        return None
    t = t.clone(memory_format=torch.contiguous_format)
    if t.numel():
        at = draw.randrange(t.numel())
        value = draw.choice(NUMBERS) if floating else draw.choice(INTEGERS) if t.dtype == torch.int64 else 1
        value = torch.tensor(value, dtype=torch.float64 if floating else torch.int64).to(t.dtype)
        t.view(-1)[at] = value
        if draw.chance(0.2):
            t.fill_(value)
    return t


def spoil_numbers(draw: Draw, values: list, choices: tuple) -> list:
    """A list of numbers with one that is another, or of another length."""
    values = list(values)
    kind = draw.pick("value", "value", "value", "longer", "shorter", "empty")
    if kind == "value" and values:
        values[draw.randrange(len(values))] = draw.choice(choices)
    elif kind == "longer":
        values += [draw.choice(choices)] * draw.randint(1, 3)
    elif kind == "shorter":
        values = values[:-1]
    else:
        values = []
    return values


def spoil(draw: Draw, value: Any, kind: str) -> Any:
    """Another value for an argument of an op, that the schema calls `kind`."""
    if draw.chance(0.03):
        return anything(draw)
    if isinstance(value, Tensor):
        return spoil_tensor(draw, value)
    if kind == "Optional[Tensor]" or kind == "Tensor":
        return draw.pick(torch.zeros(draw.size(), draw.size()), torch.zeros(draw.size()), torch.tensor(3),
                         torch.zeros(draw.size(), dtype=torch.int64), torch.zeros(2, 3, 4))  # fmt: skip
    if kind == "bool":
        return not value
    if kind == "List[float]":
        return spoil_numbers(draw, value, NUMBERS)
    if kind == "List[int]":
        return spoil_numbers(draw, value, INTEGERS)
    return anything(draw)


def check_devices(args: Any, result: Any, what: str = "") -> None:
    """Raises `Fault` where tensors of several devices were taken together."""
    devices = {t.device.type for t in tensors_of(args)}
    if len(devices) > 1:
        raise Fault(f"{what}took tensors of {' and '.join(sorted(devices))} together")
