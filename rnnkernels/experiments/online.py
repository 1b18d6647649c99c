"""Online learning: one sequence, one update, with as little around the layer as can be.

The output layer, its derivative and the update are written out in numpy on the parameters' own memory: on a network of
twelve cells the layer itself takes hardly longer than an optimiser object does, and numpy's operations on so few
numbers cost a third of torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from ..tasks.networks import Network

__all__ = ["Adam", "Online", "Sgd", "optimiser"]


class Sgd:
    """Plain gradient descent: p -= lr g. The parameters become views of one buffer."""

    def __init__(self, parameters: Sequence[Tensor], lr: float) -> None:
        flat = torch.cat([p.detach().flatten() for p in parameters])
        for p, view in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.data = view.view_as(p)
        self.flat, self.gradient, self.lr = flat.numpy(), np.empty_like(flat.numpy()), lr

    def __call__(self, gradients: Sequence[ndarray]) -> None:
        g = np.concatenate([g.ravel() for g in gradients], out=self.gradient)
        g *= self.lr
        self.flat -= g


class Adam(Sgd):
    """Kingma and Ba 2014.

    Args:
        lr: step size.
        clip: the whole gradient is scaled down to this norm where it is longer; 0: never.
        betas, eps: Adam's.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        lr: float,
        clip: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, lr)
        self.mean, self.square = np.zeros_like(self.flat), np.zeros_like(self.flat)
        self.clip, self.betas, self.eps, self.steps = clip, betas, eps, 0

    def __call__(self, gradients: Sequence[ndarray]) -> None:
        g = np.concatenate([g.ravel() for g in gradients], out=self.gradient)
        if self.clip and (norm := float(g @ g) ** 0.5) > self.clip:
            g *= self.clip / norm
        self.steps += 1
        b1, b2 = self.betas
        self.mean *= b1
        self.mean += (1 - b1) * g
        self.square *= b2
        g *= g
        g *= 1 - b2
        self.square += g
        root = np.sqrt(self.square, out=g)
        root *= (1 - b2**self.steps) ** -0.5
        root += self.eps
        step = np.divide(self.mean, root, out=g)
        step *= self.lr / (1 - b1**self.steps)
        self.flat -= step


def optimiser(name: str, lr: float, clip: float = 0.0) -> Callable[[Sequence[Tensor]], Sgd]:
    """ "sgd" or "adam", still to be given its parameters."""
    if name not in ("sgd", "adam") or (name == "sgd" and clip):
        raise ValueError(f"optimiser: expected 'sgd' without clip or 'adam', got {name!r}, clip {clip}")
    return (
        (lambda parameters: Sgd(parameters, lr)) if name == "sgd" else (lambda parameters: Adam(parameters, lr, clip))
    )


class Online:
    """Trains a network one sequence at a time.

    Args:
        network: its outputs are held against targets in [0, 1].
        step: makes the optimiser of the parameters that are trained.
        derivative: the error sent back is (y - target) f'(net), as with the squared error of eq. (19) of the 1997
            paper; without, y - target, as with cross entropy.
        softmax: the outputs are one distribution instead of each logistic; without `derivative`.
    """

    def __init__(
        self, network: Network, step: Callable[[Sequence[Tensor]], Sgd], derivative: bool = True, softmax: bool = False
    ) -> None:
        if softmax and derivative:
            raise ValueError("softmax: expected without derivative, which is that of the logistic function")
        self.network, self.derivative, self.softmax = network, derivative, softmax
        self.trained = [p for p in network.hidden.parameters() if p.requires_grad]
        readout = network.readout
        self.step = step([*self.trained, *readout.parameters()])
        self.W, self.b = (
            readout.weight.detach().numpy(),
            None if readout.bias is None else readout.bias.detach().numpy(),
        )
        self.V = self.W[:, -network.units :]  # what is read of the hidden layer
        self.errors: dict[int, Tensor] = {}  # zeros by number of ticks, to send back a few ticks' errors

    def learn(self, x: Tensor, target: Tensor, hx: Any = None) -> tuple[ndarray, Any]:
        """One sequence, one update.

        Args:
            x: (T,1,I).
            target: (K,O), wanted at the last K ticks.
            hx: the hidden layer's state before; no gradient goes there.

        Returns:
            The outputs (K,O) before the update, and the hidden layer's state.
        """
        ticks, K = x.size(0), target.size(0)
        out, hx = self.network.hidden(x, hx)
        z = out.detach().numpy()[ticks - K :, 0]
        if self.network.reads_inputs:
            z = np.concatenate((x.numpy()[ticks - K :, 0], z), 1)
        net = z @ self.W.T
        if self.b is not None:
            net += self.b
        if self.softmax:
            net -= net.max(1, keepdims=True)
            y = np.exp(net)
            y /= y.sum(1, keepdims=True)
        else:
            y = 1.0 / (1.0 + np.exp(-net))
        error = y - target.numpy()
        if self.derivative:
            error *= y * (1.0 - y)
        back = error @ self.V
        if ticks == K:
            sent = torch.from_numpy(back).unsqueeze(1)
        else:
            if ticks not in self.errors:
                self.errors[ticks] = torch.zeros_like(out)
            sent = self.errors[ticks]  # all zero before the last K
            sent.numpy()[ticks - K :, 0] = back
        gradients = [g.numpy() for g in torch.autograd.grad(out, self.trained, sent)]
        gradients.append(error.T @ z)
        if self.b is not None:
            gradients.append(error.sum(0))
        self.step(gradients)
        return y, hx
