"""The one error rule, the one table of cases, and the tensors of a case: what tests, benches and `check` share."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property, partial
from itertools import combinations, product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.utils._python_dispatch import TorchDispatchMode

from . import reference
from .ops import LAYERS
from .options import GRAVES2014, GUARDS, ORDERS, PLAIN, Conventions, Options
from .reference import STATES, random
from .reference import layer as plain_layer

__all__ = [
    "CASES",
    "LARGE",
    "MACHINES",
    "OPTIONS",
    "STEPS",
    "Case",
    "Expected",
    "Judged",
    "MachineCase",
    "MachineProblem",
    "Problem",
    "Rounding",
    "assert_as_good_as",
    "cuda_algo",
    "expected",
    "fitted",
    "on",
    "pairwise",
]


# For tests/soak_error_rule.py: what is added to the seed of every problem, and a file that gets a line for every check.
SHIFT = int(os.environ.get("RNNKERNELS_SHIFT_SEEDS", "0"))
RECORD = os.environ.get("RNNKERNELS_RECORD_CHECKS", "")

EPS = torch.finfo(torch.float32).eps  # of what the spread is computed in
ALLOWED = 8.0  # times the spread: the largest errors of right kernels are 1 to 6 times the spread
FLOOR = 8.0  # eps of the largest value

# Ops that move numbers or choose among them, so that nothing is rounded. (Views are known by their schemas.)
_EXACT = {
    *("abs", "cat", "clamp", "clamp_max", "clamp_min", "clone", "constant_pad_nd", "copy_", "expand_copy", "fill_"),
    *("flip", "gather", "index", "index_put", "index_select", "masked_fill", "masked_fill_", "maximum", "minimum"),
    *("neg", "new_zeros", "relu", "repeat", "roll", "select_backward", "slice_backward", "split_copy", "stack"),
    *("threshold_backward", "where", "zero_", "zeros_like", "_to_copy", "_unsafe_view"),
}
MANY = 16  # terms of a sum: fewer cost one rounding, as a gradient of weights at one tick, which is by far the largest
# Sums of terms, which are rounded at every term.
_SUMS = {"addmm", "baddbmm", "bmm", "cumsum", "dot", "mean", "mm", "mv", "sum"}
# Ops of several steps, each of which is rounded: what cancels between them is lost.
_aten = torch.ops.aten
_STEPS = get_decompositions(
    [
        *(_aten.native_layer_norm, _aten.native_layer_norm_backward, _aten._softmax, _aten._softmax_backward_data),
        _aten.linalg_vector_norm,
    ]
)


@cache
def _rounds(op: Any) -> str:
    """Where an op rounds: "" nowhere, "steps" its steps, "sum" every term, "once" its result, "here" that in place."""
    name, returns = op._schema.name.removeprefix("aten::"), op._schema.returns
    if op in _STEPS:
        return "steps"
    if (
        name in _EXACT
        or "Tensor" not in str(op._schema).split("->")[-1]
        or any(r.alias_info and not r.alias_info.is_write for r in returns)
    ):
        return ""
    return "sum" if name in _SUMS else "here" if any(r.alias_info for r in returns) else "once"


def _terms(args: Any, result: Tensor) -> int:
    """How many terms each number of a sum has, or of a product, whose last two arguments are the factors."""
    factors = [a for a in args if isinstance(a, Tensor)]
    return factors[-2].size(-1) if len(factors) > 1 else factors[0].numel() // max(result.numel(), 1)


class Rounding(TorchDispatchMode):
    """Within it each op on float64 tensors, those of backward too, errs as in float32: what it computes is rounded.

    A sum of K terms errs by as much of the sum of their magnitudes, times (K/16)^(1/4), as the rounding is of the
    result: that is what the order of summation may cost. (Added one after the other, terms of both signs err by no more
    as K grows, terms of one sign by sqrt(K): this is between.) Views and ops that only move numbers stay exact. As in
    any arithmetic the same numbers make the same error: where they come again at every tick, those errors add up.

    Args:
        grid: float32's numbers are multiplied by it: with another, what is rounded falls elsewhere between them.
    """

    def __init__(self, grid: float = 1.0) -> None:
        super().__init__()
        self.grid = grid

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, how = kwargs or {}, _rounds(op)
        if how == "steps":
            with self:
                return _STEPS[op](*args, **kwargs)
        result = op(*args, **kwargs)
        if how == "":
            return result
        terms = _terms(args, result) if how == "sum" and result.dtype == torch.float64 else 0
        if terms >= MANY:
            magnitudes = op(*(a.abs() if isinstance(a, Tensor) else a for a in args), **kwargs)
            relative = self._rounded(result).sub_(result).div_(result.abs()).nan_to_num_(0.0)
            return result.addcmul_(magnitudes, relative, value=(terms / MANY) ** 0.25)
        if how == "here":
            return result.copy_(self._rounded(result))
        return self._rounded(result) if isinstance(result, Tensor) else tuple(map(self._rounded, result))

    def _rounded(self, t: Any) -> Any:
        if not isinstance(t, Tensor) or t.dtype != torch.float64:
            return t
        return t.float().double() if self.grid == 1.0 else (t / self.grid).float().double().mul_(self.grid)


class Expected(NamedTuple):
    """What a result is held against.

    Attributes:
        value: the result of the reference in float64.
        spread: of each number, the root mean square by which it moves where every operation errs as in float32.
    """

    value: Tensor
    spread: Tensor

    @classmethod
    def of(cls, value: Tensor, samples: Tensor) -> "Expected":
        """From the result and (S, *shape) of the same, each sample with errors of its own."""
        value = value.detach()
        return cls(value, (samples.detach() - value).square().mean(0).sqrt())


def expected(run: Callable[[], Sequence[Tensor]], samples: int = 16) -> list[Expected]:
    """What `run`'s results are held against: `run` once, and as often as there are samples within `Rounding`.

    Args:
        run: computes in float64, the gradients among its results as well; not in place on what it is called with again.
        samples: S.
    """
    exact, erring = run(), []
    for sample in range(samples):
        with Rounding(1 + (sample + 0.5) / samples):
            erring.append(run())
    return [Expected.of(value, torch.stack(each)) for value, *each in zip(exact, *erring, strict=True)]


def assert_as_good_as(actual: Tensor, expected: Expected, label: str = "result") -> None:
    """The error rule: max|actual - value| <= 8 max(spread) + 8 eps max|value|.

    The spread is a property of the problem: what errors of half a unit in the last place, at each operation of
    the reference forward and backward, make of it. No other implementation's error is asked, since of one draw that is
    chance. A kernel rounds at other places, in another order; so it errs by about as much, and its largest error is
    some 1 to 6 times the largest spread. The floor is for results the reference makes in one or two operations.

    The spread is float32's. float64 has no finer reference; its spread is that scaled by the ratio of the two eps.
    bfloat16 and float16 are computed in float32 and rounded once: they may be one unit in their own last place of the
    largest value further off.

    Args:
        actual: what is judged, any shape and dtype.
        expected: from `expected`, or of a `Judged`.
        label: what to call it in the message.

    Raises:
        AssertionError: the rule is broken, shapes differ, or a value is not finite where the reference is.
    """
    value = expected.value
    assert actual.shape == value.shape, f"{label}: shape {tuple(actual.shape)}, not {tuple(value.shape)}"
    if actual.numel() == 0:
        return
    eps = torch.finfo(torch.promote_types(actual.dtype, torch.float32)).eps
    error, largest = ((t.abs().max()).item() for t in (actual.double() - value, value))
    spread = expected.spread.max().item() * (eps / EPS)
    bound = ALLOWED * spread + FLOOR * eps * largest
    if actual.dtype.itemsize < 4:
        bound += max(
            torch.finfo(actual.dtype).eps * 2 ** (math.frexp(largest)[1] - 1),
            torch.finfo(actual.dtype).smallest_normal * torch.finfo(actual.dtype).eps,
        )
    if RECORD:
        with open(RECORD, "a") as file:
            print(actual.dtype, actual.numel(), error, bound, spread, eps * largest, label, sep="\t", file=file)
    assert error <= bound < math.inf, f"{label}: off by {error:.2e}, allowed {bound:.2e} (the spread is {spread:.2e})"


@dataclass(frozen=True)
class Case:
    """Sizes and options of one layer call: T ticks, B rows, I inputs, H hidden units, P of them fed back (None: H).

    Attributes:
        bias: whether there are the biases the cell has; "gates": LSTM1997's without those of the cells.
        layout: "dense" (T,B,I); "packed" with batch_sizes; "padded" (T,B,I) or "ragged" (N,I) with lengths, which come
            in no order and down to 0.
        resets: whether there are flags that reset the states, and reset states.
        recurrence: LSTM1997 only: what feeds back, "full" (cells and gates), "cells" or "none".
        masks: "seed" or "given" where the options' probabilities act through masks, "" where they do not.
        options: of the layer, without seed and masks.
    """

    T: int
    B: int
    I: int  # noqa: E741
    H: int
    P: int | None = None
    bias: bool | str = True
    layout: str = "dense"
    reverse: bool = False
    resets: bool = False
    recurrence: str = "full"
    masks: str = ""
    options: Options = PLAIN

    def __str__(self) -> str:
        words = [f"{axis}{getattr(self, axis)}" for axis in "TBIHP" if getattr(self, axis) is not None]
        for field in fields(self)[5:-1]:
            value = getattr(self, field.name)
            if value != field.default:
                words.append(field.name if value is True else f"no{field.name}" if value is False else f"{value}")
        for name, value, default in zip(Options._fields, self.options, PLAIN, strict=True):
            if value != default:
                words.append(name if value is True else f"{name}={value}")
        return "-".join(words)


def pairwise(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Few choices of one value on each axis in which every two values of two axes meet; the first of all first."""
    places = [(a, i) for a, values in enumerate(axes.values()) for i in range(len(values))]
    missing = {pair for pair in combinations(places, 2) if pair[0][0] != pair[1][0]}
    sizes, rows = [len(values) for values in axes.values()], []
    row = [0] * len(sizes)
    while True:
        rows.append({name: values[i] for (name, values), i in zip(axes.items(), row, strict=True)})
        missing -= set(combinations(enumerate(row), 2))
        if not missing:
            return rows
        chosen: dict[int, int] = dict(min(missing))  # one pair for certain, then greedily what meets most
        for a in sorted(set(range(len(sizes))) - set(chosen), key=lambda a: -sizes[a]):
            meets = [sum(tuple(sorted([(a, i), p])) in missing for p in chosen.items()) for i in range(sizes[a])]
            chosen[a] = meets.index(max(meets))
        row = [chosen[a] for a in range(len(sizes))]


def fitted(cell: str, case: Case) -> Case:
    """`case` without what `cell` cannot have."""
    facts, options = LAYERS[cell], case.options
    if not facts.shared:
        case = replace(case, recurrence="full", bias=bool(case.bias))
        options = options._replace(block_size=1)
    if not facts.projection:
        case = replace(case, P=None)
    if case.P:
        options = options._replace(zoneout=0.0)
    if not facts.cell_state:
        options = options._replace(zoneout_cell=0.0, cell_clip=0.0)
    if not facts.fed or case.recurrence == "none":
        options = options._replace(weight_dropout=0.0)
    return replace(case, options=PLAIN if options == PLAIN else options)


# Hidden sizes around the lane counts, batches around a panel's rows, inputs that share no factor with either.
CASES = tuple(
    Case(T, B, (1, 5, 16, 33)[(i + B + T) % 4], H)
    for i, (H, B, T) in enumerate(product((1, 7, 8, 9, 15, 16, 17, 33, 257), (0, 1, 3, 8), (1, 2, 63)))
)

_LAYOUTS = {
    "layout": ("dense", "packed", "padded", "ragged"),
    "P": (None, 7),
    "bias": (True, False, "gates"),
    "reverse": (False, True),
    "resets": (False, True),
    "recurrence": ("full", "cells", "none"),
}
_OPTIONS = {
    "squash": (None, ("relu", "identity"), ("logistic", "h1997"), ("g1997", "tanh")),
    "masks": ("", "seed", "given"),
    "block_size": (1, 2, 3),
    "zoneout": (0.0, 0.25),
    "zoneout_cell": (0.0, 0.5),
    "recurrent_dropout": (0.0, 0.5),
    "input_dropout": (0.0, 0.25),
    "weight_dropout": (0.0, 0.25),
    "step": (False, True),
    "cell_clip": (0.0, 0.5),
    "gradient_clip": (0.0, 0.25),
    "truncated": (False, True),
    "recompute": (0, 4),
    "all_states": (False, True),
    "stream": (0, 3),
    "eps": (1e-5, 1e-2),
}


# Cells without b_ih or b_hh: what they have instead is in `unit`, or their source has but one.
_BIASES = {cell: (True, False) for cell in LAYERS if LAYERS[cell].shared}
_BIASES |= dict.fromkeys(("gru1", "gru2", "gru3", "ind_rnn"), (True, False))
_BIASES |= dict.fromkeys(("layernorm_lstm", "layernorm_lstm_carry", "layernorm_lstm_gate"), (False, False))
_BIASES |= {"layernorm_gru": (False, False), "layernorm_gru_gate": (False, True)}


def _option_cases(cell: str) -> tuple[Case, ...]:
    H, cases = 18 if LAYERS[cell].shared else 17, []  # a multiple of the blocks, or else of nothing
    for row in (*pairwise(_LAYOUTS), *pairwise(_LAYOUTS | _OPTIONS)):
        options = Options(**{k: row.pop(k) for k in list(row) if k in Options._fields and k != "masks"})
        cases.append(fitted(cell, Case(6, 5, 9, H, options=options, **row)))
    return tuple(dict.fromkeys(cases))


# By cell: every option and every pair of them, at sizes that leave remainders everywhere.
OPTIONS = {cell: _option_cases(cell) for cell in LAYERS}

LARGE = (Case(100, 1, 256, 256), Case(100, 8, 128, 128), Case(28, 32, 28, 100), Case(20, 64, 512, 512))


Results = Callable[..., tuple[Tensor, ...]]


@contextmanager
def cuda_algo(name: str) -> Iterator[None]:
    """Within it a card's kernels walk that way: $RNNKERNELS_CUDA_ALGO."""
    before = os.environ.get("RNNKERNELS_CUDA_ALGO")
    os.environ["RNNKERNELS_CUDA_ALGO"] = name
    try:
        yield
    finally:
        del os.environ["RNNKERNELS_CUDA_ALGO"]
        if before is not None:
            os.environ["RNNKERNELS_CUDA_ALGO"] = before


def on(device: torch.device | str, function: Results) -> Results:
    """`function`, run on `device`: what it is given goes there, its results come back, and so do gradients.

    Lengths and batch sizes, which are integers, stay where they are, and so does a seed.
    """

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device) if value.is_floating_point() or value.dtype == torch.bool else value
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return value._replace(**{name: move(v) for name, v in zip(value._fields, value, strict=True)})
        return type(value)(map(move, value)) if isinstance(value, (tuple, list)) else value

    def run(*args: Any, **keywords: Any) -> tuple[Tensor, ...]:
        results = function(*map(move, args), **{name: move(value) for name, value in keywords.items()})
        return tuple(r.cpu() for r in results)

    return run


class Judged:
    """Tensors of one call, float64 but of values that float32 holds, and how its results are held against torch's.

    A subclass has `run(function, *tensors)` and `labels()`.

    Attributes:
        tensors: None where absent.
        weights: one tensor for each result: their gradients in `outputs_and_gradients`.
        theirs: the function in plain torch.
        title: what messages call it.
    """

    tensors: list[Tensor | None]
    weights: list[Tensor]
    theirs: Results
    title: str

    def run(self, function: Results, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def labels(self) -> list[str]:
        raise NotImplementedError

    def outputs_and_gradients(self, function: Results, dtype: torch.dtype) -> dict[str, Tensor]:
        """By name: out, the final states, sequences, and the gradient of their weighted sum by every tensor."""
        tensors = [None if t is None else t.to(dtype).requires_grad_() for t in self.tensors]
        results = self.run(function, *tensors)
        leaves = [t for t in tensors if t is not None]
        weights = [w.to(dtype) for w in self.weights]
        # Some have no part in anything: w_hh truncated, h0 that nothing reads.
        gradients = torch.autograd.grad(results, leaves, weights, allow_unused=True, materialize_grads=True)
        return dict(zip(self.labels(), (*(r.detach() for r in results), *gradients), strict=True))

    @cached_property
    def exact(self) -> dict[str, Tensor]:
        """`outputs_and_gradients` of plain torch in float64."""
        return self.outputs_and_gradients(self.theirs, torch.float64)

    @cached_property
    def expected(self) -> dict[str, Expected]:
        """What `outputs_and_gradients` are held against, by name; all samples are computed at once.

        16 samples where there are few numbers: the spread of a single one is then known to a third. Of many the
        largest is known from fewer.
        """
        samples = min(16, max(2, 2**18 // max(sum(t.numel() for t in self.tensors if t is not None), 1)))
        generator = torch.Generator().manual_seed(0)

        def moved(t: Tensor) -> Tensor:
            by = torch.empty(samples, *t.shape, dtype=t.dtype).uniform_(1 - EPS / 2, 1 + EPS / 2, generator=generator)
            return t.detach() * by

        leaves = [None if t is None else moved(t) for t in self.tensors]
        given = [t.requires_grad_() for t in leaves if t is not None]
        weights = [w.double().expand(samples, *w.shape) for w in self.weights]
        with Rounding():
            run = torch.vmap(partial(self.run, self.theirs), tuple(None if t is None else 0 for t in leaves))
            results = run(*leaves)
            gradients = torch.autograd.grad(results, given, weights, allow_unused=True, materialize_grads=True)
        erring = dict(zip(self.labels(), (*results, *gradients), strict=True))
        return {label: Expected.of(value, erring[label]) for label, value in self.exact.items()}

    def check(self, function: Results, dtype: torch.dtype) -> None:
        """Holds outputs and gradients of `function` in `dtype` against the reference by the error rule."""
        for label, actual in self.outputs_and_gradients(function, dtype).items():
            assert actual.dtype == dtype, f"{self.title} {label}: {actual.dtype}, not {dtype}"
            assert_as_good_as(actual, self.expected[label], f"{self.title} {label}")


class Problem(Judged):
    """The tensors of one case, float64 but of values that `dtype` and float32 hold: all precisions start equal.

    Args:
        cell: a name in `rnnkernels.info()["cells"]`.
        case: sizes and options, that `cell` can have.
        dtype: in which the values are exact.
        seed: of the random numbers, to which $RNNKERNELS_SHIFT_SEEDS is added.

    Attributes:
        tensors: x, w_ih, w_hh, b_ih, b_hh, w_hr, unit, *states of `rnnkernels.functional.layer`, None where absent; and
            then, where the case has resets, *reset states.
        weights: one tensor for each result, that is out, the final states, and with all_states the sequences: their
            gradients in `outputs_and_gradients`.
        batch_sizes, lengths: (T,) where packed, (B,) where padded or ragged, else None.
        resets: flags, or None.
        options: the case's, with seed or masks.
    """

    def __init__(self, cell: str, case: Case, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed + SHIFT)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            values = torch.empty(shape, dtype=torch.float64).uniform_(-scale, scale, generator=generator)
            return values.to(dtype).float().double()

        facts = LAYERS[cell]
        T, B, H, P = case.T, case.B, case.H, case.P or case.H
        blocks = H // case.options.block_size
        # torch.nn's initialisation, or that of 1997, whose g is twice as wide and would be chaotic with more.
        scale = min(H**-0.5, 0.2) if facts.shared else H**-0.5

        def rows(first: int) -> int:
            return sum(blocks if facts.shared >> gate & 1 else H for gate in range(first, facts.gates))

        self.cell, self.case, self.theirs, self.title = cell, case, plain_layer, f"{cell} {case}"
        self.batch_sizes = self.lengths = self.resets = None
        shape: tuple[int, ...] = (T, B)
        if case.layout == "packed":
            lengths = [max(1, T - b * T // max(B, 1)) for b in range(B)]
            self.batch_sizes = torch.tensor([sum(n > t for n in lengths) for t in range(T)])
            shape = (sum(lengths),)
        elif case.layout != "dense":
            lengths = torch.tensor([T - T * b // max(B - 1, 1) for b in range(B)], dtype=torch.int64)
            self.lengths = lengths[torch.randperm(B, generator=generator)]
            shape = (int(lengths.sum()),) if case.layout == "ragged" else (T, B)
        states = [draw(B, P), *(draw(B, blocks if n < facts.fed else H) for n in range(1, facts.states))]

        recurrent = facts.fed > 0 and case.recurrence != "none"
        columns = P + max(facts.fed - 1, 0) * blocks * (case.recurrence == "full")
        with_b_ih, with_b_hh = _BIASES.get(cell, (True, True)) if case.bias else (False, False)
        self.tensors = [
            draw(*shape, case.I),
            draw(rows(facts.first_input), case.I, scale=scale),
            draw(rows(0), columns, scale=scale) if recurrent else None,
            draw(rows(facts.first_bias_ih) - (H if case.bias == "gates" else 0), scale=scale) if with_b_ih else None,
            draw(rows(facts.first_bias_hh), scale=scale) if with_b_hh else None,
            draw(P, H, scale=scale) if case.P else None,
            self._draw_unit(draw, facts.parameters * H, scale) if facts.parameters else None,
            *states,
        ]
        self.weights = [draw(*shape, P), *(draw(*s.shape) for s in states)]
        if case.options.all_states:
            self.weights += [draw(*shape, s.size(1)) for s in states[1:]]
        if case.resets:
            self.tensors += [draw(s.size(1)) for s in states]
            self.resets = torch.rand(shape, generator=generator) < 0.3
        self.options = case.options
        if case.masks:
            number = torch.randint(-(2**63), 2**63 - 1, (), generator=generator)
            self.options = case.options._replace(seed=number)
        if case.masks == "given":
            ticks = T if case.layout != "ragged" else max(self.lengths.tolist(), default=0)
            w_hh = None if not recurrent else (rows(0), columns)
            given = random.masks(self.options, ticks, B, case.I, H, P, w_hh, torch.float64)
            self.options = case.options._replace(masks=given)

    def _draw_unit(self, draw: Callable[..., Tensor], n: int, scale: float) -> Tensor:
        """Weights as all others, or gates, or gains: from 1/2 up those make many ticks chaotic, and errors chance."""
        if self.cell in ("peephole_lstm", "ind_rnn"):
            return draw(n, scale=scale)
        return draw(n, scale=0.25 if self.cell.startswith("layernorm") else 1.0).abs()

    def run(self, layer: Results, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """`(out, *final states, *sequences)` that `layer` (of `functional` or `reference`) makes of `tensors`."""
        end = 7 + LAYERS[self.cell].states
        return layer(
            self.cell, *tensors[:6], tensors[7:end], self.batch_sizes, self.case.reverse, unit=tensors[6],
            lengths=self.lengths, resets=self.resets, reset_states=tensors[end:], options=self.options,
        )  # fmt: skip

    def labels(self) -> list[str]:
        """The names in `outputs_and_gradients`, in order."""
        states = STATES[self.cell]
        inputs = ["x", "w_ih", "w_hh", "b_ih", "b_hh", "w_hr", "unit", *(f"{s}0" for s in states)]
        inputs += [f"reset_{s}" for s in states] if self.case.resets else []
        results = ["out", *(f"{s}_n" for s in states)]
        results += [f"{s}_all" for s in states[1:]] if self.case.options.all_states else []
        return [*results, *(f"grad_{name}" for name, t in zip(inputs, self.tensors, strict=True) if t is not None)]


@dataclass(frozen=True)
class MachineCase:
    """Sizes and conventions of one call of a Neural Turing Machine, or, where T is 0, of one tick of its heads.

    Axes: T ticks, B rows, I inputs, O outputs, H hidden units, N memory rows, M numbers of a row.

    Attributes:
        ragged: whether rows have lengths, in no order and down to 0.
        conventions: heads, controller, and all that the paper leaves open.
    """

    T: int = 5
    B: int = 3
    I: int = 4  # noqa: E741
    O: int = 5  # noqa: E741
    H: int = 17
    N: int = 19
    M: int = 6
    ragged: bool = False
    conventions: Conventions = GRAVES2014

    def __str__(self) -> str:
        words = [f"{axis}{getattr(self, axis)}" for axis in "TBIOHNM"] + ["ragged"] * self.ragged
        words += [f"{n}={v}" for n, v, d in zip(Conventions._fields, self.conventions, GRAVES2014) if v != d]
        return "-".join(words)


class MachineProblem(Judged):
    """The tensors of one call of `rnnkernels.functional.ntm`, or of `ntm_step` where the case has no tick.

    Args:
        case: sizes and conventions.
        seed: of the random numbers.
    """

    def __init__(self, case: MachineCase, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed + SHIFT)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            values = torch.empty(shape, dtype=torch.float64).uniform_(-scale, scale, generator=generator)
            return values.float().double()

        c, (T, B, I, O, H, N, M) = case.conventions, (getattr(case, axis) for axis in "TBIOHNM")
        self.case, self.step, self.title = case, T == 0, str(case)
        self.theirs = reference.ntm.step if self.step else reference.ntm.ntm
        P, R, K = c.parameters(M), c.read_heads, c.heads
        weightings = draw(B, K, N).softmax(-1).float().double()
        memory = draw(B, N, M)  # a row of next to no length has next to no direction: errors would be chance
        memory = (memory.sign() * (0.25 + 0.75 * memory.abs())).float().double()
        self.lengths = None
        if self.step:
            self.tensors = [draw(B, P, scale=2.0), memory, weightings]
            if c.activated:
                raw = reference.ntm.split_heads(self.tensors[0], M, c)
                fields = reference.ntm.activate(raw, c._replace(activated=False))
                reads, writes = ([f[:, part] for f in fields[:5]] for part in (slice(0, R), slice(R, K)))
                flat = [torch.cat(reads, -1).flatten(1), torch.cat([*writes, *fields[5:]], -1).flatten(1)]
                self.tensors[0] = torch.cat(flat, 1).float().double()
            self.weights = [draw(B, R, M), draw(B, N, M), draw(B, K, N)]
            return
        layers = c.layers if c.recurrent else 0
        count = sum(
            (4 if c.recurrent else 1) * H * ((H if k else I + R * M) + H * c.recurrent + 1) for k in range(c.layers)
        )
        scale = H**-0.5
        self.tensors = [
            draw(T, B, I), draw(count, scale=scale), draw(P, H, scale=scale), draw(P),
            draw(O, H + R * M, scale=scale), draw(O), draw(layers, B, H), draw(layers, B, H), memory,
            draw(B, R, M), weightings,
        ]  # fmt: skip
        self.weights = [draw(T, B, O), *(draw(*t.shape) for t in self.tensors[6:])]
        if case.ragged:
            lengths = torch.tensor([T - T * b // max(B - 1, 1) for b in range(B)], dtype=torch.int64)
            self.lengths = lengths[torch.randperm(B, generator=generator)]

    def run(self, function: Results, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        c = self.case.conventions
        return function(*tensors, c._replace(layers=0)) if self.step else function(*tensors, self.lengths, c)

    def labels(self) -> list[str]:
        if self.step:
            results, inputs = ["reads", "memory_n", "weightings_n"], ["parameters", "memory", "weightings"]
        else:
            results = ["y", "h_n", "c_n", "memory_n", "reads_n", "weightings_n"]
            inputs = ["x", "controller", "w_heads", "b_heads", "w_out", "b_out", "h0", "c0", "memory0", "reads0"]
            inputs += ["weightings0"]
        return [*results, *(f"grad_{name}" for name, t in zip(inputs, self.tensors, strict=True) if t is not None)]


def _machine_cases() -> tuple[MachineCase, ...]:
    """Every convention and every pair of them, at sizes that leave remainders everywhere; then sizes."""
    axes = {
        "controller": ("lstm", "feedforward"), "layers": (1, 2), "read_heads": (1, 2, 5), "write_heads": (1, 3, 0),
        "shift_range": (1, 0, 2), "order": ORDERS, "key_activation": ("tanh", "linear"),
        "add_activation": ("linear", "tanh"), "similarity_guard": GUARDS, "similarity_eps": (1e-8, 0.0, 1e-2),
        "sharpen_eps": (0.0, 1e-16, 1e-2), "reversed_shift": (False, True), "head_clip": (0.0, 1.0),
        "output_clip": (0.0, 0.7), "recompute": (0, 2, 1), "ragged": (False, True), "N": (19, 7, 33), "M": (6, 3, 17),
    }  # fmt: skip
    cases = []
    for row in pairwise(axes):
        sizes = {name: row.pop(name) for name in ("ragged", "N", "M")}
        cases.append(MachineCase(**sizes, conventions=Conventions(**row)))
    sizes = [(T, B, H, N, M) for T, B in ((1, 1), (2, 8), (9, 0), (3, 33)) for H, N, M in ((1, 1, 1), (100, 128, 20))]
    sizes += [(4, 2, 16, 2, 3), (4, 2, 257, 17, 5)]
    wide = Conventions(shift_range=3)
    cases += [MachineCase(T, B, 3, 2, H, N, M, conventions=wide if N < 4 else GRAVES2014) for T, B, H, N, M in sizes]
    return tuple(cases)


MACHINES = _machine_cases()
_OF_HEADS = Conventions._fields[2:-3]  # not controller, layers, and what comes after head_clip
# One tick of the heads of each, before its activations and past them.
STEPS = tuple(
    dict.fromkeys(
        replace(m, T=0, I=0, O=0, H=0, ragged=False, conventions=c)
        for i, m in enumerate(MACHINES)
        for c in [
            m.conventions._replace(controller="lstm", layers=1, output_clip=0.0, recompute=0, activated=i % 3 == 2)
        ]
    )
)
