"""What layers and cells refuse alike."""

from collections.abc import Sequence

from torch import Tensor

from ..functional import autocasts


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
