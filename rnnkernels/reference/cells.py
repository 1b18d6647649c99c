"""One tick of every cell, in the equations of its source.

A cell is `cell(x, rec, *states) -> new states`, states (B,H), the one that feeds back first. `x` (B,G*H) is the
projected input, its bias included, gates side by side in the order of the weight rows; gates that take no input come
first and find their bias there, or zero. `rec(operand, first=0, last=None)` is the recurrent product of `operand` (B,H)
with the rows of gates first to last, their bias included; a cell whose gates may feed back beside h passes them as
`gates=`. A cell that needs more takes a keyword `tick`, a `Tick`: parameters per unit, its free nonlinearities, and
what options change inside a cell. States called i, f and o are gates of memory blocks, (B,blocks). To add a cell, write
its function and decorate it: its name is the name of its op.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from ..options import Options

Cell = Callable[..., tuple[Tensor, ...]]

CELLS: dict[str, Cell] = {}
STATES: dict[str, tuple[str, ...]] = {}

SQUASH: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "logistic": torch.sigmoid,
    "identity": lambda a: a,
    "g1997": lambda a: 4 * a.sigmoid() - 2,
    "h1997": lambda a: 2 * a.sigmoid() - 1,
}


class Tick(NamedTuple):
    """What a cell may ask for besides its input, product and states. The defaults change nothing.

    Attributes:
        unit: parameters per unit (K*H), or None for a cell without.
        mask: multiplies what feeds back where it enters a product, (B,P), or None.
        options: of the layer.
    """

    unit: Tensor | None = None
    mask: Tensor | None = None
    options: Options = Options()

    def units(self, *counts: int) -> tuple[Tensor, ...]:
        """The parameters per unit in pieces of `counts` rows of H."""
        hidden = self.unit.numel() // sum(counts)
        return self.unit.split([count * hidden for count in counts])

    def squash(self, *own: str) -> list[Callable[[Tensor], Tensor]]:
        """As many free nonlinearities as the cell names of its own: the caller's, or else these."""
        return [SQUASH[name] for name, _ in zip(self.options.squash or own, own, strict=False)]

    def stop(self, state: Tensor) -> Tensor:
        """`state` where it feeds back: without gradient if that is truncated."""
        return state.detach() if self.options.truncated else state

    def fed(self, operand: Tensor) -> Tensor:
        """`operand`, made of h, where it enters a recurrent product: masked, without gradient if truncated."""
        return self.stop(operand if self.mask is None else self.mask * operand)

    def clip(self, c: Tensor) -> Tensor:
        """The new cell state within the limit; no gradient where it is at the limit, whether it was cut or not."""
        limit = self.options.cell_clip
        return torch.where(c.abs() >= limit, c.detach().clamp(-limit, limit), c) if limit else c

    def norm(self, a: Tensor, groups: int = 1) -> Tensor:
        """Layer normalisation of each of `groups` equal parts of `a` alone, biased variance, without gain and shift."""
        parts = a.unflatten(-1, (groups, -1))
        return layer_norm(parts, parts.shape[-1:], eps=self.options.eps).flatten(-2)

    def cells(self, gate: Tensor) -> Tensor:
        """The gate (B, blocks) of every cell (B,H): cells of a memory block stand side by side and share it."""
        return gate.repeat_interleave(self.options.block_size, -1)


PLAIN = Tick()


def state_names(function: Cell) -> tuple[str, ...]:
    """The names of the states of a cell, the one that feeds back first: "h", "c"; "i", "f", "o" are gates."""
    return tuple(name for name in list(inspect.signature(function).parameters)[2:] if name != "tick")


def cell(function: Cell) -> Cell:
    """Registers `function` in `CELLS`, and the names of its states in `STATES`, under its own name."""
    CELLS[function.__name__], STATES[function.__name__] = function, state_names(function)
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
def rnn_logistic(x: Tensor, rec: Callable[..., Tensor], h: Tensor) -> tuple[Tensor]:
    """Williams and Zipser, "A learning algorithm for continually running fully recurrent neural networks", 1989."""
    return (torch.sigmoid(x + rec(h)),)


@cell
def lstm(x: Tensor, rec: Callable[..., Tensor], h: Tensor, c: Tensor, tick: Tick = PLAIN) -> tuple[Tensor, Tensor]:
    """Hochreiter and Schmidhuber, "Long short-term memory", 1997, with the forget gate of Gers et al., 2000."""
    i, f, g, o = (x + rec(h)).chunk(4, -1)
    c = tick.clip(f.sigmoid() * c + i.sigmoid() * g.tanh())
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


@cell
def peephole_lstm(
    x: Tensor, rec: Callable[..., Tensor], h: Tensor, c: Tensor, tick: Tick = PLAIN
) -> tuple[Tensor, Tensor]:
    """Gers, Schraudolph and Schmidhuber, "Learning precise timing with LSTM recurrent networks", 2002."""
    G, S = tick.squash("tanh", "tanh")
    pi, pf, po = tick.units(1, 1, 1)
    i, f, g, o = (x + rec(h)).chunk(4, -1)
    i, f = (i + pi * tick.stop(c)).sigmoid(), (f + pf * tick.stop(c)).sigmoid()
    c = tick.clip(f * c + i * G(g))
    o = (o + po * tick.stop(c)).sigmoid()
    return o * S(c), c


@cell
def coupled_lstm(
    x: Tensor, rec: Callable[..., Tensor], h: Tensor, c: Tensor, tick: Tick = PLAIN
) -> tuple[Tensor, Tensor]:
    """Greff et al., "LSTM: a search space odyssey", 2015, without peepholes: what is not written is kept."""
    i, g, o = (x + rec(h)).chunk(3, -1)
    i = i.sigmoid()
    c = tick.clip((1 - i) * c + i * g.tanh())
    return o.sigmoid() * c.tanh(), c


@cell
def gru_before(x: Tensor, rec: Callable[..., Tensor], h: Tensor, tick: Tick = PLAIN) -> tuple[Tensor]:
    """Cho et al., 2014, as last published: reset before the product."""
    (A,) = tick.squash("tanh")
    xr, xz, xn = x.chunk(3, -1)
    ur, uz = rec(h, 0, 2).chunk(2, -1)
    r, z = (xr + ur).sigmoid(), (xz + uz).sigmoid()
    n = A(xn + rec(r * h, 2, 3))
    return ((1 - z) * n + z * h,)


@cell
def gru1(x: Tensor, rec: Callable[..., Tensor], h: Tensor, tick: Tick = PLAIN) -> tuple[Tensor]:
    """Dey and Salem, "Gate-variants of gated recurrent unit neural networks", 2017: gates of h and a bias."""
    (A,) = tick.squash("tanh")
    br, bz, xn = x.chunk(3, -1)
    ur, uz = rec(h, 0, 2).chunk(2, -1)
    r, z = (br + ur).sigmoid(), (bz + uz).sigmoid()
    n = A(xn + rec(r * h, 2, 3))
    return ((1 - z) * h + z * n,)


@cell
def gru2(x: Tensor, rec: Callable[..., Tensor], h: Tensor, tick: Tick = PLAIN) -> tuple[Tensor]:
    """Dey and Salem, 2017: gates of h alone."""
    (A,) = tick.squash("tanh")
    _, _, xn = x.chunk(3, -1)
    r, z = rec(h, 0, 2).sigmoid().chunk(2, -1)
    n = A(xn + rec(r * h, 2, 3))
    return ((1 - z) * h + z * n,)


@cell
def gru3(x: Tensor, rec: Callable[..., Tensor], h: Tensor, tick: Tick = PLAIN) -> tuple[Tensor]:
    """Dey and Salem, 2017: gates of a bias alone, the same at every tick, given already activated."""
    (A,) = tick.squash("tanh")
    r, z = tick.units(1, 1)
    n = A(x + rec(r * h))
    return ((1 - z) * h + z * n,)


@cell
def ind_rnn(x: Tensor, rec: Callable[..., Tensor], h: Tensor, tick: Tick = PLAIN) -> tuple[Tensor]:
    """Li et al., "Independently recurrent neural network (IndRNN)", 2018: the recurrent product is elementwise."""
    (A,) = tick.squash("tanh")
    return (A(x + tick.unit * tick.fed(h)),)


@cell
def layernorm_lstm(
    x: Tensor, rec: Callable[..., Tensor], h: Tensor, c: Tensor, tick: Tick = PLAIN
) -> tuple[Tensor, Tensor]:
    """Ba, Kiros and Hinton, "Layer normalization", 2016: c is normalised on its way out, and carried as it is."""
    gain_ih, gain_hh, b, gain_c, shift_c = tick.units(4, 4, 4, 1, 1)
    i, f, g, o = (gain_ih * tick.norm(x) + gain_hh * tick.norm(rec(h)) + b).chunk(4, -1)
    c = tick.clip(f.sigmoid() * c + i.sigmoid() * g.tanh())
    return o.sigmoid() * torch.tanh(gain_c * tick.norm(c) + shift_c), c


@cell
def layernorm_lstm_carry(
    x: Tensor, rec: Callable[..., Tensor], h: Tensor, c: Tensor, tick: Tick = PLAIN
) -> tuple[Tensor, Tensor]:
    """The same with the normalised c carried on, as in PyTorch's example of custom LSTMs."""
    gain_ih, gain_hh, b, gain_c, shift_c = tick.units(4, 4, 4, 1, 1)
    i, f, g, o = (gain_ih * tick.norm(x) + gain_hh * tick.norm(rec(h)) + b).chunk(4, -1)
    c = gain_c * tick.norm(tick.clip(f.sigmoid() * c + i.sigmoid() * g.tanh())) + shift_c
    return o.sigmoid() * c.tanh(), c


@cell
def layernorm_lstm_gate(
    x: Tensor, rec: Callable[..., Tensor], h: Tensor, c: Tensor, tick: Tick = PLAIN
) -> tuple[Tensor, Tensor]:
    """Each gate's sum normalised alone, the normalised c carried, as TensorFlow 1's LayerNormBasicLSTMCell does."""
    gain, b, gain_c, shift_c = tick.units(4, 4, 1, 1)
    i, f, g, o = (gain * tick.norm(x + rec(h), 4) + b).chunk(4, -1)
    c = gain_c * tick.norm(tick.clip(f.sigmoid() * c + i.sigmoid() * g.tanh())) + shift_c
    return o.sigmoid() * c.tanh(), c


@cell
def layernorm_gru(x: Tensor, rec: Callable[..., Tensor], h: Tensor, tick: Tick = PLAIN) -> tuple[Tensor]:
    """Ba, Kiros and Hinton, 2016, on the GRU that resets after the product: both products normalised whole."""
    gain_ih, gain_hh, br, bz, bn, bhn = tick.units(3, 3, 1, 1, 1, 1)
    xr, xz, xn = (gain_ih * tick.norm(x)).chunk(3, -1)
    ur, uz, un = (gain_hh * tick.norm(rec(h))).chunk(3, -1)
    r, z = (xr + ur + br).sigmoid(), (xz + uz + bz).sigmoid()
    n = torch.tanh(xn + bn + r * (un + bhn))
    return ((1 - z) * n + z * h,)


@cell
def layernorm_gru_gate(x: Tensor, rec: Callable[..., Tensor], h: Tensor, tick: Tick = PLAIN) -> tuple[Tensor]:
    """The same with each gate's sum normalised alone."""
    gain_r, gain_z, gain_n, br, bz, bn = tick.units(1, 1, 1, 1, 1, 1)
    xr, xz, xn = x.chunk(3, -1)
    ur, uz, un = rec(h).chunk(3, -1)
    r = (gain_r * tick.norm(xr + ur) + br).sigmoid()
    z = (gain_z * tick.norm(xz + uz) + bz).sigmoid()
    n = torch.tanh(gain_n * tick.norm(xn + r * un) + bn)
    return ((1 - z) * n + z * h,)


@cell
def lstm1997(
    x: Tensor, rec: Callable[..., Tensor], h: Tensor, i: Tensor, o: Tensor, c: Tensor, tick: Tick = PLAIN
) -> tuple[Tensor, ...]:
    """Hochreiter and Schmidhuber, 1997, eqs (3) to (9): blocks of cells that share their gates, which feed back too."""
    G, S = tick.squash("g1997", "h1997")
    i, g, o = (x + rec(h, gates=(i, o))).split([i.size(-1), c.size(-1), o.size(-1)], -1)
    i, o = i.sigmoid(), o.sigmoid()
    c = tick.clip(c + tick.cells(i) * G(g))
    return tick.cells(o) * S(c), i, o, c


@cell
def lstm1997_forget(
    x: Tensor, rec: Callable[..., Tensor], h: Tensor, i: Tensor, f: Tensor, o: Tensor, c: Tensor, tick: Tick = PLAIN
) -> tuple[Tensor, ...]:
    """The same with a forget gate to each block: Gers, Schmidhuber and Cummins, "Learning to forget", 2000."""
    G, S = tick.squash("g1997", "h1997")
    i, f, g, o = (x + rec(h, gates=(i, f, o))).split([i.size(-1), f.size(-1), c.size(-1), o.size(-1)], -1)
    i, f, o = i.sigmoid(), f.sigmoid(), o.sigmoid()
    c = tick.clip(tick.cells(f) * c + tick.cells(i) * G(g))
    return tick.cells(o) * S(c), i, f, o, c


@cell
def lstm1997_open(
    x: Tensor, rec: Callable[..., Tensor], h: Tensor, i: Tensor, c: Tensor, tick: Tick = PLAIN
) -> tuple[Tensor, ...]:
    """`lstm1997` without output gate, as in experiments 2a and 2b of the paper."""
    G, S = tick.squash("g1997", "h1997")
    i, g = (x + rec(h, gates=(i,))).split([i.size(-1), c.size(-1)], -1)
    i = i.sigmoid()
    c = tick.clip(c + tick.cells(i) * G(g))
    return S(c), i, c


@cell
def lstm1997_forget_open(
    x: Tensor, rec: Callable[..., Tensor], h: Tensor, i: Tensor, f: Tensor, c: Tensor, tick: Tick = PLAIN
) -> tuple[Tensor, ...]:
    """`lstm1997_forget` without output gate."""
    G, S = tick.squash("g1997", "h1997")
    i, f, g = (x + rec(h, gates=(i, f))).split([i.size(-1), f.size(-1), c.size(-1)], -1)
    i, f = i.sigmoid(), f.sigmoid()
    c = tick.clip(tick.cells(f) * c + tick.cells(i) * G(g))
    return S(c), i, f, c
