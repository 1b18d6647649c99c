"""`RNNCell`, `LSTMCell`, `GRUCell` and `MinimalGRUCell`: one tick at a time."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..functional import layer
from ..ops import LAYERS
from .checks import check

__all__ = ["RNNCell", "LSTMCell", "GRUCell", "MinimalGRUCell"]


class RecurrentCell(nn.Module):
    """What the cells share; each names its `cell`, as in `rnnkernels.functional.layer`."""

    cell: str
    input_size: int
    hidden_size: int
    bias: bool

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = LAYERS[self.cell].gates * hidden_size
        shapes = {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, hidden_size),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
        }
        for name, shape in shapes.items():
            absent = name.startswith("bias") and not bias
            parameter = None if absent else nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, parameter)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws every parameter from U(-k, k), k = 1 / sqrt(hidden_size), in torch.nn's order."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for weight in self.parameters():
            nn.init.uniform_(weight, -bound, bound)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias is True else f", bias={self.bias}")

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One tick. Axes: B rows, I inputs, H hidden units.

        Args:
            input: (B,I), or one row (I).
            hx: state (B,H), or (H); zero by default.

        Returns:
            The next state, shaped as `hx`.

        Raises:
            ValueError: wrong rank of `input` or `hx`.
            RuntimeError: wrong size, dtype or device of `input` or `hx`.
        """
        return self._tick(input, () if hx is None else (hx,))[0]

    def _tick(self, x: Tensor, states: Sequence[Tensor]) -> Sequence[Tensor]:
        batched = x.dim() == 2
        if not batched and x.dim() != 1:
            raise ValueError(f"input: expected 1 or 2 dimensions, got {x.dim()}")
        weights = self._weights()
        shapes = [(*x.shape[:-1], self.hidden_size)] * len(states)
        check(x, weights[0], self.input_size, states, shapes, wrong_rank=ValueError)
        if not batched:
            x, states = x.unsqueeze(0), [s.unsqueeze(0) for s in states]
        if x.is_cpu or x.is_meta or not hasattr(torch, f"{self.cell}_cell"):
            _, *finals = layer(self.cell, x.unsqueeze(0), *weights, None, states)
        else:
            finals = self._tick_torch(x, states, weights)
        return finals if batched else [s.squeeze(0) for s in finals]

    def _tick_torch(self, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor | None]) -> Sequence[Tensor]:
        """The same by torch's own op, on devices that have no kernel here."""
        states = states or [x.new_zeros(x.size(0), self.hidden_size)] * LAYERS[self.cell].states
        result = getattr(torch, f"{self.cell}_cell")(x, states if len(states) > 1 else states[0], *weights)
        return (result,) if isinstance(result, Tensor) else result

    def _weights(self) -> Sequence[Tensor | None]:
        """w_ih, w_hh, b_ih, b_hh."""
        own = self._parameters
        try:
            return own["weight_ih"], own["weight_hh"], own["bias_ih"], own["bias_hh"]
        except KeyError:  # parametrized, or taken over by a hook
            return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh


class RNNCell(RecurrentCell):
    """One tick of `RNN`, a drop-in for `torch.nn.RNNCell`.

    Args:
        input_size: features of the input (I).
        hidden_size: hidden units (H).
        bias: whether the cell has biases.
        nonlinearity: "tanh" or "relu"; RuntimeError at the first tick otherwise, as in torch.nn.
        device, dtype: of the parameters.

    Parameters: `weight_ih` (H,I), `weight_hh` (H,H), `bias_ih` (H), `bias_hh` (H).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, bias, device, dtype)

    @property
    def cell(self) -> str:
        return "rnn_relu" if self.nonlinearity == "relu" else "rnn_tanh"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"nonlinearity: expected 'tanh' or 'relu', got {self.nonlinearity!r}")
        return super().forward(input, hx)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}")


class LSTMCell(RecurrentCell):
    """One tick of `LSTM`, a drop-in for `torch.nn.LSTMCell`.

    Args: those of `RNNCell` without `nonlinearity`.

    Parameters: `weight_ih` (4H,I), `weight_hh` (4H,H), `bias_ih` (4H), `bias_hh` (4H); gates in the order i, f, g, o.
    """

    cell = "lstm"

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """One tick, as `RNNCell`'s; `hx` and the result are pairs (h, c), each (B,H) or (H)."""
        if isinstance(hx, Tensor):
            raise TypeError("hx: expected a pair of tensors (h, c), got one tensor")
        if hx is not None and len(hx) != 2:
            raise RuntimeError(f"hx: expected a pair of tensors (h, c), got {len(hx)}")
        return tuple(self._tick(input, hx or ()))


class GRUCell(RecurrentCell):
    """One tick of `GRU`, a drop-in for `torch.nn.GRUCell`.

    Args: those of `RNNCell` without `nonlinearity`.

    Parameters: `weight_ih` (3H,I), `weight_hh` (3H,H), `bias_ih` (3H), `bias_hh` (3H); gates in the order r, z, n.
    """

    cell = "gru"


class MinimalGRUCell(RecurrentCell):
    """One tick of `MinimalGRU`; constructor and use are those of `GRUCell`.

    Parameters: `weight_ih` (2H,I), `weight_hh` (2H,H), `bias_ih` (2H), `bias_hh` (2H); gates in the order f, n.
    """

    cell = "minimal_gru"
