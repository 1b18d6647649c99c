"""Tasks judged at a sequence's end: temporal order and adding."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median

from ..tasks import long_lags, networks
from ..tasks.sequences import singles
from .entry import Entry, Gate, Outcome, Trial, Variant
from .learners import learner, outputs_at_end

TEST, RECENT = 2560, 2000


def trial(t: Trial) -> Outcome:
    """Learns until the last 2000 sequences were right and their mean error is small; then tests on 2560 others.

    Options: layout (of the network), task (a generator), and its arguments task_options; right (largest error of a
    sequence that counts as right), mean (of the last 2000, to be below it), error ("absolute" or "squared", what the
    mean is taken of); those of `learners.learner`, and gradient.
    """
    o = t.options
    network = networks.network(o["layout"], t.generator, o["gradient"])
    teacher, make = learner(network, o), getattr(long_lags, o["task"])
    power = {"absolute": 1, "squared": 2}[o["error"]]
    right, total, errors = 0, 0.0, deque()
    count = 0
    for x, target in singles(make, t.generator, **o["task_options"]):
        if not t.going(count):
            break
        y, _ = teacher.learn(x, target)
        apart = [abs(a - b) for a, b in zip(y[0].tolist(), target[0].tolist(), strict=True)]
        count += 1
        right = right + 1 if max(apart) < o["right"] else 0
        errors.append(sum(e**power for e in apart) / len(apart))
        total += errors[-1] - (errors.popleft() if len(errors) > RECENT else 0.0)
        if right >= RECENT and total / RECENT < o["mean"]:
            break
    solved = right >= RECENT and total / RECENT < o["mean"]
    teacher.store()
    batch = make(t.generator, TEST, **o["task_options"])
    apart = (outputs_at_end(network, batch) - batch.target).abs().amax(1)
    wrong = {"wrong of 2560": int((apart >= o["right"]).sum())}
    return Outcome(True, count, "", wrong) if solved else t.unsolved(count, **wrong)


def order_gate(outcomes: Mapping[str, list[Outcome]]) -> list[str]:
    """At least 18 of 20, and their median sequences (an unsolved trial counts as more than any) in the band."""
    trouble = []
    for name, found in outcomes.items():
        solved = sum(o.solved for o in found)
        if solved < 0.9 * len(found):
            trouble.append(f"{name}: 18 solved of 20 expected, found {solved} of {len(found)}")
        middle = median(o.count if o.solved else float("inf") for o in found)
        if not 15_000 <= middle <= 65_000:
            trouble.append(f"{name}: a median of 15,000 to 65,000 sequences expected, found {middle:,.0f}")
    return trouble


COMMON = {
    "gradient": "truncated",
    "update": "sequence",
    "optimiser": "sgd",
    "derivative": True,
    "error": "absolute",
    "task_options": {},
}

ENTRIES = (
    Entry(
        name="order-6a",
        title="LSTM1997, temporal order 6a",
        paper="31,390 sequences (mean of 20 trials, all solved), 1 of 2560 wrong (1997, 5.6)",
        unit="sequences",
        trial=trial,
        options=COMMON
        | {"layout": "temporal_order_6a", "task": "temporal_order_6a", "lr": 0.5, "right": 0.3, "mean": 0.1},
        variants=(Variant("paper"),),
        trials=20,
        cap=300_000,
        seconds=1800,
        gate=Gate("at least 18 of 20 solved within 300,000 sequences, median 15,000 to 65,000", ("paper",), order_gate),
        notes="Truncated gradient, plain gradient descent. Solved: the last 2000 sequences right (every output's error "
        "below 0.3) and their mean error below 0.1; the count includes these 2000.",
    ),
    Entry(
        name="adding",
        title="LSTM1997, adding problem, T=100",
        paper="74,000 sequences (mean of 10 trials, all solved), 1 of 2560 wrong (1997, 5.4)",
        unit="sequences",
        trial=trial,
        options=COMMON
        | {
            "layout": "adding",
            "task": "adding",
            "task_options": {"T": 100},
            "lr": 0.5,
            "right": 0.04,
            "mean": 0.01,
        },
        variants=(
            Variant("f' at the output"),
            Variant("no f' at the output", {"derivative": False}),
            Variant("f' at the output, mean squared error", {"error": "squared"}),
            Variant("no f' at the output, mean squared error", {"derivative": False, "error": "squared"}),
            Variant("f' at the output, full gradient", {"gradient": "full"}),
            Variant("no f' at the output, full gradient", {"derivative": False, "gradient": "full"}),
        ),
        trials=5,
        cap=400_000,
        seconds=3600,
        notes="The error comes at the end alone, so that an update per symbol is one per sequence. Solved: the last "
        "2000 sequences right (error below 0.04) and their mean error, absolute unless said otherwise, below 0.01.",
    ),
)
