"""The 1997 paper's own algorithm: truncated gradient accumulated forwards, weights changed whenever one likes.

Equations (19) to (28) of Hochreiter and Schmidhuber, with the forget gate of Gers, Schmidhuber and Cummins 2000. Beside
a state every cell keeps the derivatives of that state with respect to its weights, so that an update needs nothing of
the past, and learning after every symbol is possible. In numpy, whose operations on a dozen numbers cost least.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy import ndarray

from ..tasks.networks import Network

__all__ = ["Recursion"]


def _logistic(a: ndarray) -> ndarray:
    return 1.0 / (1.0 + np.exp(-a))


def _scaled(range_: float) -> Callable[[ndarray], tuple[ndarray, ndarray]]:
    def squash(a: ndarray) -> tuple[ndarray, ndarray]:
        y = _logistic(a)
        return 2 * range_ * y - range_, 2 * range_ * y * (1 - y)

    return squash


def _tanh(a: ndarray) -> tuple[ndarray, ndarray]:
    y = np.tanh(a)
    return y, 1 - y * y


def _logistic_and_slope(a: ndarray) -> tuple[ndarray, ndarray]:
    y = _logistic(a)
    return y, y * (1 - y)


# name -> value and derivative
SQUASH: dict[str, Callable[[ndarray], tuple[ndarray, ndarray]]] = {
    "g1997": _scaled(2.0),
    "h1997": _scaled(1.0),
    "logistic": _logistic_and_slope,
    "identity": lambda a: (a, np.ones_like(a)),
    "tanh": _tanh,
}


class Recursion:
    """Runs and trains a network of LSTM1997 blocks one symbol at a time, in float64.

    The weights are copies: `store` writes them back. Axes: n cells, b blocks, K sources of the hidden layer: inputs,
    cells, gates, and 1 for the bias.

    Args:
        network: of one layer.
        derivative: whether f'(net) is in the outputs' errors, as in eq. (19).
    """

    def __init__(self, network: Network, derivative: bool = True) -> None:
        self.network, self.derivative = network, derivative
        hidden, readout = network.hidden, network.readout
        self.size, self.n = hidden.block_size, hidden.hidden_size
        self.b = self.n // self.size
        self.inputs = hidden.input_size
        self.forget, self.open = hidden.forget_gate, not hidden.output_gate
        self.G, self.H = SQUASH[hidden.g], SQUASH[hidden.h]
        at, self.rows = 0, {}
        for name, count in (("i", self.b), ("f", self.b * self.forget), ("g", self.n), ("o", self.b * (not self.open))):
            self.rows[name] = slice(at, at + count)
            at += count
        parts = {name: p.detach().double().numpy() for name, p in hidden.named_parameters()}
        self.fed = parts["weight_hh_l0"].shape[1] if hidden.recurrent else 0
        self.W = np.zeros((at, self.inputs + self.fed + (hidden.bias != "none")))
        self.W[:, : self.inputs] = parts["weight_ih_l0"]
        if hidden.recurrent:
            self.W[:, self.inputs : self.inputs + self.fed] = parts["weight_hh_l0"]
        self.biased = np.ones(at, bool)
        if hidden.bias == "gates":
            self.biased[self.rows["g"]] = False
        if hidden.bias != "none":
            self.W[self.biased, -1] = parts["bias_ih_l0"]
        self.V = readout.weight.detach().double().numpy().copy()  # outputs: inputs if they are read, cells, 1
        if readout.bias is not None:
            self.V = np.concatenate((self.V, readout.bias.detach().double().numpy()[:, None]), 1)
        self.read = self.inputs if network.reads_inputs else 0
        self.dW, self.dV = np.zeros_like(self.W), np.zeros_like(self.V)
        self.start()

    def start(self) -> None:
        """Forgets all states, activations and derivatives, as at a sequence's start."""
        self.z = np.zeros(self.W.shape[1])
        if self.network.hidden.bias != "none":
            self.z[-1] = 1.0
        self.source = np.ones(self.V.shape[1])
        self.c = np.zeros(self.n)
        # of each cell's state: with respect to its block's input gate's weights, its own, the forget gate's
        self.P = np.zeros((2 + self.forget, self.n, self.W.shape[1]))

    def _cells(self, gates: ndarray) -> ndarray:
        return gates if self.size == 1 else gates.repeat(self.size)

    def _blocks(self, cells: ndarray) -> ndarray:
        return cells if self.size == 1 else cells.reshape(self.b, self.size, *cells.shape[1:]).sum(1)

    def tick(self, x: ndarray, target: ndarray | None = None) -> ndarray:
        """One symbol x (I): the outputs (O). With a target (O), minus the gradient is added to what `update` takes."""
        z, rows, P = self.z, self.rows, self.P
        z[: self.inputs] = x
        a = self.W @ z
        gate = _logistic(a)
        slope = gate * (1 - gate)
        G, dG = self.G(a[rows["g"]])
        i = self._cells(gate[rows["i"]])
        coefficients = [G * self._cells(slope[rows["i"]]), i * dG]
        if self.forget:
            f = self._cells(gate[rows["f"]])
            coefficients.append(self.c * self._cells(slope[rows["f"]]))
            P *= f[:, None]
            self.c = f * self.c + i * G
        else:
            self.c = self.c + i * G
        for part, coefficient in zip(P, coefficients, strict=True):
            part += coefficient[:, None] * z
        H, dH = self.H(self.c)
        o = 1.0 if self.open else self._cells(gate[rows["o"]])
        h = o * H
        self.source[: self.read] = x[: self.read]
        self.source[self.read : self.read + self.n] = h
        y = _logistic(self.V @ self.source)
        if target is not None:
            e = target - y
            if self.derivative:
                e = e * y * (1 - y)  # (19)
            back = e @ self.V[:, self.read : self.read + self.n]
            self.dV += e[:, None] * self.source
            state = (o * dH * back)[:, None]  # (23)
            self.dW[rows["i"]] += self._blocks(state * P[0])  # (26)
            self.dW[rows["g"]] += state * P[1]  # (28)
            if self.forget:
                self.dW[rows["f"]] += self._blocks(state * P[2])
            if not self.open:
                self.dW[rows["o"]] += (slope[rows["o"]] * self._blocks(H * back))[:, None] * z  # (21), (22)
        if self.fed:
            z[self.inputs : self.inputs + self.n] = h
            if self.fed > self.n:
                at = self.inputs + self.n
                for name in "ifo":
                    count = rows[name].stop - rows[name].start
                    z[at : at + count] = gate[rows[name]]
                    at += count
        return y

    def update(self, lr: float) -> None:
        """Adds lr times what has gathered to the weights, and forgets that."""
        if self.network.hidden.bias == "gates":
            self.dW[~self.biased, -1] = 0.0
        self.W += lr * self.dW
        self.V += lr * self.dV
        self.dW[:] = 0.0
        self.dV[:] = 0.0

    def store(self) -> None:
        """Writes the weights into the network's Parameters."""
        hidden, readout = self.network.hidden, self.network.readout
        parts = {"weight_ih_l0": self.W[:, : self.inputs]}
        if self.fed:
            parts["weight_hh_l0"] = self.W[:, self.inputs : self.inputs + self.fed]
        if hidden.bias != "none":
            parts["bias_ih_l0"] = self.W[self.biased, -1]
        with torch.no_grad():
            for name, value in parts.items():
                getattr(hidden, name).copy_(torch.from_numpy(value))
            readout.weight.copy_(torch.from_numpy(self.V[:, : readout.in_features]))
            if readout.bias is not None:
                readout.bias.copy_(torch.from_numpy(self.V[:, -1]))
