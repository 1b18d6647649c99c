"""`RNN`, `LSTM`, `GRU` and `MinimalGRU`: stacks of layers over whole sequences."""

import math
import numbers
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from ..functional import layer
from ..ops import LAYERS
from .checks import check

__all__ = ["RNN", "LSTM", "GRU", "MinimalGRU"]

# cuDNN warns at every call whose weights are not one buffer; here they never are, on purpose.
warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk", module=__name__)


Weights = list[list[Tensor | None]]
States = Tensor | tuple[Tensor, Tensor]


class Recurrent(nn.Module):
    """What the layers share: torch.nn's parameter names and initialisation, the checks, the walk through the stack.

    It is no `torch.nn.RNNBase`: torch.compile refuses those, and their copy of the weights has to be kept in step.
    """

    mode: str  # torch.nn's word for the cell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._check_arguments(dropout)
        self.dropout = float(dropout)
        self._name_weights()

        rows, fed_back = LAYERS[self.cell].gates * hidden_size, proj_size or hidden_size
        for k, names in enumerate(self._weight_names):
            columns = input_size if k < self._directions else fed_back * self._directions
            shapes = (rows, columns), (rows, fed_back), (rows,), (rows,), (proj_size, hidden_size)
            for name, shape in zip(names, shapes, strict=True):
                if name is not None:
                    self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    @property
    def cell(self) -> str:
        """The name of the cell in `rnnkernels.functional.layer`."""
        return self.mode.lower()

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The weights of every layer and direction, in torch.nn's order."""
        return [[getattr(self, name) for name in names if name is not None] for names in self._weight_names]

    def flatten_parameters(self) -> None:
        """Does nothing: weights may live anywhere and change at any time."""

    def reset_parameters(self) -> None:
        """Draws every parameter from U(-k, k), k = 1 / sqrt(hidden_size), in torch.nn's order."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for weight in self.parameters():
            nn.init.uniform_(weight, -bound, bound)

    def extra_repr(self) -> str:
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0, "bidirectional": False}
        options = {"proj_size": 0} | defaults
        changed = [f"{k}={getattr(self, k)}" for k, default in options.items() if getattr(self, k) != default]
        return ", ".join([str(self.input_size), str(self.hidden_size), *changed])

    def forward(
        self, input: Tensor | PackedSequence, hx: States | None = None
    ) -> tuple[Tensor | PackedSequence, States]:
        """Runs the stack. Axes: T ticks, B rows, I inputs, H hidden units, L layers, D directions, P = proj_size or H.

        Args:
            input: (T,B,I), with `batch_first` (B,T,I), one sequence (T,I), or a `PackedSequence`, sorted or not.
            hx: initial state (L*D,B,H), of one sequence (L*D,H); for LSTM the pair h (L*D,B,P) and c (L*D,B,H).
                Zero by default. Rows stand in the order of the caller's sequences.

        Returns:
            `(output, state)`: the last layer's output (T,B,D*P), laid out as the input, and the state of every layer
            and direction after each row's own last tick, shaped as `hx`.

        Raises:
            ValueError: input of wrong rank, or of another dtype than the weights outside autocast.
            RuntimeError: wrong number of features, no tick, wrong shape, dtype or device of `hx`, wrong batch sizes.
        """
        weights = self._weights()
        states = () if hx is None else self._open(hx)
        if isinstance(input, PackedSequence):
            x, batch_sizes, order, inverse = input
            if x.dim() != 2:
                raise RuntimeError(f"input: expected packed frames of 2 dimensions, got {x.dim()}")
            self._check(x, weights, states, (int(batch_sizes[0]),))
            if order is not None:
                states = [s.index_select(1, order) for s in states]
            out, finals = self._run(x, weights, states, batch_sizes)
            if inverse is not None:
                finals = [s.index_select(1, inverse) for s in finals]
            return PackedSequence(out, batch_sizes, order, inverse), self._close(finals)

        batched = input.dim() == 3
        if batched:
            x = input.transpose(0, 1) if self.batch_first else input
        elif input.dim() == 2:
            x = input.unsqueeze(1)
        else:
            raise ValueError(f"input: expected 2 or 3 dimensions, got {input.dim()}")
        self._check(x, weights, states, (x.size(1),) if batched else ())
        if x.size(0) == 0:
            raise RuntimeError("input: expected at least one tick, got a sequence of length 0")
        out, finals = self._run(x, weights, states if batched else [s.unsqueeze(1) for s in states])
        if not batched:
            return out.squeeze(1), self._close([s.squeeze(1) for s in finals])
        return out.transpose(0, 1) if self.batch_first else out, self._close(finals)

    def _run(
        self, x: Tensor, weights: Weights, states: Sequence[Tensor], batch_sizes: Tensor | None = None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """x (T,B,I) or (N,I), states (L*D,B,P or H) or none: `(out, final states)` of the whole stack."""
        if not (x.is_cpu or x.is_meta) and hasattr(torch, self.cell):
            return self._run_torch(x, weights, states, batch_sizes)
        if len(weights) == 1:  # spares one tick the stacking
            out, *finals = layer(self.cell, x, *weights[0], [s.squeeze(0) for s in states], batch_sizes)
            return out, [s.unsqueeze(0) for s in finals]
        initial = list(zip(*(s.unbind() for s in states), strict=True)) if states else [()] * len(weights)
        finals = []
        for k in range(0, len(weights), self._directions):
            if k and self.dropout and self.training:
                x = F.dropout(x, self.dropout)
            outs = []
            for d in range(self._directions):
                out, *final = layer(self.cell, x, *weights[k + d], initial[k + d], batch_sizes, d == 1)
                outs.append(out)
                finals.append(final)
            x = outs[0] if len(outs) == 1 else torch.cat(outs, -1)
        return x, [torch.stack(s) for s in zip(*finals, strict=True)]

    def _run_torch(
        self, x: Tensor, weights: Weights, states: Sequence[Tensor], batch_sizes: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """The same by torch's own op, on devices that have no kernel here."""
        if not states:
            rows = x.size(1) if batch_sizes is None else int(batch_sizes[0])
            states = [x.new_zeros(len(weights), rows, self._width(n)) for n in range(LAYERS[self.cell].states)]
        flat = [w for group in weights for w in group if w is not None]
        options = (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        run, hx = getattr(torch, self.cell), self._close(states)
        if batch_sizes is None:
            out, *finals = run(x, hx, flat, *options, False)
        else:
            out, *finals = run(x, batch_sizes, hx, flat, *options)
        return out, finals

    def _open(self, hx: States) -> Sequence[Tensor]:
        """The states in the caller's `hx`, the one that feeds back first."""
        return [hx]

    def _close(self, states: Sequence[Tensor]) -> States:
        """The inverse of `_open`."""
        return states[0]

    def _weights(self) -> Weights:
        """w_ih, w_hh, b_ih, b_hh, w_hr of every layer and direction."""
        own = self._parameters
        try:
            return [[None if n is None else own[n] for n in names] for names in self._weight_names]
        except KeyError:  # parametrized, or taken over by a hook
            return [[None if n is None else getattr(self, n) for n in names] for names in self._weight_names]

    def _width(self, state: int) -> int:
        """Units of a state, the one that feeds back first."""
        return self.hidden_size if state else self.proj_size or self.hidden_size

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _name_weights(self) -> None:
        self._weight_names = [
            [
                f"weight_ih_l{k}{suffix}",
                f"weight_hh_l{k}{suffix}",
                f"bias_ih_l{k}{suffix}" if self.bias else None,
                f"bias_hh_l{k}{suffix}" if self.bias else None,
                f"weight_hr_l{k}{suffix}" if self.proj_size else None,
            ]
            for k in range(self.num_layers)
            for suffix in ("", "_reverse")[: self._directions]
        ]

    def _check_arguments(self, dropout: object) -> None:
        if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout: expected a probability in [0, 1], got {dropout!r}")
        if dropout > 0 and self.num_layers == 1:
            warnings.warn(
                "dropout acts between layers, after all but the last one: expected num_layers greater than 1, "
                f"but got dropout={dropout} and num_layers={self.num_layers}",
                stacklevel=3,
            )
        for name, kind in {"bias": bool, "batch_first": bool, "input_size": int, "hidden_size": int}.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name}: expected {kind.__name__}, got {type(getattr(self, name)).__name__}")
        for name in ("input_size", "hidden_size", "num_layers"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if self.proj_size and not LAYERS[self.cell].projection:
            raise ValueError(f"proj_size: expected none, only LSTM projects, got {self.proj_size}")
        if not 0 <= self.proj_size < self.hidden_size:
            raise ValueError(
                f"proj_size: expected 0 to {self.hidden_size - 1}, below hidden_size, got {self.proj_size}"
            )

    def _check(self, x: Tensor, weights: Weights, states: Sequence[Tensor], rows: tuple[int, ...]) -> None:
        """Refuses what torch.nn refuses; the ops check the rest."""
        shapes = [(len(weights), *rows, self._width(n)) for n in range(len(states))]
        check(x, weights[0][0], self.input_size, states, shapes, wrong_dtype=ValueError)


class RNN(Recurrent):
    """Elman's recurrent layers, a drop-in for `torch.nn.RNN`.

        h' = tanh(W x + b_ih + U h + b_hh)        or relu instead of tanh

    Args:
        input_size: features of the input (I).
        hidden_size: hidden units of every layer (H).
        num_layers: layers (L), each fed with the output of the one below.
        nonlinearity: "tanh" or "relu".
        bias: whether layers have biases.
        batch_first: input and output are (B,T,·) instead of (T,B,·); states are (·,B,·) either way.
        dropout: probability in [0, 1] of zeroing an output of any layer but the last, while training.
        bidirectional: every layer runs in both directions (D = 2), their outputs side by side.
        device, dtype: of the parameters.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (H,I or D*H), `weight_hh_lk` (H,H),
    `bias_ih_lk` (H), `bias_hh_lk` (H).

    Source: Elman, "Finding structure in time", Cognitive Science 14, 1990.
    """

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
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        self.mode = f"RNN_{nonlinearity.upper()}"
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        )


class LSTM(Recurrent):
    """Long short-term memory, a drop-in for `torch.nn.LSTM`.

        i, f, g, o = W x + b_ih + U h + b_hh
        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')                  with proj_size: h' = W_hr (sigmoid(o) tanh(c'))

    Args: those of `RNN` without `nonlinearity`, and
        proj_size: if positive, h is projected to this many units (P), fewer than `hidden_size`.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (4H,I or D*P), `weight_hh_lk` (4H,P),
    `bias_ih_lk` (4H), `bias_hh_lk` (4H), with projection `weight_hr_lk` (P,H); gates in the order i, f, g, o.

    Source: Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997; forget gate by Gers,
    Schmidhuber and Cummins, "Learning to forget", 2000; projection by Sak, Senior and Beaufays, 2014.
    """

    mode = "LSTM"

    def _open(self, hx: States) -> Sequence[Tensor]:
        if isinstance(hx, Tensor) or len(hx) != 2:
            kind = IndexError if len(hx) < 2 else RuntimeError  # what torch.nn happens to raise
            got = "one tensor" if isinstance(hx, Tensor) else f"{len(hx)} of them"
            raise kind(f"hx: expected a pair of tensors (h, c), got {got}")
        return hx

    def _close(self, states: Sequence[Tensor]) -> States:
        return tuple(states)


class GRU(Recurrent):
    """Gated recurrent unit, reset after the product, a drop-in for `torch.nn.GRU`.

        r = sigmoid(W_r x + b_ir + U_r h + b_hr)
        z = sigmoid(W_z x + b_iz + U_z h + b_hz)
        n = tanh(W_n x + b_in + r (U_n h + b_hn))
        h' = (1 - z) n + z h

    Args: those of `RNN` without `nonlinearity`.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (3H,I or D*H), `weight_hh_lk` (3H,H),
    `bias_ih_lk` (3H), `bias_hh_lk` (3H); gates in the order r, z, n.

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine
    translation", 2014, with the reset gate where cuDNN has it.
    """

    mode = "GRU"


class MinimalGRU(Recurrent):
    """Minimal gated unit as published, the gate before the product; constructor and use are those of `GRU`.

        f = sigmoid(W_f x + b_if + U_f h + b_hf)
        n = tanh(W_n x + b_in + U_n (f h) + b_hn)
        h' = (1 - f) h + f n

    Args: those of `RNN` without `nonlinearity`.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (2H,I or D*H), `weight_hh_lk` (2H,H),
    `bias_ih_lk` (2H), `bias_hh_lk` (2H); gates in the order f, n.

    Source: Zhou, Wu, Zhang and Zhou, "Minimal gated unit for recurrent neural networks", IJAC 13(3), 2016.
    """

    mode = "MINIMAL_GRU"
