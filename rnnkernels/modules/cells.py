"""`RNNCell`, `LSTMCell`, `GRUCell` and all other Cells: one tick at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import functional
from ..messages import shown
from ..options import Masks
from . import families
from .base import OPS, Arguments, Base, States
from .checks import check, with_shape
from .fx import Proxy, as_leaf

__all__ = [
    *("RNNCell", "LSTMCell", "GRUCell", "MinimalGRUCell", "PeepholeLSTMCell", "CoupledLSTMCell", "LayerNormLSTMCell"),
    *("LayerNormGRUCell", "GRU1Cell", "GRU2Cell", "GRU3Cell", "IndRNNCell", "LSTM1997Cell"),
]


class RecurrentCell(Base):
    """What the cells share: torch.nn's parameter names and initialisation, the checks, the tick.

    Every cell takes these options of `Recurrent`, by keyword, beside what its own class says: zoneout, zoneout_cell,
    recurrent_dropout, input_dropout, weight_dropout, cell_clip, gradient_clip, forget_bias. A cell knows nothing of the
    sequence its ticks belong to, so that in training every tick draws other masks; pass `masks` to keep them.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        zoneout: float = 0.0,
        zoneout_cell: float = 0.0,
        recurrent_dropout: float = 0.0,
        input_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        cell_clip: float | None = None,
        gradient_clip: float | None = None,
        forget_bias: float | None = None,
    ) -> None:
        settings = locals()
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        for name in ("input_size", "hidden_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {getattr(self, name)}")
        self._set(settings)
        self._name_weights()
        for name in self._weight_names[0]:
            shape = None if name is None else self._shape(name, input_size)
            if shape is not None:
                self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
            elif name is not None:  # as in torch.nn, an absent bias is there and None
                self.register_parameter(name, None)
        self.reset_parameters()

    def extra_repr(self) -> str:
        changed = "".join(f", {name}={value}" for name, value in self._changed())
        bias = "" if self.bias == self.default_bias else f", bias={self.bias}"
        return f"{self.input_size}, {self.hidden_size}{bias}{changed}"

    def forward(
        self,
        input: Tensor,
        hx: States | None = None,
        *,
        seed: Tensor | int | None = None,
        masks: Masks | None = None,
    ) -> States:
        """One tick. Axes: B rows, I inputs, H hidden units.

        Args:
            input: (B,I), or one row (I).
            hx: state (B,H), or (H); for cells with more states the tuple of them, (h, c) of an LSTM. Zero by default.
            seed: int64 of one number, from which the masks of this tick follow. By default one is drawn in training
                where an option asks for it. Given one, masks are drawn in evaluation too.
            masks: explicit masks instead of drawn ones: zoneout, zoneout_cell and recurrent shaped as `hx`, input as
                `input`, weight as `weight_hh`.

        Returns:
            The next state, shaped as `hx`.

        Raises:
            ValueError: wrong rank of `input` or `hx`, `seed` beside `masks`.
            RuntimeError: wrong size, dtype or device of `input` or `hx`.
        """
        if isinstance(input, Proxy):
            return as_leaf(self, locals())
        x, states = input, () if hx is None else self._open(hx)
        batched = x.dim() == 2
        if not batched and x.dim() != 1:
            raise ValueError(f"input: expected 1 or 2 dimensions, got {x.dim()}")
        weights, units = self._weights()
        rows = x.shape[:-1]
        shapes = [(*rows, width) for width in self._widths] if states else ()
        check(x, weights[0][0], self.input_size, states, shapes, wrong_rank=ValueError)
        if not batched:
            x, states = x.unsqueeze(0), [s.unsqueeze(0) for s in states]
        if self._plain and seed is None and masks is None:
            finals = self._tick(x, states, weights[0])
        else:
            extra = {} if units is None else {"unit": units[0]}
            options = self._choose(x, seed, None if masks is None else [_of_one_tick(masks)])
            if options is not None:
                extra["options"] = options[0]
            result = self._layer(x.unsqueeze(0), *weights[0], self._split(states), **extra)
            finals = self._join(result[1:])
        if not batched:
            finals = [with_shape(s, s.shape[1:]) for s in finals]
        return finals[0] if len(finals) == 1 else tuple(finals)

    def _tick(self, x: Tensor, states: Sequence[Tensor], weights: Arguments) -> Sequence[Tensor]:
        """The tick of a cell without options. x (B,I), states (B,·) or none: the next states."""
        if not functional.has_kernel(x) and hasattr(torch, f"{self.cell}_cell"):
            return self._tick_torch(x, states, weights)
        return self._layer(x.unsqueeze(0), *weights, states)[1:]

    def _tick_torch(self, x: Tensor, states: Sequence[Tensor], weights: Arguments) -> Sequence[Tensor]:
        """The same by torch's own op, on devices that have no kernel here."""
        states = states or [x.new_zeros(x.size(0), self.hidden_size)] * len(self.states)
        run = getattr(torch, f"{self.cell}_cell")
        result = run(x, states if len(states) > 1 else states[0], *weights[:4])
        return (result,) if isinstance(result, Tensor) else result

    def _open(self, hx: States) -> Sequence[Tensor]:
        """The states in the caller's `hx`."""
        count = len(self.states)
        if count == 1:
            return (hx,)
        if isinstance(hx, Tensor):
            raise TypeError(f"hx: expected {self._said()}, got one tensor")
        if len(hx) != count:
            raise RuntimeError(f"hx: expected {self._said()}, got {len(hx)}")
        return hx

    def _name_weights(self) -> None:
        """Prepares what calls need of the arguments."""
        there = {*self.table, *(name for name in OPS if self._shape(name, self.input_size) is not None)}
        names = self._parameter_names()[: -len(self.states)]  # no resets: a tick knows no sequence
        self._weight_names = [[name if name in there else None for name in names]]
        self._settle()


def _of_one_tick(masks: Masks) -> Masks:
    """Masks of one row or of a batch at one tick, as the layer wants them: zoneout (1,B,H), the others (B,·)."""
    zoneout, zoneout_cell, recurrent, inputs, weight = masks
    by_tick = [None if m is None else m.reshape(1, -1, m.size(-1)) for m in (zoneout, zoneout_cell)]
    by_row = [None if m is None else m.reshape(-1, m.size(-1)) for m in (recurrent, inputs)]
    return Masks(*by_tick, *by_row, weight)


class RNNCell(families.RNN, RecurrentCell):
    """One tick of `RNN`, a drop-in for `torch.nn.RNNCell`.

    Args:
        input_size: features of the input (I).
        hidden_size: hidden units (H).
        bias: whether the cell has biases.
        nonlinearity: "tanh", "relu" or "logistic"; RuntimeError at the first tick otherwise, as in torch.nn.
        device, dtype: of the parameters.
        mask: which recurrent weights there are (H,H), see `RNN`; held as buffer `mask`.
        Others, by keyword: those of `RecurrentCell`.

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
        *,
        mask: Tensor | None = None,
        **options: Any,
    ) -> None:
        vars(self)["nonlinearity"] = nonlinearity  # whatever it is: nn.Module takes no Parameter at this point
        super().__init__(input_size, hidden_size, bias, device, dtype, **options)
        if mask is not None:
            self._set_masks([mask])

    def forward(self, input: Tensor, hx: Tensor | None = None, **keywords: Any) -> Tensor:
        """One tick, as `RecurrentCell`'s."""
        if self.nonlinearity not in ("tanh", "relu", "logistic"):
            expected = "expected 'tanh', 'relu' or 'logistic'"
            raise RuntimeError(f"nonlinearity: {expected}, got {shown(self.nonlinearity)}")
        return super().forward(input, hx, **keywords)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity != "relu" else f", nonlinearity={self.nonlinearity}")


class LSTMCell(families.LSTM, RecurrentCell):
    """One tick of `LSTM`, a drop-in for `torch.nn.LSTMCell`; states and results are pairs (h, c).

    Args: those of `RNNCell` without `nonlinearity` and `mask`.

    Parameters: `weight_ih` (4H,I), `weight_hh` (4H,H), `bias_ih` (4H), `bias_hh` (4H); gates in the order i, f, g, o.
    """


class GRUCell(families.GRU, RecurrentCell):
    """One tick of `GRU`, a drop-in for `torch.nn.GRUCell`.

    Args: those of `RNNCell` without `nonlinearity` and `mask`, and `reset_after` and `activation` of `GRU`.

    Parameters: `weight_ih` (3H,I), `weight_hh` (3H,H), `bias_ih` (3H), `bias_hh` (3H); gates in the order r, z, n.
    """


class MinimalGRUCell(families.MinimalGRU, RecurrentCell):
    """One tick of `MinimalGRU`; constructor and use are those of `GRUCell`.

    Parameters: `weight_ih` (2H,I), `weight_hh` (2H,H), `bias_ih` (2H), `bias_hh` (2H); gates in the order f, n.
    """


class PeepholeLSTMCell(families.PeepholeLSTM, RecurrentCell):
    """One tick of `PeepholeLSTM`; use is that of `LSTMCell`, and so is the constructor but for `g`, `h`, `gradient`.

    Parameters: those of `LSTMCell`, and `weight_ch` (3H) in the order i, f, o.
    """


class CoupledLSTMCell(families.CoupledLSTM, RecurrentCell):
    """One tick of `CoupledLSTM`; constructor and use are those of `LSTMCell`.

    Parameters: `weight_ih` (3H,I), `weight_hh` (3H,H), `bias_ih` (3H), `bias_hh` (3H); gates in the order i, g, o.
    """


class LayerNormLSTMCell(families.LayerNormLSTM, RecurrentCell):
    """One tick of `LayerNormLSTM`; use is that of `LSTMCell`, and so is the constructor but for `norm` and `eps`.

    Parameters: those of `LSTMCell`; `ln_ih_weight` (4H) and `ln_hh_weight` (4H), with norm="gate" one `ln_weight` (4H)
    instead; `ln_c_weight` (H), `ln_c_bias` (H).
    """


class LayerNormGRUCell(families.LayerNormGRU, RecurrentCell):
    """One tick of `LayerNormGRU`; use is that of `GRUCell`, and so is the constructor but for `norm` and `eps`.

    Parameters: those of `GRUCell`; `ln_ih_weight` (3H) and `ln_hh_weight` (3H), with norm="gate" one `ln_weight` (3H)
    instead.
    """


class GRU1Cell(families.GRU1, RecurrentCell):
    """One tick of `GRU1`; constructor and use are those of `GRUCell`, with `activation`.

    Parameters: `weight_ih` (H,I), `weight_hh` (3H,H), `bias_ih` (3H); gates in the order r, z, n.
    """


class GRU2Cell(families.GRU2, RecurrentCell):
    """One tick of `GRU2`; constructor and use are those of `GRUCell`, with `activation`.

    Parameters: `weight_ih` (H,I), `weight_hh` (3H,H), `bias_ih` (H); gates in the order r, z, n.
    """


class GRU3Cell(families.GRU3, RecurrentCell):
    """One tick of `GRU3`; constructor and use are those of `GRUCell`, with `activation`.

    Parameters: `weight_ih` (H,I), `weight_hh` (H,H), `bias_ih` (3H) in the order r, z, n.
    """


class IndRNNCell(families.IndRNN, RecurrentCell):
    """One tick of `IndRNN`; use is that of `RNNCell`, and so is the constructor but for `nonlinearity`, by keyword.

    Parameters: `weight_ih` (H,I), `weight_hh` (H), `bias_ih` (H).
    """


class LSTM1997Cell(families.LSTM1997, RecurrentCell):
    """One tick of `LSTM1997`; states and results are triples (h, c, gates): (B,H), (B,H), (B,n*b).

    Args: input_size, hidden_size, `bias` ("none", "gates" or "all"); device and dtype by keyword, and those of
    `LSTM1997` and of `RecurrentCell`.

    Parameters: `weight_ih` (n*b+H,I), `weight_hh` (n*b+H,H+n*b), `bias_ih`, as in `LSTM1997`.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: str | bool = "none", **options: Any) -> None:
        super().__init__(input_size, hidden_size, bias=bias, **options)
