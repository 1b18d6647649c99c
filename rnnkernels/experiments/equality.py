"""The weights after 200 online updates, by the fused layer and by the float64 reference."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .. import reference
from ..options import Options
from ..tasks import networks, reber
from .entry import Entry, Gate, Outcome, Trial, Variant
from .online import Online, optimiser

TOLERANCE = 1e-8


def reference_outputs(network: networks.Network, x: Tensor) -> Tensor:
    """What `network(x)[0]` is, (T,B,O), by the package's reference."""
    hidden = network.hidden
    cell = "lstm1997" + "_forget" * hidden.forget_gate + "_open" * (not hidden.output_gate)
    options = Options(
        truncated=hidden.gradient == "truncated", block_size=hidden.block_size, squash=(hidden.g, hidden.h)
    )
    parts = [getattr(hidden, f"{name}_l0", None) for name in ("weight_ih", "weight_hh", "bias_ih")]
    out = reference.layer(cell, x, *parts, options=options)[0]
    return network.readout(torch.cat((x, out), -1) if network.reads_inputs else out)


def trial(t: Trial) -> Outcome:
    """Trains two networks that begin alike, and compares their weights."""
    options = t.options
    made = [
        networks.network(
            options["layout"], torch.Generator().manual_seed(t.seed), options["gradient"], dtype=torch.float64
        )
        for _ in range(2)
    ]
    fused, plain = made
    learner = Online(fused, optimiser("sgd", options["lr"]))
    descent = torch.optim.SGD(plain.parameters(), lr=options["lr"])
    strings = reber.sets(t.generator).train
    count = 0
    while t.going(count):
        sequence, _ = reber.batch([strings[int(torch.randint(len(strings), (), generator=t.generator))]])
        x, target = sequence.x.double(), sequence.target[:, 0].double()
        learner.learn(x, target)
        loss = 0.5 * (reference_outputs(plain, x)[:, 0].sigmoid() - target).square().sum()
        descent.zero_grad()
        loss.backward()
        descent.step()
        count += 1
    if t.clock.stopped:
        return t.unsolved(count)
    with torch.no_grad():
        pairs = zip(*(nn.utils.parameters_to_vector(n.parameters()) for n in made), strict=True)
        apart = max(abs(float(a) - float(b)) for a, b in pairs)
        moved = network_moved(plain, t)
    return Outcome(apart <= TOLERANCE, count, "", {"largest difference": apart, "largest change": moved})


def network_moved(trained: nn.Module, t: Trial) -> float:
    """By how much the weights have changed since the start: that the comparison compares something."""
    start = networks.network(
        t.options["layout"], torch.Generator().manual_seed(t.seed), t.options["gradient"], dtype=torch.float64
    )
    before, after = (nn.utils.parameters_to_vector(n.parameters()) for n in (start, trained))
    return float((before - after).detach().abs().max())


def check(outcomes: Mapping[str, list[Outcome]]) -> list[str]:
    return [
        f"{name}, seed {o.seed}: weights within {TOLERANCE:g} expected, found {o.figures['largest difference']:.1e}"
        if "largest difference" in o.figures
        else f"{name}, seed {o.seed}: not finished"
        for name, found in outcomes.items()
        for o in found
        if not o.solved
    ]


ENTRIES = (
    Entry(
        name="equality",
        title="LSTM1997, weights after 200 online updates",
        paper=f"the float64 reference's own weights, to {TOLERANCE:g}",
        unit="updates",
        trial=trial,
        options={"layout": "reber_3x2", "gradient": "truncated", "lr": 0.5},
        variants=(
            Variant("truncated"),
            Variant("full", {"gradient": "full"}),
            Variant("forget gates, truncated", {"layout": "continual"}),
            Variant("forget gates, full", {"layout": "continual", "gradient": "full"}),
        ),
        trials=3,
        cap=200,
        seconds=120,
        gate=Gate(
            f"every weight within {TOLERANCE:g} in every trial",
            ("truncated", "full", "forget gates, truncated", "forget gates, full"),
            check,
        ),
        notes="Float64; one embedded Reber string, one update; the reference goes through autograd and torch.optim.",
    ),
)
