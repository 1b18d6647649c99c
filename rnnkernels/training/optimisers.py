"""What makes a step of a gradient, at little cost: a step of the model may take less than a millisecond."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

__all__ = ["OPTIMISERS", "GravesRMSprop", "flatten"]


class GravesRMSprop(torch.optim.Optimizer):
    """RMSprop with momentum, of the gradient's variance: what the Neural Turing Machine was trained with.

        n' = alpha n + (1 - alpha) g^2
        m' = alpha m + (1 - alpha) g
        d' = momentum d - lr g / sqrt(n' - m'^2 + eps)
        w' = w + d'

    Source: Graves, "Generating sequences with recurrent neural networks", 2013, eq. 38 to 41.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-4, alpha: float = 0.95, momentum: float = 0.9, eps: float = 1e-4
    ) -> None:
        super().__init__(params, {"lr": lr, "alpha": alpha, "momentum": momentum, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            keep = group["alpha"]
            for w in group["params"]:
                if (g := w.grad) is None:
                    continue
                state = self.state[w]
                if not state:
                    state |= {name: torch.zeros_like(w) for name in "nmd"}
                n, m, d = (state[name] for name in "nmd")
                n.mul_(keep).addcmul_(g, g, value=1 - keep)
                m.lerp_(g, 1 - keep)
                root = torch.addcmul(n, m, m, value=-1).add_(group["eps"]).sqrt_()
                w.add_(d.mul_(group["momentum"]).addcdiv_(g, root, value=-group["lr"]))
        return loss


# each given parameters and lr
OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "graves2013": GravesRMSprop,
    "rmsprop": lambda parameters, lr: torch.optim.RMSprop(parameters, lr, alpha=0.95, momentum=0.9),
    "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr, fused=True),
}


def flatten(model: nn.Module) -> nn.Parameter:
    """One parameter, with a gradient, of which all that `model` trains become views: an optimiser has one to step."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    flat.grad = torch.zeros_like(flat)
    for p, view in zip(parameters, flat.detach().split([p.numel() for p in parameters])):
        p.data = view.view_as(p)
    return flat
