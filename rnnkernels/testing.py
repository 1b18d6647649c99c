"""The one error rule, the one table of cases, and the tensors of a case: what tests, benches and `check` share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from .ops import LAYERS
from .reference import layer as plain_layer

__all__ = ["CASES", "LARGE", "OPTIONS", "Case", "Problem", "assert_as_good_as"]


def assert_as_good_as(actual: Tensor, torch_own: Tensor, reference64: Tensor, label: str = "result") -> None:
    """The error rule: max|actual - reference| <= 2 max|torch_own - reference| + 8 eps max|reference|.

    Twice what plain torch errs is what a different order of summation may cost; without the floor a tiny case would
    fail by chance. bfloat16 and float16 are held against plain torch's float32 result rounded once, since torch's own
    error there is large, and float64, which has no finer reference, against its float32 error scaled by the ratio of
    the two eps.

    Args:
        actual: what is judged, any shape and dtype.
        torch_own: the same from plain torch in float32, of the same inputs.
        reference64: the same in float64.
        label: what to call it in the message.

    Raises:
        AssertionError: the rule is broken, shapes differ, or a value is not finite where the reference is.
    """
    assert actual.shape == reference64.shape, f"{label}: shape {tuple(actual.shape)}, not {tuple(reference64.shape)}"
    assert torch_own.shape == reference64.shape, f"{label}: plain torch's shape is {tuple(torch_own.shape)}"
    if actual.numel() == 0:
        return
    eps = torch.finfo(torch.promote_types(actual.dtype, torch.float32)).eps
    own = (torch_own.to(actual.dtype).double() - reference64).abs().max().item()
    if actual.dtype == torch.float64 and torch_own.dtype == torch.float32:
        own *= eps / torch.finfo(torch.float32).eps
    error = (actual.double() - reference64).abs().max().item()
    bound = 2 * own + 8 * eps * reference64.abs().max().item()
    assert error <= bound, f"{label}: off by {error:.2e}, allowed {bound:.2e} (plain torch is off by {own:.2e})"


@dataclass(frozen=True)
class Case:
    """Sizes and options of one layer call: T ticks, B rows, I inputs, H hidden units, P of them fed back (None: H)."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int
    P: int | None = None
    bias: bool = True
    packed: bool = False
    reverse: bool = False

    def __str__(self) -> str:
        words = [f"{axis}{getattr(self, axis)}" for axis in "TBIHP" if getattr(self, axis) is not None]
        words += [word for word in ("packed", "reverse") if getattr(self, word)]
        return "-".join(words if self.bias else [*words, "nobias"])


# Hidden sizes around the lane counts, batches around a panel's rows, inputs that share no factor with either.
CASES = tuple(
    Case(T, B, (1, 5, 16, 33)[(i + B + T) % 4], H)
    for i, (H, B, T) in enumerate(product((1, 7, 8, 9, 15, 16, 17, 33, 257), (0, 1, 3, 8), (1, 2, 63)))
)

# Every option and every pair of them, at sizes that leave remainders everywhere.
OPTIONS = tuple(
    Case(6, 5, 9, 17, P, bias, packed, reverse)
    for P, bias, packed, reverse in product((None, 7), (True, False), (False, True), (False, True))
)

LARGE = (Case(100, 1, 256, 256), Case(100, 8, 128, 128), Case(28, 32, 28, 100), Case(20, 64, 512, 512))


class Problem:
    """The tensors of one case, float64 but of values that `dtype` and float32 hold: all precisions start equal.

    Args:
        cell: a name in `rnnkernels.info()["cells"]`.
        case: sizes and options; P needs a cell that projects.
        dtype: in which the values are exact.
        seed: of the random numbers.

    Attributes:
        tensors: x, w_ih, w_hh, b_ih, b_hh, w_hr, *states of `rnnkernels.functional.layer`; None where absent.
        weights: one tensor for each of out and the final states: their gradients in `outputs_and_gradients`.
        batch_sizes: (T,) where packed, else None.
    """

    def __init__(self, cell: str, case: Case, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            values = torch.empty(shape, dtype=torch.float64).uniform_(-scale, scale, generator=random)
            return values.to(dtype).float().double()

        facts = LAYERS[cell]
        T, B, H, P = case.T, case.B, case.H, case.P or case.H
        rows, scale = facts.gates * H, H**-0.5  # the scale of torch.nn's initialisation
        lengths = [max(1, T - b * T // max(B, 1)) for b in range(B)]
        sizes = [sum(length > t for length in lengths) for t in range(T)]
        frames = (sum(sizes),) if case.packed else (T, B)
        states = [draw(B, H if n else P) for n in range(facts.states)]
        self.cell, self.case = cell, case
        self.batch_sizes = torch.tensor(sizes) if case.packed else None
        self.tensors = [
            draw(*frames, case.I),
            draw(rows, case.I, scale=scale),
            draw(rows, P, scale=scale),
            draw(rows, scale=scale) if case.bias else None,
            draw(rows, scale=scale) if case.bias else None,
            draw(P, H, scale=scale) if case.P else None,
            *states,
        ]
        self.weights = [draw(*frames, P), *(draw(*s.shape) for s in states)]

    def run(self, layer: Callable[..., tuple[Tensor, ...]], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """`(out, *final states)` that `layer` (of `functional` or `reference`) makes of `tensors`."""
        return layer(self.cell, *tensors[:6], tensors[6:], self.batch_sizes, self.case.reverse)

    def outputs_and_gradients(self, layer: Callable[..., tuple[Tensor, ...]], dtype: torch.dtype) -> dict[str, Tensor]:
        """By name: out, the final states, and the gradient of their weighted sum by every tensor."""
        tensors = [None if t is None else t.to(dtype).requires_grad_() for t in self.tensors]
        results = self.run(layer, *tensors)
        leaves = [t for t in tensors if t is not None]
        gradients = torch.autograd.grad(results, leaves, [w.to(dtype) for w in self.weights])
        return dict(zip(self.labels(), (*(r.detach() for r in results), *gradients), strict=True))

    def labels(self) -> list[str]:
        """The names in `outputs_and_gradients`, in order."""
        states = ("h", "c")[: len(self.weights) - 1]
        inputs = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "w_hr", *(f"{s}0" for s in states))
        given = [f"grad_{name}" for name, t in zip(inputs, self.tensors, strict=True) if t is not None]
        return ["out", *(f"{s}_n" for s in states), *given]

    @cached_property
    def plain(self) -> dict[str, Tensor]:
        """`outputs_and_gradients` of plain torch in float32."""
        return self.outputs_and_gradients(plain_layer, torch.float32)

    @cached_property
    def exact(self) -> dict[str, Tensor]:
        """`outputs_and_gradients` of plain torch in float64."""
        return self.outputs_and_gradients(plain_layer, torch.float64)

    def check(self, layer: Callable[..., tuple[Tensor, ...]], dtype: torch.dtype) -> None:
        """Holds outputs and gradients of `layer` in `dtype` against the reference by the error rule."""
        for label, actual in self.outputs_and_gradients(layer, dtype).items():
            assert actual.dtype == dtype, f"{self.cell} {self.case} {label}: {actual.dtype}, not {dtype}"
            assert_as_good_as(actual, self.plain[label], self.exact[label], f"{self.cell} {self.case} {label}")
