"""What a layer and its Cell share: states, table of parameters, arguments of their own, and how these reach the op.

Each class is mixed in before `Recurrent` and before `RecurrentCell`, whose hooks it fills in. Equations stand in the
docstrings of the layers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..options import SQUASHES
from .checks import choice, integer, not_negative

__all__ = [
    *("RNN", "LSTM", "GRU", "MinimalGRU", "PeepholeLSTM", "CoupledLSTM", "LayerNormLSTM", "LayerNormGRU"),
    *("GRU1", "GRU2", "GRU3", "IndRNN", "LSTM1997"),
]


def _table(gates: int) -> dict[str, int]:
    """torch.nn's parameters."""
    return dict.fromkeys(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), gates)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of two biases of which either may be absent."""
    if a is None or b is None:
        return a if b is None else b
    return a + b


class _Activated:
    """A cell whose candidate has the nonlinearity `activation`."""

    own = {"activation": "tanh"}
    checks = {"activation": choice("tanh", "relu")}

    def __init__(self, *args: Any, activation: str = "tanh", **options: Any) -> None:
        self.activation = activation
        super().__init__(*args, **options)

    def _cell_options(self) -> dict[str, Any]:
        return {} if self.activation == "tanh" else {"squash": (self.activation, "tanh")}


class _Truncated:
    """A cell with squashing functions `g` (of what enters it) and `h` (of what leaves it) and a truncated gradient."""

    checks = {"g": choice(*SQUASHES), "h": choice(*SQUASHES), "gradient": choice("full", "truncated")}

    def __init__(self, *args: Any, g: str, h: str, gradient: str, **options: Any) -> None:
        self.g, self.h, self.gradient = g, h, gradient
        super().__init__(*args, **options)

    def _cell_options(self) -> dict[str, Any]:
        default = self.own["g"], self.own["h"]
        squash = None if (self.g, self.h) == default else (self.g, self.h)
        return {"squash": squash, "truncated": self.gradient == "truncated"}


class RNN:
    table = _table(1)
    nonlinearity = "tanh"

    @property
    def cell(self) -> str:
        return f"rnn_{self.nonlinearity}"

    def _set_masks(self, masks: Sequence[Tensor | None]) -> None:
        """Registers each layer's mask as a buffer, of the weights' dtype and device."""
        weight = next(self.parameters())
        for name, mask in zip(self._mask_names, masks, strict=True):
            if mask is not None:
                mask = torch.as_tensor(mask, dtype=weight.dtype, device=weight.device).detach().clone()
                shape = (self.hidden_size,) * 2
                if mask.shape != shape:
                    raise ValueError(f"mask: expected shape {shape}, got {tuple(mask.shape)}")
                if not mask.is_meta and not ((mask == 0) | (mask == 1)).all():
                    raise ValueError("mask: expected zeros and ones, got other numbers")
            self.register_buffer(name, mask)
        self._settle()

    @property
    def _mask_names(self) -> list[str]:
        return ["mask"]

    def _arranges(self) -> bool:
        return self._mask_names[0] in self._buffers

    def _arrange(self, k: int, *parameters: Tensor | None) -> tuple[Tensor | None, ...]:
        w_ih, w_hh, *rest = parameters
        mask = getattr(self, self._mask_names[k // self._directions])
        return w_ih, w_hh if mask is None else w_hh * mask, *rest, None

    def _changed(self) -> Any:
        if self.nonlinearity not in ("tanh", "relu"):  # torch.nn shows neither
            yield "nonlinearity", self.nonlinearity
        if self._arranges():
            yield "mask", "given"
        yield from super()._changed()


class LSTM:
    cell = "lstm"
    table = _table(4)
    states = ("h", "c")
    forget_gate_rows = 1
    projects = True


class GRU(_Activated):
    table = _table(3)
    own = {"reset_after": True, "activation": "tanh"}
    checks = {"reset_after": choice(True, False)}
    reset_after = True
    activation = "tanh"

    def __init__(self, *args: Any, reset_after: bool = True, activation: str = "tanh", **options: Any) -> None:
        self.reset_after = reset_after
        super().__init__(*args, activation=activation, **options)

    def _check_settings(self) -> None:
        if self.reset_after and self.activation != "tanh":
            raise ValueError(f"activation: expected 'tanh' with reset_after=True, got {self.activation!r}")
        super()._check_settings()

    @property
    def cell(self) -> str:
        return "gru" if self.reset_after else "gru_before"


class MinimalGRU:
    cell = "minimal_gru"
    table = _table(2)


class PeepholeLSTM(_Truncated):
    cell = "peephole_lstm"
    table = _table(4) | {"weight_ch": 3}
    states = ("h", "c")
    forget_gate_rows = 1
    own = {"g": "tanh", "h": "tanh", "gradient": "full"}

    def __init__(self, *args: Any, g: str = "tanh", h: str = "tanh", gradient: str = "full", **options: Any) -> None:
        super().__init__(*args, g=g, h=h, gradient=gradient, **options)

    def _arrange(self, k: int, *parameters: Tensor | None) -> tuple[Tensor | None, ...]:
        return parameters  # the last is the unit


class CoupledLSTM:
    cell = "coupled_lstm"
    table = _table(3)
    states = ("h", "c")


class _LayerNorm:
    """A cell with gains and shifts of normalisations, chosen by `norm`."""

    own = {"norm": "ba2016", "eps": 1e-5}
    checks = {"eps": not_negative}
    fixed = frozenset({"norm"})

    def __init__(self, *args: Any, norm: str = "ba2016", eps: float = 1e-5, **options: Any) -> None:
        self.norm, self.eps = norm, eps
        super().__init__(*args, **options)

    def _cell_options(self) -> dict[str, Any]:
        return {"eps": float(self.eps)}

    def _gains(self, gates: int) -> dict[str, int]:
        names = ("ln_weight",) if self.norm == "gate" else ("ln_ih_weight", "ln_hh_weight")
        return dict.fromkeys(names, gates)


class LayerNormLSTM(_LayerNorm):
    states = ("h", "c")
    forget_gate_rows = 1
    checks = {"norm": choice("ba2016", "carry", "gate")}

    @property
    def cell(self) -> str:
        return "layernorm_lstm" if self.norm == "ba2016" else f"layernorm_lstm_{self.norm}"

    @property
    def table(self) -> dict[str, int]:
        return _table(4) | self._gains(4) | {"ln_c_weight": 1, "ln_c_bias": 1}

    def _arrange(self, k: int, *parameters: Tensor | None) -> tuple[Tensor | None, ...]:
        w_ih, w_hh, b_ih, b_hh, _, *gains, c_gain, c_shift = parameters
        bias = _sum(b_ih, b_hh)
        bias = w_ih.new_zeros(w_ih.size(0)) if bias is None else bias
        return w_ih, w_hh, None, None, None, torch.cat([*gains, bias, c_gain, c_shift])


class LayerNormGRU(_LayerNorm):
    checks = {"norm": choice("ba2016", "gate")}

    @property
    def cell(self) -> str:
        return "layernorm_gru" if self.norm == "ba2016" else "layernorm_gru_gate"

    @property
    def table(self) -> dict[str, int]:
        return _table(3) | self._gains(3)

    def _arrange(self, k: int, *parameters: Tensor | None) -> tuple[Tensor | None, ...]:
        w_ih, w_hh, b_ih, b_hh, _, *gains = parameters
        zeros = w_ih.new_zeros(w_ih.size(0)) if b_ih is None or b_hh is None else None
        b_ih, b_hh = zeros if b_ih is None else b_ih, zeros if b_hh is None else b_hh
        gates = 2 * self.hidden_size  # r and z, whose biases sum
        shifts = [b_ih[:gates] + b_hh[:gates], b_ih[gates:]]
        if self.norm == "gate":
            return w_ih, w_hh, None, b_hh[gates:], None, torch.cat([*gains, *shifts])
        return w_ih, w_hh, None, None, None, torch.cat([*gains, *shifts, b_hh[gates:]])


class GRU1(_Activated):
    cell = "gru1"
    table = {"weight_ih": 1, "weight_hh": 3, "bias_ih": 3}


class GRU2(_Activated):
    cell = "gru2"
    table = {"weight_ih": 1, "weight_hh": 3, "bias_ih": 1}


class GRU3(_Activated):
    cell = "gru3"
    table = {"weight_ih": 1, "weight_hh": 1, "bias_ih": 3}

    def _arrange(self, k: int, *parameters: Tensor | None) -> tuple[Tensor | None, ...]:
        w_ih, w_hh, bias, *_ = parameters
        gates = 2 * self.hidden_size
        if bias is None:
            return w_ih, w_hh, None, None, None, w_ih.new_full((gates,), 0.5)
        return w_ih, w_hh, bias[gates:], None, None, bias[:gates].sigmoid()


class IndRNN:
    cell = "ind_rnn"
    table = {"weight_ih": 1, "weight_hh": 1, "bias_ih": 1}
    own = {"nonlinearity": "tanh"}
    checks = {"nonlinearity": choice("tanh", "relu")}
    has_recurrent_product = False

    def __init__(self, *args: Any, nonlinearity: str = "tanh", **options: Any) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(*args, **options)

    def _cell_options(self) -> dict[str, Any]:
        return {} if self.nonlinearity == "tanh" else {"squash": (self.nonlinearity, "tanh")}

    def _shape(self, name: str, inputs: int) -> tuple[int, ...] | None:
        return (self.hidden_size,) if name == "weight_hh" else super()._shape(name, inputs)

    def _arrange(self, k: int, *parameters: Tensor | None) -> tuple[Tensor | None, ...]:
        w_ih, u, bias, *_ = parameters
        return w_ih, None, bias, None, None, u


class LSTM1997(_Truncated):
    table = {"weight_ih": 1, "weight_hh": 1, "bias_ih": 1}  # rows are blocks and cells: see `_shape`
    states = ("h", "c", "gates")
    default_bias = "none"
    own = {
        "block_size": 1,
        "forget_gate": False,
        "output_gate": True,
        "recurrent": True,
        "gate_feedback": True,
        "g": "g1997",
        "h": "h1997",
        "gradient": "full",
    }
    checks = {
        "block_size": integer(1),
        "bias": choice("none", "gates", "all"),
        **dict.fromkeys(("forget_gate", "output_gate", "recurrent", "gate_feedback"), choice(False, True)),
    }
    fixed = frozenset({"block_size", "forget_gate", "output_gate", "recurrent", "gate_feedback"})

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *args: Any,
        bias: str | bool = "none",
        block_size: int = 1,
        forget_gate: bool = False,
        output_gate: bool = True,
        recurrent: bool = True,
        gate_feedback: bool = True,
        g: str = "g1997",
        h: str = "h1997",
        gradient: str = "full",
        **options: Any,
    ) -> None:
        self.block_size = block_size
        if isinstance(hidden_size, int) and hidden_size % block_size:
            raise ValueError(f"hidden_size: expected a multiple of block_size {block_size}, got {hidden_size}")
        self.forget_gate, self.output_gate = forget_gate, output_gate
        self.recurrent, self.gate_feedback = recurrent, gate_feedback
        bias = {False: "none", True: "all"}.get(bias, bias) if isinstance(bias, bool) else bias
        super().__init__(input_size, hidden_size, *args, bias=bias, g=g, h=h, gradient=gradient, **options)

    @property
    def cell(self) -> str:
        return "lstm1997" + "_forget" * self.forget_gate + "_open" * (not self.output_gate)

    @property
    def blocks(self) -> int:
        return self.hidden_size // self.block_size

    @property
    def gates(self) -> int:
        """Gates of a block."""
        return 1 + self.forget_gate + self.output_gate

    @property
    def has_recurrent_product(self) -> bool:
        return self.recurrent

    @property
    def forget_gate_rows(self) -> int | None:
        return 1 if self.forget_gate else None

    def _forget_rows(self) -> slice:
        return slice(self.blocks, 2 * self.blocks)

    @property
    def _op_states(self) -> int:
        return 2 + self.gates

    def _width(self, state: str) -> int:
        return self.gates * self.blocks if state == "gates" else self.hidden_size

    def _shape(self, name: str, inputs: int) -> tuple[int, ...] | None:
        gates = self.gates * self.blocks
        rows = gates + self.hidden_size
        if name == "weight_ih":
            return rows, inputs
        if name == "weight_hh":
            return (rows, rows if self.gate_feedback else self.hidden_size) if self.recurrent else None
        if name == "bias_ih":
            return {"none": None, "gates": (gates,), "all": (rows,)}[self.bias]
        return super()._shape(name, inputs)

    def _cell_options(self) -> dict[str, Any]:
        return super()._cell_options() | {"block_size": self.block_size}

    def _split(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        if not states:
            return states
        h, c, gates = states
        return h, *gates.split(self.blocks, -1), c

    def _join(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        h, *gates, c = states
        return h, c, torch.cat(gates, -1)
