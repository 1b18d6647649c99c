"""The networks the papers trained on these tasks: a hidden layer of memory cells and logistic outputs.

Their weights are counted as the papers count them, and drawn from the ranges of Hochreiter and Schmidhuber, "Long
short-term memory", 1997, Table 10, and of Gers et al. 2000 and 2002.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

__all__ = [
    "LAYOUTS",
    "Layout",
    "Network",
    "StackedLSTM",
    "continual",
    "long_lag",
    "network",
    "timing",
    "variable_lag",
    "weights",
]


@dataclass(frozen=True)
class Layout:
    """A network of memory cell blocks. Numbers are those of Table 10 of the paper, but for `forget_gate`.

    Attributes:
        inputs, outputs: how many.
        blocks, size: memory blocks, and the cells of each.
        bias: which hidden units have one: "none", "gates" or "all".
        output_bias: whether outputs have one.
        reads_inputs: outputs see the inputs too, not the cells alone.
        bound: weights are drawn from U(-bound, bound).
        input_gates, forget_gates, output_gates: the gates' initial biases, block by block; empty: drawn as weights.
        options: of `rnnkernels.LSTM1997`.
    """

    inputs: int
    outputs: int
    blocks: int
    size: int
    bias: str = "none"
    output_bias: bool = False
    reads_inputs: bool = False
    bound: float = 0.1
    input_gates: tuple[float, ...] = ()
    forget_gates: tuple[float, ...] = ()
    output_gates: tuple[float, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def long_lag(p: int = 100) -> Layout:
    """Tasks 2a and 2b: one cell without output gate, without recurrence, without biases; outputs see the inputs."""
    options = {"output_gate": False, "recurrent": False, "g": "logistic", "h": "identity"}
    return Layout(p + 1, p + 1, 1, 1, reads_inputs=True, bound=0.2, options=options)


def variable_lag(p: int = 50) -> Layout:
    """Task 2c: 6 p + 64 weights, without biases."""
    return Layout(p + 4, 2, 2, 1, bound=0.2)


def continual(forget_gate: bool = True) -> Layout:
    """Gers et al. 2000: four blocks of two cells, gates do not feed back, outputs see the inputs; 424 weights."""
    down, up = (-0.5, -1.0, -1.5, -2.0), (0.5, 1.0, 1.5, 2.0)
    options = {"forget_gate": forget_gate, "gate_feedback": False}
    return Layout(7, 7, 4, 2, "gates", True, True, 0.2, down, up if forget_gate else (), down, options)


_TWO_SEQUENCES = Layout(1, 1, 3, 1, "all", bound=0.1, input_gates=(-1.0, -3.0, -5.0), output_gates=(-2.0, -4.0, -6.0))

LAYOUTS: dict[str, Layout] = {
    "reber_3x2": Layout(7, 7, 3, 2, "gates", bound=0.2, output_gates=(-1.0, -2.0, -3.0)),
    "reber_4x1": Layout(7, 7, 4, 1, "gates", bound=0.2, output_gates=(-1.0, -2.0, -3.0, -4.0)),
    "long_lag_2a": long_lag(),
    "long_lag_2b": long_lag(),
    "long_lag_2c": variable_lag(),
    "two_sequences_3a": _TWO_SEQUENCES,
    "two_sequences_3b": _TWO_SEQUENCES,
    "two_sequences_3c": _TWO_SEQUENCES,
    "adding": Layout(2, 1, 2, 2, "all", True, input_gates=(-3.0, -6.0)),
    "multiplication": Layout(2, 1, 2, 2, "all", True),
    "temporal_order_6a": Layout(8, 4, 2, 2, "all", True, input_gates=(-2.0, -4.0)),
    "temporal_order_6b": Layout(8, 8, 3, 2, "all", True, input_gates=(-2.0, -4.0, -6.0)),
    "continual": continual(),
}


class Network(nn.Module):
    """A hidden layer and outputs y = f(W z [+ b]), f logistic, z the hidden layer's outputs or inputs and those.

    Args:
        hidden: a layer, called as `hidden(x, hx) -> (out, hx)`.
        inputs, units, outputs: of the network, of the hidden layer's output, of the network.
        bias: of the outputs.
        reads_inputs: z is the inputs and the hidden layer's outputs side by side, in this order.
    """

    def __init__(
        self,
        hidden: nn.Module,
        inputs: int,
        units: int,
        outputs: int,
        bias: bool = True,
        reads_inputs: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.readout = nn.Linear(units + inputs * reads_inputs, outputs, bias, dtype=dtype)
        self.units, self.reads_inputs = units, reads_inputs

    def forward(self, x: Tensor, hx: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """x (T,B,I), hx the hidden layer's: the outputs' net inputs W z + b (T,B,O), and the hidden layer's state.

        With lengths (B,) the hidden layer's output past a row's end is zero.
        """
        out, hx = self.hidden(x, hx) if lengths is None else self.hidden(x, hx, lengths=lengths)
        return self.readout(torch.cat((x, out), -1) if self.reads_inputs else out), hx


class StackedLSTM(nn.Module):
    """The LSTM that the Neural Turing Machine was compared with: every layer reads the input, the output every layer.

    Each layer has one bias per gate (the second is held at zero) and learned initial states. Graves, Wayne and
    Danihelka, "Neural Turing Machines", 2014, Table 3: its parameter counts are those of this network.

    Args:
        inputs, outputs: I and O.
        hidden_size, num_layers: H of each of L layers.
    """

    def __init__(self, inputs: int, outputs: int, hidden_size: int = 256, num_layers: int = 3) -> None:
        from .. import LSTM

        super().__init__()
        self.layers = nn.ModuleList(LSTM(inputs + hidden_size * (k > 0), hidden_size) for k in range(num_layers))
        for layer in self.layers:
            layer.bias_hh_l0.requires_grad_(False).zero_()
        self.h_0 = nn.Parameter(torch.zeros(num_layers, hidden_size))
        self.c_0 = nn.Parameter(torch.zeros(num_layers, hidden_size))
        self.readout = nn.Linear(num_layers * hidden_size, outputs)

    def forward(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (T,B,I), hx (L,B,H) each, lengths (B,): logits (T,B,O), and the states after each row's last tick."""
        if hx is None:
            hx = tuple(s.unsqueeze(1).expand(-1, x.size(1), -1) for s in (self.h_0, self.c_0))
        outs, states = [], []
        for k, layer in enumerate(self.layers):
            read = torch.cat((x, outs[-1]), -1) if outs else x
            out, state = layer(read, tuple(s[k : k + 1] for s in hx), lengths=lengths)
            outs.append(out)
            states.append(state)
        return self.readout(torch.cat(outs, -1)), tuple(torch.cat(s) for s in zip(*states))


def weights(network: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def network(
    layout: Layout | str,
    generator: Generator,
    gradient: str = "truncated",
    dtype: torch.dtype | None = None,
    **changes: Any,
) -> Network:
    """A network of this layout, freshly drawn.

    Args:
        layout: one, or a name in `LAYOUTS`.
        generator: draws the weights.
        gradient: "truncated", the paper's, or "full".
        changes: fields of the layout to be changed.
    """
    from .. import LSTM1997

    if isinstance(layout, str):
        layout = LAYOUTS[layout]
    layout = replace(layout, **changes)
    cells = layout.blocks * layout.size
    hidden = LSTM1997(
        layout.inputs,
        cells,
        bias=layout.bias,
        block_size=layout.size,
        gradient=gradient,
        dtype=dtype,
        **layout.options,
    )
    made = Network(hidden, layout.inputs, cells, layout.outputs, layout.output_bias, layout.reads_inputs, dtype)
    for parameter in made.parameters():
        nn.init.uniform_(parameter, -layout.bound, layout.bound, generator=generator)
    forget, output = layout.options.get("forget_gate", False), layout.options.get("output_gate", True)
    rows = cells if layout.bias == "all" else 0  # the cells' biases lie between those of the gates
    starts = {
        "input": (layout.input_gates, 0),
        "forget": (layout.forget_gates, layout.blocks),
        "output": (layout.output_gates, layout.blocks * (1 + forget) + rows),
    }
    for name, (biases, start) in starts.items():
        if not biases:
            continue
        exists = {"input": True, "forget": forget, "output": output}[name] and layout.bias != "none"
        if not exists or len(biases) != layout.blocks:
            raise ValueError(f"{name}_gates: expected one bias for each of {layout.blocks} gates that have one")
        with torch.no_grad():
            hidden.bias_ih_l0[start : start + layout.blocks] = torch.tensor(biases, dtype=hidden.bias_ih_l0.dtype)
    return made


def timing(
    generator: Generator,
    inputs: int = 1,
    outputs: int = 1,
    cells: int = 1,
    bound: float = 0.1,
    input_gate: float | None = 0.0,
    forget_gate: float | None = -2.0,
    output_gate: float | None = 2.0,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Network:
    """Peephole cells under outputs that see them alone; by default the 17 weights of Gers et al. 2002.

    Of the layer's two biases only the first is trained, the second is held at zero: the paper has one.

    Args:
        generator: draws the weights from U(-bound, bound).
        cells: blocks of one cell each.
        input_gate, forget_gate, output_gate: initial biases; None: drawn as the weights.
        options: of `rnnkernels.PeepholeLSTM`; by default the paper's, g and h the identity, truncated gradient.
    """
    from .. import PeepholeLSTM

    options = {"g": "identity", "h": "identity", "gradient": "truncated"} | options
    hidden = PeepholeLSTM(inputs, cells, dtype=dtype, **options)
    made = Network(hidden, inputs, cells, outputs, dtype=dtype)
    for parameter in made.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    with torch.no_grad():
        for k, bias in ((0, input_gate), (1, forget_gate), (3, output_gate)):
            if bias is not None:
                hidden.bias_ih_l0[k * cells : (k + 1) * cells] = bias
        hidden.bias_hh_l0.zero_()
    hidden.bias_hh_l0.requires_grad_(False)
    return made
