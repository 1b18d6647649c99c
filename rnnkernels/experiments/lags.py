"""Tasks 2a and 2b: predict the next of 101 symbols; the last is the first again."""

from __future__ import annotations

import numpy as np
import torch

from ..tasks import long_lags, networks
from ..tasks.sequences import singles
from .entry import Entry, Outcome, Trial, Variant
from .learners import learner

IN_A_ROW = 10_000  # sequences that must be right; they are not counted
WINDOW, FALLING = 500, 0.99  # the error has stopped falling when the mean of a window is above this part of the last


def without_cell(t: Trial, V: np.ndarray, make, p: int) -> int:
    """Trains the weights V (O,I) from inputs to outputs alone until the error stops falling: sequences that took."""
    lr, derivative, per_symbol = t.options["lr"], t.options["derivative"], t.options["update"] == "symbol"
    before, total, count = np.inf, 0.0, 0
    for x, target in singles(make, t.generator, p=p):
        if not t.going(count):
            break
        symbols, wanted = x[:, 0].argmax(1).numpy(), target.numpy()
        groups = [[s] for s in range(len(symbols))] if per_symbol else [list(range(len(symbols)))]
        for group in groups:
            y = 1.0 / (1.0 + np.exp(-V[:, symbols[group]].T))
            error = wanted[group] - y
            total += float((error**2).sum())
            np.add.at(V.T, symbols[group], lr * (error * y * (1 - y) if derivative else error))
        count += 1
        if count % WINDOW == 0:
            if total > FALLING * before:
                break
            before, total = total, 0.0
    return count


def trial(t: Trial) -> Outcome:
    """Learns until 10,000 sequences in a row have every judged output's error below 0.25.

    Options: task; p; cell ("start", or "later": once the error without it has stopped falling), judged ("all" symbols
    or the "end"); those of `learners.learner`, and gradient.
    """
    o = t.options
    make, p = getattr(long_lags, o["task"]), o["p"]
    network, count = networks.network(networks.long_lag(p), t.generator, o["gradient"]), 0
    if o["cell"] == "later":
        V = network.readout.weight.detach().double().numpy().copy()
        count = without_cell(t, V[:, :-1], make, p)
        with torch.no_grad():
            network.readout.weight.copy_(torch.from_numpy(V))
    alone, row = count, 0
    teacher = learner(network, o)
    for x, target in singles(make, t.generator, p=p):
        if row >= IN_A_ROW or not t.clock.going(count / t.cap) or count - row >= t.cap:
            break
        y, _ = teacher.learn(x, target)
        count += 1
        judged = slice(-1, None) if o["judged"] == "end" else slice(None)
        row = row + 1 if np.abs(y - target.numpy())[judged].max() < 0.25 else 0
    figures = {"of these without the cell": alone}
    if row >= IN_A_ROW:
        return Outcome(True, count - row, "", figures)
    return t.unsolved(count - row, **figures)


OPTIONS = {
    "p": 100,
    "gradient": "truncated",
    "update": "sequence",
    "optimiser": "sgd",
    "lr": 1.0,
    "derivative": True,
    "cell": "later",
}
VARIANTS = (
    Variant("per symbol, f'", {"update": "symbol"}),
    Variant("per symbol, no f'", {"update": "symbol", "derivative": False}),
    Variant("per sequence, f'"),
    Variant("per sequence, no f'", {"derivative": False}),
    Variant("per symbol, f', cell from the start", {"update": "symbol", "cell": "start"}),
    Variant("per symbol, no f', cell from the start", {"update": "symbol", "derivative": False, "cell": "start"}),
    Variant("per sequence, f', cell from the start", {"cell": "start"}),
    Variant("per sequence, no f', cell from the start", {"derivative": False, "cell": "start"}),
)
NOTES = (
    "One cell with an input gate, no output gate, truncated gradient. The cell is added once the error without it has "
    f"stopped falling (the squared error of {WINDOW} sequences above {FALLING} of that of the {WINDOW} before), or is "
    f"there from the start. Solved: {IN_A_ROW:,} sequences in a row with every error below 0.25; they are not counted. "
)

ENTRIES = tuple(
    Entry(
        name=f"lag-{task[-2:]}",
        title=f"LSTM1997, long lag {task[-2:]}, p=100",
        paper=f"{paper} sequences (mean of 18 trials, all solved) (1997, 5.2)",
        unit="sequences",
        trial=trial,
        options=OPTIONS | {"task": task, "judged": judged},
        variants=VARIANTS,
        trials=3,
        cap=60_000,
        seconds=5400,
        notes=NOTES + judged_text,
    )
    for task, paper, judged, judged_text in (
        ("long_lag_2a", "5,040", "all", "Every symbol is judged."),
        ("long_lag_2b", "5,680", "end", "The last symbol is judged; the error is sent back after every symbol."),
    )
)
