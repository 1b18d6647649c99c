"""One face for the two ways to learn online: after every sequence, and after every symbol."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from ..tasks.networks import Network
from ..tasks.sequences import Batch
from .online import Online, optimiser
from .recursion import Recursion

__all__ = ["UPDATES", "PerSymbol", "learner", "outputs_at_end"]

UPDATES = ("sequence", "symbol")


class PerSymbol:
    """The face of `Online` over `Recursion`: weights change after every symbol that has a target."""

    def __init__(self, network: Network, lr: float, derivative: bool) -> None:
        self.recursion, self.lr = Recursion(network, derivative), lr

    def learn(self, x: Tensor, target: Tensor, hx: Any = None) -> tuple[ndarray, Any]:
        """As `Online.learn`; `hx` any value that is true goes on from the sequence before."""
        if not hx:
            self.recursion.start()
        ticks, wanted = x[:, 0].double().numpy(), target.double().numpy()
        quiet = len(ticks) - len(wanted)
        outputs = []
        for t, tick in enumerate(ticks):
            if t < quiet:
                self.recursion.tick(tick)
            else:
                outputs.append(self.recursion.tick(tick, wanted[t - quiet]))
                self.recursion.update(self.lr)
        return np.stack(outputs), True

    def store(self) -> None:
        self.recursion.store()


class _PerSequence(Online):
    def store(self) -> None:
        """The network is always up to date."""


def learner(network: Network, options: dict[str, Any]) -> PerSymbol | _PerSequence:
    """What trains this network: `learn(x, target) -> (outputs, state)`, and `store()` before the network is used.

    Args:
        options: update, optimiser ("sgd" or "adam"), lr, derivative, and perhaps clip and outputs ("logistic", else
            "softmax").
    """
    update, name, clip = options["update"], options["optimiser"], options.get("clip", 0.0)
    if update not in UPDATES:
        raise ValueError(f"update: expected one of {', '.join(UPDATES)}, got {update!r}")
    outputs = options.get("outputs", "logistic")
    if outputs not in ("logistic", "softmax"):
        raise ValueError(f"outputs: expected 'logistic' or 'softmax', got {outputs!r}")
    if update == "symbol":
        if outputs != "logistic" or name != "sgd" or network.hidden.gradient != "truncated":
            raise ValueError("update='symbol': expected optimiser='sgd', gradient='truncated' and logistic outputs")
        return PerSymbol(network, options["lr"], options["derivative"])
    return _PerSequence(network, optimiser(name, options["lr"], clip), options["derivative"], outputs == "softmax")


@torch.no_grad()
def outputs_at_end(network: Network, batch: Batch) -> Tensor:
    """The outputs (B,O) at each sequence's last tick."""
    out, _ = network.hidden(batch.x)
    if network.reads_inputs:
        out = torch.cat((batch.x, out), -1)
    return network.readout(batch.ends(out)).sigmoid()
