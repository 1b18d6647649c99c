"""The variants as a user would write them with care in plain torch: a loop over the ticks, a function for one tick.

``prepare`` computes whatever needs no recurrent state once and for all ticks: the input product with every bias that
may join it, its normalisation, gates that are constants, transposed views of the weights. ``tick`` has the gates fused
into one product, added to the input's part in the same call (``addmm``), and neighbouring gates in one ``sigmoid``.
``loop`` unbinds the sequences once: indexing them tick by tick makes autograd quadratic in T.

All of it is TorchScript (hence lists of tensors and no future annotations), so that one text serves the eager, the
scripted and the compiled loop. Axes: T ticks, B rows, I inputs, H units, b blocks of S cells.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Tensors = list[Tensor]


class Loop(NamedTuple):
    """``prepare(x (T,B,I), weights, masks) -> (sequences of T, constants)``; ``tick(this tick's part of each sequence,
    states, constants) -> states``. Weights are the layer's, in the order of its ``parameters()``."""

    prepare: Callable
    tick: Callable


def looped(prepare: Callable, tick: Callable) -> Callable[[Tensor, Tensors, Tensors, Tensors], Tensor]:
    """``(x, weights, masks, states) -> out (T,B,H)``."""

    def loop(x: Tensor, weights: Tensors, masks: Tensors, states: Tensors) -> Tensor:
        sequences, constants = prepare(x, weights, masks)
        frames = [s.unbind(0) for s in sequences]
        outs: Tensors = []
        for t in range(x.size(0)):
            states = tick([f[t] for f in frames], states, constants)
            outs.append(states[0])
        return torch.stack(outs)

    return loop


# --- LSTM with masks, with peepholes, with coupled gates -------------------------------------------------------------


def lstm_cell(a: Tensor, c: Tensor) -> Tensors:
    """h and c of the gates i, f, g, o (B,4H) before their nonlinearities."""
    H = c.size(1)
    a_if, a_g, a_o = a.split([2 * H, H, H], 1)
    i, f = torch.sigmoid(a_if).chunk(2, 1)
    c = torch.addcmul(f * c, i, torch.tanh(a_g))
    return [torch.sigmoid(a_o) * torch.tanh(c), c]


def lstm_prepare(x: Tensor, weights: Tensors, masks: Tensors) -> tuple[Tensors, Tensors]:
    w_ih, w_hh, b_ih, b_hh = weights
    return [F.linear(x, w_ih, b_ih + b_hh)], [w_hh.t()]


def zoneout_prepare(x: Tensor, weights: Tensors, masks: Tensors) -> tuple[Tensors, Tensors]:
    """Masks: where h and where c keep their values, bool (T,B,H)."""
    sequences, constants = lstm_prepare(x, weights, masks)
    return sequences + masks, constants


def zoneout_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    h, c = states
    new_h, new_c = lstm_cell(torch.addmm(now[0], h, constants[0]), c)
    return [torch.where(now[1], h, new_h), torch.where(now[2], c, new_c)]


def dropout_prepare(x: Tensor, weights: Tensors, masks: Tensors) -> tuple[Tensors, Tensors]:
    """Mask: what h is multiplied with before the product, (B,H)."""
    sequences, constants = lstm_prepare(x, weights, masks)
    return sequences, constants + masks


def dropout_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    return lstm_cell(torch.addmm(now[0], states[0] * constants[1], constants[0]), states[1])


def peephole_prepare(x: Tensor, weights: Tensors, masks: Tensors) -> tuple[Tensors, Tensors]:
    w_ih, w_hh, b_ih, b_hh, w_ch = weights
    p_i, p_f, p_o = w_ch.chunk(3)
    return [F.linear(x, w_ih, b_ih + b_hh)], [w_hh.t(), p_i, p_f, p_o]


def peephole_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    h, c = states
    w, p_i, p_f, p_o = constants
    a_i, a_f, a_g, a_o = torch.addmm(now[0], h, w).chunk(4, 1)
    i = torch.sigmoid(torch.addcmul(a_i, c, p_i))
    f = torch.sigmoid(torch.addcmul(a_f, c, p_f))
    c = torch.addcmul(f * c, i, torch.tanh(a_g))
    return [torch.sigmoid(torch.addcmul(a_o, c, p_o)) * torch.tanh(c), c]


def coupled_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    h, c = states
    a_i, a_g, a_o = torch.addmm(now[0], h, constants[0]).chunk(3, 1)
    c = torch.lerp(c, torch.tanh(a_g), torch.sigmoid(a_i))
    return [torch.sigmoid(a_o) * torch.tanh(c), c]


# --- layer norm ------------------------------------------------------------------------------------------------------


def layernorm_lstm_prepare(x: Tensor, weights: Tensors, masks: Tensors) -> tuple[Tensors, Tensors]:
    """The input's normalisation takes both biases as its shift."""
    w_ih, w_hh, b_ih, b_hh, ln_ih, ln_hh, ln_c, shift_c = weights
    projected = F.layer_norm(F.linear(x, w_ih), [w_ih.size(0)], ln_ih, b_ih + b_hh)
    return [projected], [w_hh.t(), ln_hh, ln_c, shift_c]


def layernorm_lstm_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    h, c = states
    w, ln_hh, ln_c, shift_c = constants
    H = c.size(1)
    a = now[0] + F.layer_norm(torch.mm(h, w), [4 * H], ln_hh)
    a_if, a_g, a_o = a.split([2 * H, H, H], 1)
    i, f = torch.sigmoid(a_if).chunk(2, 1)
    c = torch.addcmul(f * c, i, torch.tanh(a_g))
    return [torch.sigmoid(a_o) * torch.tanh(F.layer_norm(c, [H], ln_c, shift_c)), c]


def layernorm_carry_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    h, c = states
    w, ln_hh, ln_c, shift_c = constants
    H = c.size(1)
    a = now[0] + F.layer_norm(torch.mm(h, w), [4 * H], ln_hh)
    a_if, a_g, a_o = a.split([2 * H, H, H], 1)
    i, f = torch.sigmoid(a_if).chunk(2, 1)
    c = F.layer_norm(torch.addcmul(f * c, i, torch.tanh(a_g)), [H], ln_c, shift_c)
    return [torch.sigmoid(a_o) * torch.tanh(c), c]


def layernorm_gate_prepare(x: Tensor, weights: Tensors, masks: Tensors) -> tuple[Tensors, Tensors]:
    """Gains and biases of the gates as (4,H)."""
    w_ih, w_hh, b_ih, b_hh, ln, ln_c, shift_c = weights
    H = w_hh.size(1)
    return [F.linear(x, w_ih)], [w_hh.t(), ln.view(4, H), (b_ih + b_hh).view(4, H), ln_c, shift_c]


def layernorm_gate_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    h, c = states
    w, ln, b, ln_c, shift_c = constants
    H = c.size(1)
    a = F.layer_norm(torch.addmm(now[0], h, w).view(-1, 4, H), [H])
    a_i, a_f, a_g, a_o = torch.addcmul(b, a, ln).unbind(1)
    c = torch.addcmul(torch.sigmoid(a_f) * c, torch.sigmoid(a_i), torch.tanh(a_g))
    c = F.layer_norm(c, [H], ln_c, shift_c)
    return [torch.sigmoid(a_o) * torch.tanh(c), c]


def layernorm_gru_prepare(x: Tensor, weights: Tensors, masks: Tensors) -> tuple[Tensors, Tensors]:
    """The input's normalisation takes the biases of r and z, and b_in; the other's takes b_hn."""
    w_ih, w_hh, b_ih, b_hh, ln_ih, ln_hh = weights
    H = w_hh.size(1)
    b_rz, b_n = b_hh.split([2 * H, H])
    zero = torch.zeros_like(b_rz)
    projected = F.layer_norm(F.linear(x, w_ih), [3 * H], ln_ih, b_ih + torch.cat([b_rz, torch.zeros_like(b_n)]))
    x_rz, x_n = projected.split([2 * H, H], 2)
    return [x_rz, x_n], [w_hh.t(), ln_hh, torch.cat([zero, b_n])]


def layernorm_gru_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    h = states[0]
    w, ln_hh, shift = constants
    H = h.size(1)
    u_rz, u_n = F.layer_norm(torch.mm(h, w), [3 * H], ln_hh, shift).split([2 * H, H], 1)
    r, z = torch.sigmoid(now[0] + u_rz).chunk(2, 1)
    n = torch.tanh(torch.addcmul(now[1], r, u_n))
    return [torch.lerp(n, h, z)]


# --- GRUs that reset before the product ------------------------------------------------------------------------------


def gru_prepare(x: Tensor, weights: Tensors, masks: Tensors) -> tuple[Tensors, Tensors]:
    w_ih, w_hh, b_ih, b_hh = weights
    H = w_hh.size(1)
    x_rz, x_n = F.linear(x, w_ih, b_ih + b_hh).split([2 * H, H], 2)
    w_rz, w_n = w_hh.split([2 * H, H])
    return [x_rz, x_n], [w_rz.t(), w_n.t()]


def gru_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    h = states[0]
    r, z = torch.sigmoid(torch.addmm(now[0], h, constants[0])).chunk(2, 1)
    n = torch.tanh(torch.addmm(now[1], r * h, constants[1]))
    return [torch.lerp(n, h, z)]


def gru1_prepare(x: Tensor, weights: Tensors, masks: Tensors) -> tuple[Tensors, Tensors]:
    w_ih, w_hh, b = weights
    H = w_hh.size(1)
    b_rz, b_n = b.split([2 * H, H])
    w_rz, w_n = w_hh.split([2 * H, H])
    return [F.linear(x, w_ih, b_n)], [w_rz.t(), w_n.t(), b_rz]


def gru1_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    h = states[0]
    r, z = torch.sigmoid(torch.addmm(constants[2], h, constants[0])).chunk(2, 1)
    n = torch.tanh(torch.addmm(now[0], r * h, constants[1]))
    return [torch.lerp(h, n, z)]


def gru2_prepare(x: Tensor, weights: Tensors, masks: Tensors) -> tuple[Tensors, Tensors]:
    w_ih, w_hh, b_n = weights
    H = w_hh.size(1)
    w_rz, w_n = w_hh.split([2 * H, H])
    return [F.linear(x, w_ih, b_n)], [w_rz.t(), w_n.t()]


def gru2_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    h = states[0]
    r, z = torch.sigmoid(torch.mm(h, constants[0])).chunk(2, 1)
    n = torch.tanh(torch.addmm(now[0], r * h, constants[1]))
    return [torch.lerp(h, n, z)]


def gru3_prepare(x: Tensor, weights: Tensors, masks: Tensors) -> tuple[Tensors, Tensors]:
    w_ih, w_hh, b = weights
    H = w_hh.size(1)
    b_r, b_z, b_n = b.split([H, H, H])
    return [F.linear(x, w_ih, b_n)], [w_hh.t(), torch.sigmoid(b_r), torch.sigmoid(b_z)]


def gru3_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    h = states[0]
    n = torch.tanh(torch.addmm(now[0], constants[1] * h, constants[0]))
    return [torch.lerp(h, n, constants[2])]


# --- no product, and blocks of cells ---------------------------------------------------------------------------------


def ind_rnn_prepare(x: Tensor, weights: Tensors, masks: Tensors) -> tuple[Tensors, Tensors]:
    w_ih, u, b = weights
    return [F.linear(x, w_ih, b)], [u]


def ind_rnn_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    return [torch.tanh(torch.addcmul(now[0], constants[0], states[0]))]


def lstm1997_prepare(x: Tensor, weights: Tensors, masks: Tensors) -> tuple[Tensors, Tensors]:
    w_ih, w_hh, b = weights
    return [F.linear(x, w_ih, b)], [w_hh.t()]


def lstm1997_cell(a: Tensor, c: Tensor) -> Tensors:
    """States: h (B,H), c (B,b,S), i (B,b), o (B,b). 4 / (1 + exp(-x)) - 2 is 2 tanh(x / 2), the other half of that."""
    blocks, size = c.size(1), c.size(2)
    a_i, a_g, a_o = a.split([blocks, blocks * size, blocks], 1)
    i, o = torch.sigmoid(a_i), torch.sigmoid(a_o)
    c = torch.addcmul(c, i.unsqueeze(2), torch.tanh(0.5 * a_g).view(-1, blocks, size), value=2.0)
    h = (o.unsqueeze(2) * torch.tanh(0.5 * c)).flatten(1)
    return [h, c, i, o]


def lstm1997_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    h, c, i, o = states
    return lstm1997_cell(torch.addmm(now[0], torch.cat([h, i, o], 1), constants[0]), c)


def lstm1997_truncated_tick(now: Tensors, states: Tensors, constants: Tensors) -> Tensors:
    h, c, i, o = states
    return lstm1997_cell(torch.addmm(now[0], torch.cat([h, i, o], 1).detach(), constants[0]), c)


ZONEOUT = Loop(zoneout_prepare, zoneout_tick)
DROPOUT = Loop(dropout_prepare, dropout_tick)
PEEPHOLE = Loop(peephole_prepare, peephole_tick)
COUPLED = Loop(lstm_prepare, coupled_tick)
LAYERNORM_LSTM = Loop(layernorm_lstm_prepare, layernorm_lstm_tick)
LAYERNORM_CARRY = Loop(layernorm_lstm_prepare, layernorm_carry_tick)
LAYERNORM_GATE = Loop(layernorm_gate_prepare, layernorm_gate_tick)
LAYERNORM_GRU = Loop(layernorm_gru_prepare, layernorm_gru_tick)
GRU_BEFORE = Loop(gru_prepare, gru_tick)
GRU1 = Loop(gru1_prepare, gru1_tick)
GRU2 = Loop(gru2_prepare, gru2_tick)
GRU3 = Loop(gru3_prepare, gru3_tick)
IND_RNN = Loop(ind_rnn_prepare, ind_rnn_tick)
LSTM1997 = Loop(lstm1997_prepare, lstm1997_tick)
LSTM1997_TRUNCATED = Loop(lstm1997_prepare, lstm1997_truncated_tick)
