"""The Neural Turing Machine in plain torch, to be read beside its paper.

Source: Graves, Wayne and Danihelka, "Neural Turing Machines", arXiv 1410.5401, 2014; equation numbers are its own.
Axes: T ticks, B rows of the batch, I inputs, O outputs, H hidden units, N memory rows, M numbers of a row, R read
heads, W write heads, K heads (reads, then writes), S shifts, P numbers that all heads take. Nothing here loops over the
batch or over the memory.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, softplus

from ..options import GRAVES2014, Conventions
from .cells import CELLS

__all__ = [
    "FLOOR",
    "Heads",
    "activate",
    "address",
    "controller_layers",
    "ntm",
    "read",
    "split_heads",
    "step",
    "tick",
    "write",
]

FLOOR = 1e-30  # added to every entry of a weighting before its logarithm is taken
LARGE = 50.0  # from here on softplus is the identity to the last bit, of float64 too, and e^a may overflow


class Heads(NamedTuple):
    """What heads take: key (B,K,M), strength, gate and sharpening (B,K,1), shifts (B,K,S), erase and add (B,W,M)."""

    key: Tensor
    strength: Tensor
    gate: Tensor
    shifts: Tensor
    sharpening: Tensor
    erase: Tensor
    add: Tensor


def similarity(key: Tensor, memory: Tensor, c: Conventions) -> Tensor:
    """The cosine of each key with each memory row, guarded where either is zero: (B,K,N). Eq. 6."""
    norms = key.norm(dim=-1).unsqueeze(-1) * memory.norm(dim=-1).unsqueeze(-2)
    guarded = norms + c.similarity_eps if c.similarity_guard == "sum" else norms.clamp_min(c.similarity_eps)
    return key @ memory.mT / guarded


def shift(w: Tensor, distribution: Tensor, c: Conventions) -> Tensor:
    """Each weighting moved by each shift, +1 from row i to i + 1, and mixed. Eq. 8."""
    shifts = range(-c.shift_range, c.shift_range + 1)
    moved = [w.roll(k, -1) for k in (reversed(shifts) if c.reversed_shift else shifts)]
    return (torch.stack(moved, -1) @ distribution.unsqueeze(-1)).squeeze(-1)


def sharpen(w: Tensor, gamma: Tensor, c: Conventions) -> Tensor:
    """w^gamma over its sum, by logarithms: no power of zero has a gradient to turn to NaN. Eq. 9."""
    logs = gamma * (w + FLOOR).log()
    if not c.sharpen_eps:
        return logs.softmax(-1)
    powers = logs.exp()
    return powers / (powers.sum(-1, keepdim=True) + c.sharpen_eps)


def address(memory: Tensor, weighting: Tensor, h: Heads, c: Conventions) -> Tensor:
    """The heads' weightings (B,K,N) from those of the tick before (B,K,N) and the memory (B,N,M). Eqs 5 to 9."""
    by_content = (h.strength * similarity(h.key, memory, c)).softmax(-1)
    gated = h.gate * by_content + (1 - h.gate) * weighting
    return sharpen(shift(gated, h.shifts, c), h.sharpening, c)


def read(memory: Tensor, weighting: Tensor) -> Tensor:
    """What heads of these weightings (B,R,N) read of a memory (B,N,M): (B,R,M). Eq. 2."""
    return weighting @ memory


def write(memory: Tensor, weighting: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """The memory (B,N,M) after heads of these weightings (B,W,N) erased, all of them, then added (B,W,M). Eqs 3, 4."""
    erased = memory
    for w, e in zip(weighting.unbind(1), erase.unbind(1)):
        erased = erased * (1 - w.unsqueeze(-1) * e.unsqueeze(-2))
    return erased + weighting.mT @ add


def split_heads(parameters: Tensor, width: int, c: Conventions) -> Heads:
    """What the heads take (B,P), in the order of `rnnkernels.functional.ntm`, taken apart."""
    split, size = c.read_heads * c.head_size(width, False), c.head_size(width, False)
    reads = parameters[:, :split].unflatten(-1, (c.read_heads, -1)) if c.read_heads else parameters[:, None, :0]
    writes = parameters[:, split:].unflatten(-1, (c.write_heads, -1)) if c.write_heads else parameters[:, None, :0]
    common = [part[..., :size] for part, heads in ((reads, c.read_heads), (writes, c.write_heads)) if heads]
    key, strength, gate, shifts, sharpening = torch.cat(common, 1).split([width, 1, 1, c.shifts, 1], -1)
    erase, add = writes[..., size:].split(width, -1) if c.write_heads else (key[:, :0], key[:, :0])
    return Heads(key, strength, gate, shifts, sharpening, erase, add)


def activate(heads: Heads, c: Conventions) -> Heads:
    """What the heads take, past its activations, if it is not yet."""
    if c.activated:
        return heads
    if c.head_clip:
        heads = Heads(*(part.clamp(-c.head_clip, c.head_clip) for part in heads))
    return Heads(
        heads.key.tanh() if c.key_activation == "tanh" else heads.key,
        softplus(heads.strength, threshold=LARGE),
        heads.gate.sigmoid(),
        heads.shifts.softmax(-1),
        1 + softplus(heads.sharpening, threshold=LARGE),
        heads.erase.sigmoid(),
        heads.add.tanh() if c.add_activation == "tanh" else heads.add,
    )


def step(parameters: Tensor, memory: Tensor, weightings: Tensor, c: Conventions) -> tuple[Tensor, Tensor, Tensor]:
    """One tick of all heads: what is read (B,R,M), and memory (B,N,M) and weightings (B,K,N) after it."""
    h = activate(split_heads(parameters, memory.size(-1), c), c)
    R = c.read_heads
    if c.order == "read_first":
        w = address(memory, weightings, h, c)
        memory_after = write(memory, w[:, R:], h.erase, h.add) if c.write_heads else memory
        return read(memory, w[:, :R]), memory_after, w
    reads, after = [], list(weightings.unbind(1))
    for read_heads, write_heads in c.phases():
        of = [*read_heads, *(R + k for k in write_heads)]
        if not of:
            continue
        w = address(memory, weightings[:, of], Heads(*(part[:, of] for part in h[:5]), h.erase, h.add), c)
        for k, head in enumerate(of):
            after[head] = w[:, k]
        if read_heads:
            reads.append(read(memory, w[:, : len(read_heads)]))
        if write_heads:
            k = list(write_heads)
            memory = write(memory, w[:, len(read_heads) :], h.erase[:, k], h.add[:, k])
    return torch.cat(reads, 1) if reads else memory[:, :0], memory, torch.stack(after, 1)


def controller_layers(flat: Tensor, inputs: int, hidden: int, c: Conventions) -> list[tuple[Tensor, Tensor]]:
    """Weights (gates*H, inputs and, where it is recurrent, H) and bias of each layer, which lie one after another."""
    gates, layers, at = (4 if c.recurrent else 1) * hidden, [], 0
    for layer in range(c.layers):
        width = (hidden if layer else inputs) + hidden * c.recurrent
        weight, bias = flat[at : at + gates * width], flat[at + gates * width : at + gates * (width + 1)]
        layers.append((weight.view(gates, width), bias))
        at += gates * (width + 1)
    return layers


def tick(
    x: Tensor,
    layers: list[tuple[Tensor, Tensor]],
    w_heads: Tensor,
    b_heads: Tensor | None,
    w_out: Tensor,
    b_out: Tensor | None,
    h: list[Tensor],
    c: list[Tensor],
    memory: Tensor,
    reads: Tensor,
    weightings: Tensor,
    conventions: Conventions,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor, Tensor, Tensor]:
    """One tick of the whole machine: x (B,I), the outputs (B,O), and the states after it, h and c by layer (B,H)."""
    z, h, c = torch.cat((x, reads.flatten(1)), 1), list(h), list(c)
    for k, (weight, bias) in enumerate(layers):
        if conventions.recurrent:
            pre = linear(torch.cat((z, h[k]), 1), weight, bias)
            h[k], c[k] = CELLS["lstm"](pre, lambda *_: 0, h[k], c[k])
            z = h[k]
        else:
            z = linear(z, weight, bias).tanh()
    reads, memory, weightings = step(linear(z, w_heads, b_heads), memory, weightings, conventions)
    y = linear(torch.cat((z, reads.flatten(1)), 1), w_out, b_out)
    if conventions.output_clip:
        y = y.clamp(-conventions.output_clip, conventions.output_clip)
    return y, h, c, memory, reads, weightings


def ntm(
    x: Tensor,
    controller: Tensor,
    w_heads: Tensor,
    b_heads: Tensor | None,
    w_out: Tensor,
    b_out: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    memory: Tensor,
    reads: Tensor,
    weightings: Tensor,
    lengths: Tensor | None = None,
    conventions: Conventions = GRAVES2014,
) -> tuple[Tensor, ...]:
    """The whole machine over a sequence; arguments and results are those of `rnnkernels.functional.ntm`."""
    layers = controller_layers(controller, x.size(2) + reads.size(1) * reads.size(2), w_heads.size(1), conventions)
    state, ys = (list(h0.unbind(0)), list(c0.unbind(0)), memory, reads, weightings), []
    if lengths is not None:  # what stands past a row's end, even NaN, has no part in any derivative
        alive_at = (torch.arange(x.size(0), device="cpu").unsqueeze(1) < lengths).to(x.device)
        x = torch.where(alive_at.unsqueeze(2), x, 0.0)
    for t, x_t in enumerate(x.unbind(0)):
        y, *after = tick(x_t, layers, w_heads, b_heads, w_out, b_out, *state, conventions)
        if lengths is not None:
            alive = alive_at[t]

            def kept(new: Tensor, old: Tensor, alive: Tensor = alive) -> Tensor:
                return torch.where(alive.view(-1, *[1] * (new.dim() - 1)), new, old)

            h, c = ([kept(n, o) for n, o in zip(after[k], state[k], strict=True)] for k in range(2))
            after = (h, c, *(kept(n, o) for n, o in zip(after[2:], state[2:], strict=True)))
            y = torch.where(alive.unsqueeze(1), y, 0.0)
        state = after
        ys.append(y)
    h, c, *rest = state
    return torch.stack(ys), torch.stack(h) if h else h0, torch.stack(c) if c else c0, *rest
