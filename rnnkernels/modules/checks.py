"""What layers and cells refuse alike."""

import math
import numbers
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ..functional import autocasts
from ..messages import shown
from .settings import Check


def check(
    x: Tensor,
    weight: Tensor,
    features: int,
    states: Sequence[Tensor],
    shapes: Sequence[tuple[int, ...]],
    wrong_dtype: type[Exception] = RuntimeError,
    wrong_rank: type[Exception] = RuntimeError,
) -> None:
    """Refuses an input of other dtype, device or last dimension than the weights', and states of other shape.

    `wrong_dtype` is raised for the input's dtype and `wrong_rank` for states of neither 1 nor 2 dimensions: torch.nn is
    of two minds about those.
    """
    if x.dtype != weight.dtype and not autocasts(x):
        raise wrong_dtype(f"input: expected {weight.dtype}, the dtype of the weights, got {x.dtype}")
    if x.device != weight.device:
        raise RuntimeError(f"input: expected device {weight.device}, where the weights are, got {x.device}")
    if x.size(-1) != features:
        raise RuntimeError(f"input: expected {features} features in the last dimension, got {x.size(-1)}")
    for n, (state, shape) in enumerate(zip(states, shapes)):
        if state.shape != shape:
            kind = RuntimeError if state.dim() in (1, 2) else wrong_rank
            raise kind(f"hx: expected shape {shape} for state {n}, got {tuple(state.shape)}")
        if state.dtype != x.dtype and not autocasts(x):
            raise RuntimeError(f"hx: expected {x.dtype}, the dtype of the input, for state {n}, got {state.dtype}")
        if state.device != x.device:
            raise RuntimeError(f"hx: expected device {x.device}, where the input is, got {state.device}")


def with_shape(t: Tensor, shape: Sequence[int]) -> Tensor:
    """The same numbers in another shape, of a contiguous tensor that nobody else holds.

    Not a view in autograd's eyes, so that a caller may change or detach it in place.
    """
    return torch.ops.aten._unsafe_view(t, shape)


# -- what constructors are given: a ValueError that names the argument -------------------------------------------------


def is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def probability(name: str, value: Any) -> Any:
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a probability in [0, 1], got {shown(value)}")
    return value


def positive(name: str, value: Any) -> Any:
    """A limit, None where there is none."""
    if value is not None and not (is_number(value) and value > 0):
        raise ValueError(f"{name}: expected a positive number or None, got {shown(value)}")
    return value


def not_negative(name: str, value: Any) -> Any:
    if not is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"{name}: expected a finite number of at least 0, got {shown(value)}")
    return value


def number_or_none(name: str, value: Any) -> Any:
    if value is not None and not (is_number(value) and abs(value) <= sys.float_info.max):
        raise ValueError(f"{name}: expected a finite number or None, got {shown(value)}")
    return float(value) if isinstance(value, int) else value  # torch fills with integers of 64 bits alone


def of_type(kind: type) -> Check:
    """Accepts instances of `kind`; a TypeError otherwise, as torch.nn raises."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError(f"{name}: expected {kind.__name__}, got {type(value).__name__}")
        return value

    return check


def size(name: str, value: Any) -> int:
    """Accepts what torch takes as a size of a tensor: integers that are no bool; a TypeError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected int, got {type(value).__name__}")
    return value


def integer(least: int) -> Check:
    """Accepts integers from `least` on."""

    def check(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}: expected an integer of at least {least}, got {shown(value)}")
        return value

    return check


def choice(*choices: Any) -> Check:
    """Accepts these values."""
    return lambda name, value: one_of(name, value, choices)


def one_of(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """`value`, if it is among `choices`."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        *most, last = map(repr, choices)
        raise ValueError(f"{name}: expected {', '.join(most)} or {last}, got {shown(value)}")
    return value


# -- what forward is given beside input and state ----------------------------------------------------------------------


def row_lengths(name: str, given: Any, size: int | None) -> Tensor:
    """`given` (B,), as the ops want it: int64 on the CPU. `size`: how many are expected, None: at least one."""
    values = given if isinstance(given, Tensor) else torch.tensor(given, device="cpu")
    if values.dtype.is_floating_point or values.dtype.is_complex or values.dtype == torch.bool:
        raise ValueError(f"{name}: expected integers, got {values.dtype}")
    if values.dim() != 1 or (values.size(0) == 0 if size is None else values.size(0) != size):
        expected = "at least one number" if size is None else f"shape ({size},)"
        raise ValueError(f"{name}: expected {expected}, got shape {tuple(values.shape)}")
    return values.to("cpu", torch.int64)


def one_seed(given: Any) -> Tensor:
    """`given` as the ops want it. A number stays on the CPU, where every op may read it without waiting for a GPU."""
    if isinstance(given, Tensor):
        return given
    if not isinstance(given, int) or isinstance(given, bool) or not -(2**63) <= given < 2**63:
        raise ValueError(f"seed: expected an integer of 64 bits or a tensor of one, got {shown(given)}")
    return torch.tensor(given, dtype=torch.int64, device="cpu")


def reset_flags(resets: Any, shape: tuple[int, ...]) -> Tensor:
    """`resets` of `shape`, or of that and one more axis of size 1."""
    if not isinstance(resets, Tensor):
        raise ValueError(f"resets: expected a tensor of shape {shape}, got {type(resets).__name__}")
    if resets.dtype != torch.bool:
        raise ValueError(f"resets: expected torch.bool, got {resets.dtype}")
    if resets.shape == (*shape, 1):
        resets = resets.squeeze(-1)
    if resets.shape != shape:
        raise ValueError(f"resets: expected shape {shape}, got {tuple(resets.shape)}")
    return resets


def packed_resets(resets: Any, packed: PackedSequence) -> Tensor:
    """The flags (N,) of `resets`, a PackedSequence of one flag a frame, packed as `packed` is."""
    if not isinstance(resets, PackedSequence):
        raise ValueError(f"resets: expected a PackedSequence, as the input is, got {type(resets).__name__}")
    flags = reset_flags(resets.data, (packed.data.size(0),))
    for name in ("batch_sizes", "sorted_indices"):
        a, b = getattr(resets, name), getattr(packed, name)
        if a is not b and (a is None or b is None or not torch.equal(a, b)):
            raise ValueError(f"resets: expected the input's {name}, got others: pack both with the same lengths")
    return flags
