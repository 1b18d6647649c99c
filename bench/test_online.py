"""One sequence, one update: what a call costs on a network of 12 cells, beside torch.nn.LSTM of the same size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rnnkernels as rk
from rnnkernels.testing import expected

from .cases import Case, row_of
from .check import errors
from .contestants import Contestant, by_reference, of_layer
from .timing import Others, interleave, summary
from .variants import made

SIZES = Case(12, 1, 7, 12)  # the embedded Reber grammar, its network of 12 blocks of one cell


def learning(module: nn.Module, x: torch.Tensor, grad: torch.Tensor):
    """Forward and the gradients of the weights, as an update needs them: none by the symbols."""
    weights = list(module.parameters())

    def call():
        out = module(x)[0]
        return [out, *torch.autograd.grad(out, weights, grad)]

    return call


@pytest.mark.quick
@pytest.mark.parametrize("gradient", ["full", "truncated"])
def test_a_sequence(results, say, quick, gradient):
    torch.set_num_threads(1)
    T, B, I, H = SIZES.T, SIZES.B, SIZES.I, SIZES.H
    x, grad = torch.randn(T, B, I), torch.randn(T, B, H)
    module = made(lambda I, H: rk.LSTM1997(I, H, bias="all", gradient=gradient), I, H)
    peer = nn.LSTM(I, H)
    entrants = [
        Contestant("torch", learning(peer, x, grad)),
        Contestant("rnnkernels LSTM", learning(rk.convert(peer), x, grad)),
        Contestant("rnnkernels", learning(module, x, grad)),
    ]
    hx = torch.zeros(1, B, H), torch.zeros(1, B, H), torch.zeros(1, B, 2 * H)
    reference = expected(lambda: by_reference(torch.float64, module, x, hx, grad, True))
    names = ["out", "grad_x", *(f"grad_{name}" for name, _ in module.named_parameters())]
    checked = Contestant("rnnkernels", of_layer(module, x, None, grad, True))
    error = errors([checked], reference, True, names)["rnnkernels"]
    with Others() as rest:
        times = interleave(entrants, 0.5 if quick else 3.0, True)
    row = {
        **row_of("lstm1997", SIZES, "training", 1),
        "gradient": gradient,
        "error": error,
        "other_cores": rest.cores,
        "times": {name: summary(seconds) for name, seconds in times.items()},
    }
    results.add(f"online {gradient}", row)
    say("  ".join(f"{name} {t['median'] * 1e6:.0f} us" for name, t in row["times"].items()))
