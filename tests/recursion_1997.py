"""The gradient of LSTM1997 as its paper computes it: forward in time, by partial derivatives carried along.

Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997, appendix A.1, eqs (19) to (28);
with a forget gate, Gers, Schmidhuber and Cummins, "Learning to forget", 2000. It shares nothing with the package: no
autograd, no walk backwards, one sequence at a time.
"""

import torch
from torch import Tensor

# Each nonlinearity with its derivative in terms of its value.
SQUASH = {
    "g1997": (lambda a: 4 / (1 + torch.exp(-a)) - 2, lambda y: 1 - y * y / 4),
    "h1997": (lambda a: 2 / (1 + torch.exp(-a)) - 1, lambda y: (1 - y * y) / 2),
    "logistic": (lambda a: 1 / (1 + torch.exp(-a)), lambda y: y * (1 - y)),
    "tanh": (torch.tanh, lambda y: 1 - y * y),
    "identity": (lambda a: a, torch.ones_like),
}


def recursion(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor | None,
    b_ih: Tensor,
    error: Tensor,
    *,
    block_size: int = 1,
    forget_gate: bool = False,
    output_gate: bool = True,
    squash: tuple[str, str] = ("g1997", "h1997"),
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Outputs of one sequence from zero states, and the truncated gradient by all weights.

    Axes: T ticks, I inputs, H cells in blocks of `block_size`, R rows: a gate's one for each block, the cells' H.

    Args:
        x: input (T,I).
        w_ih: weights (R,I), rows in the order input gates, [forget gates], cells, [output gates].
        w_hh: weights (R,H), or (R,H+gates) where the gates feed back too, columns in the order cells, input gates,
            [forget gates], [output gates]; None without recurrence.
        b_ih: biases (R).
        error: (T,H), the gradient of the loss by the outputs. Given sum_k w_k,jv e_k of eq. (19) instead, which points
            downhill, the results are the paper's weight changes at a rate of one.
        block_size: cells of a block (S).
        forget_gate, output_gate: which gates there are.
        squash: g and h, names in `SQUASH`.

    Returns:
        `(outputs (T,H), by w_ih, by w_hh or None, by b_ih)`.
    """
    T, inputs = x.shape
    gates = 1 + forget_gate + output_gate
    blocks = w_ih.size(0) // (gates + block_size)
    cells = blocks * block_size
    sizes = [blocks, *[blocks] * forget_gate, cells, *[blocks] * output_gate]
    (g, dg), (h, dh) = (SQUASH[name] for name in squash)
    f, df = SQUASH["logistic"]
    columns = 0 if w_hh is None else w_hh.size(1)
    weight = torch.cat([w_ih, *([] if w_hh is None else [w_hh]), b_ih[:, None]], 1)  # (R,M) of M sources
    gradient = torch.zeros_like(weight)
    by_in, *by_forget, by_cell = gradient.split(sizes)[: 2 + forget_gate]  # views into it
    by_out = gradient.split(sizes)[-1]

    def share(gate: Tensor) -> Tensor:
        return gate.repeat_interleave(block_size, 0)

    s = x.new_zeros(cells)
    y = x.new_zeros(cells + gates * blocks)  # what may feed back: cells, gates
    ds_in = x.new_zeros(cells, weight.size(1))  # ds_jv / dw, of the weights into the gates of its block, into itself
    ds_forget, ds_cell = torch.zeros_like(ds_in), torch.zeros_like(ds_in)
    outputs = []
    for t in range(T):
        source = torch.cat([x[t], y[:columns], x.new_ones(1)])
        net_in, *net_forget, net_cell = (weight @ source).split(sizes)[: 2 + forget_gate]
        y_in, y_cell, before = f(net_in), g(net_cell), s
        y_forget = f(net_forget[0]) if forget_gate else x.new_ones(blocks)
        s = share(y_forget) * before + share(y_in) * y_cell
        # Eqs (25) and (27), and their like for the forget gate
        ds_in = share(y_forget)[:, None] * ds_in + torch.outer(y_cell * share(df(y_in)), source)
        ds_cell = share(y_forget)[:, None] * ds_cell + torch.outer(share(y_in) * dg(y_cell), source)
        ds_forget = share(y_forget)[:, None] * ds_forget + torch.outer(before * share(df(y_forget)), source)

        squashed = h(s)
        y_out = f((weight @ source)[-blocks:]) if output_gate else x.new_ones(blocks)
        outputs.append(share(y_out) * squashed)
        if output_gate:
            e_out = df(y_out) * (squashed * error[t]).view(blocks, block_size).sum(1)  # eq. (21)
            by_out += torch.outer(e_out, source)  # eq. (22)
        e_s = share(y_out) * dh(squashed) * error[t]  # eq. (23)
        by_in += (e_s[:, None] * ds_in).view(blocks, block_size, -1).sum(1)  # eq. (26)
        by_cell += e_s[:, None] * ds_cell  # eq. (28)
        if forget_gate:
            by_forget[0].add_((e_s[:, None] * ds_forget).view(blocks, block_size, -1).sum(1))
        y = torch.cat([outputs[-1], y_in, *[y_forget] * forget_gate, *[y_out] * output_gate])
    w_ih_gradient, w_hh_gradient, b_gradient = gradient.split([inputs, columns, 1], 1)
    return torch.stack(outputs), w_ih_gradient, None if w_hh is None else w_hh_gradient, b_gradient[:, 0]
