"""Embedded Reber strings: learnt from 256, tested on 256 others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..tasks import networks, reber
from ..tasks.sequences import Batch
from .entry import Entry, Gate, Outcome, Trial, Variant
from .learners import learner


def right(net: Tensor, legal: Tensor) -> Tensor:
    """Whether the legal next symbols are the most active outputs: bool (...) of outputs and legal (...,O)."""
    least = net.masked_fill(~legal, torch.inf).amin(-1)
    most = net.masked_fill(legal, -torch.inf).amax(-1)
    return least > most


@torch.no_grad()
def strings_right(network: networks.Network, batch: Batch, legal: Tensor) -> Tensor:
    """bool (B): every symbol of the string was predicted right."""
    return (right(network(batch.x)[0], legal) | ~legal.any(-1)).all(0)


def indices(generator: torch.Generator, size: int) -> Iterator[int]:
    """Random ones below `size`, without end."""
    while True:
        yield from torch.randint(size, (1024,), generator=generator).tolist()


def trial(t: Trial) -> Outcome:
    """Learns until all symbols of all training and test strings are predicted right.

    Options: layout and changes to it, gradient; those of `learners.learner`; distinct (no training string twice);
    check (sequences between two looks at the criterion).
    """
    o = t.options
    network = networks.network(o["layout"], t.generator, o["gradient"], **o["changes"])
    teacher = learner(network, o)
    strings = reber.sets(t.generator, distinct=o["distinct"])
    train, test = (reber.batch(part) for part in strings)
    sequences = list(train[0].rows())
    count, share = 0, 0.0
    for k in indices(t.generator, len(sequences)):
        if not t.going(count):
            break
        teacher.learn(*sequences[k])
        count += 1
        if count % o["check"] == 0:
            teacher.store()
            if strings_right(network, *train).all() and strings_right(network, *test).all():
                return Outcome(True, count, "", {"test strings right, %": 100.0})
    teacher.store()
    share = 100.0 * float(strings_right(network, *test).float().mean())
    return t.unsolved(count, **{"test strings right, %": share})


def gate(outcomes: Mapping[str, list[Outcome]]) -> list[str]:
    return [
        f"{name}: 9 solved of 10 expected, found {sum(o.solved for o in found)} of {len(found)}"
        for name, found in outcomes.items()
        if sum(o.solved for o in found) < 0.9 * len(found)
    ]


SGD = {
    "layout": "reber_3x2",
    "changes": {},
    "gradient": "truncated",
    "update": "sequence",
    "optimiser": "sgd",
    "lr": 0.5,
    "outputs": "logistic",
    "derivative": True,
    "distinct": True,
    "check": 50,
}
TWELVE = {"blocks": 12, "size": 1, "bias": "all", "output_bias": True, "output_gates": ()}

ENTRIES = (
    Entry(
        name="reber-adam",
        title="LSTM1997, embedded Reber grammar, 12 blocks of 1, Adam",
        paper="no figure of this form in a paper; 8,440 sequences by plain gradient descent with 3 blocks of 2 (1997)",
        unit="sequences",
        trial=trial,
        options=SGD
        | {
            "changes": TWELVE,
            "gradient": "full",
            "optimiser": "adam",
            "lr": 0.01,
            "outputs": "softmax",
            "derivative": False,
            "check": 100,
        },
        variants=(
            Variant("softmax"),
            Variant("logistic, no f'", {"outputs": "logistic"}),
            Variant("logistic, f'", {"outputs": "logistic", "derivative": True}),
        ),
        trials=10,
        cap=20_000,
        seconds=900,
        gate=Gate("softmax: at least 9 of 10 solved within 20,000 sequences", ("softmax",), gate),
        notes="All biases, full gradient, Adam 0.01; cross entropy where there is no f'. Solved: after every symbol of "
        "all 256 training and 256 test strings, all different, the legal next symbols are the most active; looked "
        "at every 100 sequences.",
    ),
    Entry(
        name="reber-sgd",
        title="LSTM1997, embedded Reber grammar, 3 blocks of 2, plain gradient descent, lr 0.5",
        paper="8,440 sequences (mean of 30 trials, all solved; 3,800 to 24,100) (1997, Table 2)",
        unit="sequences",
        trial=trial,
        options=SGD,
        variants=(
            Variant("per symbol, f'", {"update": "symbol"}),
            Variant("per symbol, no f'", {"update": "symbol", "derivative": False}),
            Variant("per sequence, f'"),
            Variant("per sequence, no f'", {"derivative": False}),
            Variant("per sequence, f', full gradient", {"gradient": "full"}),
            Variant("per sequence, no f', full gradient", {"derivative": False, "gradient": "full"}),
            Variant("per symbol, f', strings repeat", {"update": "symbol", "distinct": False}),
            Variant("per sequence, f', strings repeat", {"distinct": False}),
        ),
        trials=10,
        cap=60_000,
        seconds=5400,
        notes="Truncated gradient but where said. Solved as above, looked at every 50 sequences. Strings repeat: the "
        "training strings are drawn as the automaton makes them, short ones often.",
    ),
)
