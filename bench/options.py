"""What an option, a mask or a variant may cost against this package's own plain layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import rnnkernels as rk

from .cases import Case, square
from .contestants import Contestant, by_reference, of_layer
from .variants import MODES, RECURRENT, SEED, ZONEOUT, drawn, made

LONG = square(1000, 32, 128)  # where recomputing is worth something
RESETS = 0.05  # of all ticks
TRAINING = ("training",)


@dataclass(frozen=True)
class Option:
    """A layer ``make(I, H)`` and how it is called; its time divided by that of ``base`` is to be at most ``most``.

    ``given``: "padded" (T,B,I); "half as long", the first half of those ticks; "resets", "lengths" and "packed", of
    mean length T / 2.
    """

    make: Callable[[int, int], nn.Module]
    states: str
    base: str | None = None
    most: float = 1.15
    modes: tuple[str, ...] = MODES
    given: str = "padded"


def lstm(**options: Any) -> Callable[[int, int], nn.Module]:
    return lambda I, H: rk.LSTM(I, H, **options)


GROUPS: dict[str, dict[str, Option]] = {
    "LSTM": {
        "LSTM": Option(rk.LSTM, "hc"),
        "PeepholeLSTM": Option(rk.PeepholeLSTM, "hc", "LSTM"),
        "CoupledLSTM": Option(rk.CoupledLSTM, "hc", "LSTM"),
        "zoneout of h and c": Option(lstm(**ZONEOUT), "hc", "LSTM"),
        "recurrent dropout": Option(lstm(recurrent_dropout=RECURRENT), "hc", "LSTM", modes=TRAINING),
        "recurrent dropout at every tick": Option(
            lstm(recurrent_dropout=RECURRENT, recurrent_dropout_mode="step"), "hc", "LSTM", modes=TRAINING
        ),
        "input dropout": Option(lstm(input_dropout=RECURRENT), "hc", "LSTM", modes=TRAINING),
        "weight dropout": Option(lstm(weight_dropout=0.5), "hc", "LSTM", modes=TRAINING),
        "cell_clip": Option(lstm(cell_clip=3.0), "hc", "LSTM"),
        "gradient_clip": Option(lstm(gradient_clip=1.0), "hc", "LSTM", modes=TRAINING),
        "resets": Option(rk.LSTM, "hc", "LSTM", given="resets"),
        "LayerNormLSTM": Option(rk.LayerNormLSTM, "hc", "LSTM", 1.5),
        "recompute": Option(lstm(recompute=True), "hc", "LSTM", 1.4, TRAINING),
        "lengths": Option(rk.LSTM, "hc", "LSTM", 0.65, given="lengths"),
        "as many frames padded": Option(rk.LSTM, "hc", given="half as long"),
        "packed": Option(rk.LSTM, "hc", "as many frames padded", 1.1, given="packed"),
    },
    "GRU": {
        "GRU": Option(rk.GRU, "h"),
        "LayerNormGRU": Option(rk.LayerNormGRU, "h", "GRU", 1.5),
        "GRU(reset_after=False)": Option(lambda I, H: rk.GRU(I, H, reset_after=False), "h"),
        "GRU1": Option(rk.GRU1, "h", "GRU(reset_after=False)", 1.0),
        "GRU2": Option(rk.GRU2, "h", "GRU(reset_after=False)", 1.0),
        "GRU3": Option(rk.GRU3, "h", "GRU(reset_after=False)", 1 / 1.6),
    },
}


def lengths_of(case: Case) -> Tensor:
    """Evenly spread over 1 to T, in no order, T B / 2 in all."""
    T, B = case.T, case.B
    short = [max(1, int((b + 0.5) * T / B)) for b in range(B // 2)]
    lengths = torch.tensor([*short, *(T - n for n in short), *[T // 2] * (B % 2)])
    return lengths[torch.randperm(B, generator=torch.Generator().manual_seed(2))]


def arguments(option: Option, case: Case) -> tuple[Any, tuple[Tensor, ...] | Tensor, Tensor, dict[str, Any]]:
    """x, hx, the gradient of the output as it lies, and what else a call is given."""
    x, hx, grad = drawn(case, option.states)
    hx = hx if len(hx) > 1 else hx[0]
    if option.given == "half as long":
        return x[: case.T // 2].contiguous(), hx, grad[: case.T // 2].contiguous(), {}
    if option.given == "resets":
        random = torch.Generator().manual_seed(3)
        return x, hx, grad, {"resets": torch.rand(case.T, case.B, generator=random) < RESETS}
    if option.given == "lengths":
        return x, hx, grad, {"lengths": lengths_of(case)}
    if option.given == "packed":
        pack = lambda t: pack_padded_sequence(t, lengths_of(case), enforce_sorted=False)  # noqa: E731
        return pack(x), hx, pack(grad).data, {}
    return x, hx, grad, {}


def contestant(name: str, option: Option, case: Case, backward: bool) -> tuple[Contestant, Callable[[], list[Tensor]]]:
    """The call, and a function without arguments: what it must return, by the reference in float64."""
    module = made(option.make, case.I, case.H).train(backward)
    x, hx, grad, keywords = arguments(option, case)
    seed = {"seed": SEED} if backward else {}
    entrant = Contestant(
        f"rnnkernels {name}",
        of_layer(module, x, hx, grad, backward, **keywords),
        check=of_layer(module, x, hx, grad, backward, **keywords, **seed),
    )
    return entrant, lambda: by_reference(torch.float64, module, x, hx, grad, backward, **keywords, **seed)


def names_of(option: Option) -> list[str]:
    """Names of the results of a call."""
    return ["out", "grad_x", *(f"grad_{name}" for name, _ in option.make(1, 2).named_parameters())]
