"""One tick of every cell, in the equations of its source.

A cell is `cell(x, rec, *states) -> new states`, states (B,H), the one that feeds back first. `x` (B,G*H) is the
projected input, its bias included, gates side by side in the order of the weight rows. `rec(operand, first=0,
last=None)` is the recurrent product of `operand` (B,H) with the rows of gates first to last, their bias included. To
add a cell, write its function and decorate it: its name is the name of its op.
"""

from collections.abc import Callable

import torch
from torch import Tensor

CELLS: dict[str, Callable[..., tuple[Tensor, ...]]] = {}


def cell(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """Registers `function` in `CELLS` under its own name."""
    CELLS[function.__name__] = function
    return function


@cell
def rnn_tanh(x: Tensor, rec: Callable[..., Tensor], h: Tensor) -> tuple[Tensor]:
    """Elman, "Finding structure in time", 1990: h' = tanh(W x + U h)."""
    return (torch.tanh(x + rec(h)),)


@cell
def rnn_relu(x: Tensor, rec: Callable[..., Tensor], h: Tensor) -> tuple[Tensor]:
    """Le, Jaitly and Hinton, "A simple way to initialize recurrent networks of rectified linear units", 2015."""
    return (torch.relu(x + rec(h)),)


@cell
def lstm(x: Tensor, rec: Callable[..., Tensor], h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Hochreiter and Schmidhuber, "Long short-term memory", 1997, with the forget gate of Gers et al., 2000."""
    i, f, g, o = (x + rec(h)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@cell
def gru(x: Tensor, rec: Callable[..., Tensor], h: Tensor) -> tuple[Tensor]:
    """Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014; reset after the product."""
    xr, xz, xn = x.chunk(3, -1)
    ur, uz, un = rec(h).chunk(3, -1)
    r, z = (xr + ur).sigmoid(), (xz + uz).sigmoid()
    n = torch.tanh(xn + r * un)
    return (n + z * (h - n),)


@cell
def minimal_gru(x: Tensor, rec: Callable[..., Tensor], h: Tensor) -> tuple[Tensor]:
    """Zhou et al., "Minimal gated unit for recurrent neural networks", 2016: the gate before the product."""
    xf, xn = x.chunk(2, -1)
    f = (xf + rec(h, 0, 1)).sigmoid()
    n = torch.tanh(xn + rec(f * h, 1, 2))
    return ((1 - f) * h + f * n,)
