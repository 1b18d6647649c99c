"""`RNN`, `LSTM`, `GRU` and `MinimalGRU`: the layers torch.nn has, and the plainest it has not."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import families
from .checks import choice
from .recurrent import Recurrent

__all__ = ["RNN", "LSTM", "GRU", "MinimalGRU"]


class RNN(families.RNN, Recurrent):
    """Elman's recurrent layers, a drop-in for `torch.nn.RNN`.

        h' = f(W x + b_ih + U h + b_hh)           f: tanh, relu or logistic

    With `mask`, U becomes U * mask: any recurrent network is one fully connected layer of units of which some weights
    are absent. A block lower triangular mask makes layers of it, its diagonal blocks their own recurrence (each then
    sees the one below a tick later); which units are read as output is the caller's choice.

    Args:
        input_size: features of the input (I).
        hidden_size: hidden units of every layer (H).
        num_layers: layers (L), each fed with the output of the one below.
        nonlinearity: "tanh", "relu" or "logistic".
        bias: whether layers have biases.
        batch_first: input and output are (B,T,·) instead of (T,B,·); states are (·,B,·) either way.
        dropout: probability in [0, 1] of zeroing an output of any layer but the last, while training.
        bidirectional: every layer runs in both directions (D = 2), their outputs side by side.
        device, dtype: of the parameters.
        mask: zeros and ones (H,H), row the unit that reads, column the unit it reads: which recurrent weights there
            are; for every layer, or a list of one for each (None: all). Held as buffers `mask_lk`.
        Others, by keyword: those of `Recurrent`.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (H,I or D*H), `weight_hh_lk` (H,H),
    `bias_ih_lk` (H), `bias_hh_lk` (H).

    Source: Elman, "Finding structure in time", Cognitive Science 14, 1990; fully recurrent: Williams and Zipser, "A
    learning algorithm for continually running fully recurrent neural networks", Neural Computation 1, 1989.
    """

    checks = {"nonlinearity": choice("tanh", "relu", "logistic")}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        mask: Tensor | Sequence[Tensor | None] | None = None,
        **options: Any,
    ) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
            **options,
        )
        if mask is not None:
            masks = [mask] * num_layers if isinstance(mask, Tensor) else list(mask)
            if len(masks) != num_layers:
                raise ValueError(f"mask: expected one, or {num_layers}, one a layer, got {len(masks)}")
            self._set_masks(masks)

    @property
    def mode(self) -> str:
        """torch.nn's word for the cell."""
        return self.cell.upper()

    @property
    def _mask_names(self) -> list[str]:
        return [f"mask_l{k}" for k in range(self.num_layers)]


class LSTM(families.LSTM, Recurrent):
    """Long short-term memory, a drop-in for `torch.nn.LSTM`.

        i, f, g, o = W x + b_ih + U h + b_hh
        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')                  with proj_size: h' = W_hr (sigmoid(o) tanh(c'))

    Args: those of `RNN` without `nonlinearity` and `mask`, and
        proj_size: if positive, h is projected to this many units (P), fewer than `hidden_size`.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (4H,I or D*P), `weight_hh_lk` (4H,P),
    `bias_ih_lk` (4H), `bias_hh_lk` (4H), with projection `weight_hr_lk` (P,H); gates in the order i, f, g, o.

    Source: Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997; forget gate by Gers,
    Schmidhuber and Cummins, "Learning to forget", 2000; projection by Sak, Senior and Beaufays, 2014.
    """

    mode = "LSTM"


class GRU(families.GRU, Recurrent):
    """Gated recurrent unit, reset after the product, a drop-in for `torch.nn.GRU`; or before it.

        r = sigmoid(W_r x + b_ir + U_r h + b_hr)
        z = sigmoid(W_z x + b_iz + U_z h + b_hz)
        n = tanh(W_n x + b_in + r (U_n h + b_hn))          reset_after=False: n = f(W_n x + b_in + U_n (r h) + b_hn)
        h' = (1 - z) n + z h

    Args: those of `RNN` without `nonlinearity` and `mask`, and by keyword
        reset_after: whether r acts after the recurrent product (torch.nn, cuDNN) or before it (the paper).
        activation: f, "tanh" or "relu", for reset_after=False.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (3H,I or D*H), `weight_hh_lk` (3H,H),
    `bias_ih_lk` (3H), `bias_hh_lk` (3H); gates in the order r, z, n.

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine
    translation", 2014, with the reset gate where cuDNN has it, or where the paper's last version has it.
    """

    mode = "GRU"


class MinimalGRU(families.MinimalGRU, Recurrent):
    """Minimal gated unit as published, the gate before the product; constructor and use are those of `LSTM`.

        f = sigmoid(W_f x + b_if + U_f h + b_hf)
        n = tanh(W_n x + b_in + U_n (f h) + b_hn)
        h' = (1 - f) h + f n

    Args: those of `RNN` without `nonlinearity` and `mask`.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (2H,I or D*H), `weight_hh_lk` (2H,H),
    `bias_ih_lk` (2H), `bias_hh_lk` (2H); gates in the order f, n.

    Source: Zhou, Wu, Zhang and Zhou, "Minimal gated unit for recurrent neural networks", IJAC 13(3), 2016.
    """
