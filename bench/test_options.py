"""Options, masks and variants against this package's own plain layer, all of a family interleaved. Two threads."""

from __future__ import annotations

import pytest
import torch

from rnnkernels.testing import expected

from .cases import VARIANTS as GRID
from .cases import Case, row_of
from .check import SAMPLES, errors
from .contestants import Contestant
from .options import GROUPS, LONG, Option, contestant, names_of
from .timing import Others, interleave, summary
from .variants import MODES, Trial

QUICK = GRID[1]
GRADIENTS = ("full", "truncated")
CASES = [pytest.param(case, marks=[pytest.mark.quick] * (case == QUICK), id=str(case)) for case in GRID]
SECONDS = 4.0  # of timing a family


def measure(results, say, key: str, row: dict, options: dict[str, Option], case: Case, mode: str, seconds: float):
    """Check and time these options and leave a row."""
    backward = mode == "training"
    torch.set_num_threads(2)
    entrants, error = [], {}
    for name, option in options.items():
        entrant, reference = contestant(name, option, case, backward)
        error[name] = errors([entrant], expected(reference, SAMPLES), backward, names_of(option))[entrant.name]
        entrant.name = name
        entrants.append(entrant)
    with Others() as rest:
        times = interleave(entrants, seconds, backward)
    row["other_cores"] = rest.cores
    row["times"] = {name: {**summary(times[name]), "error": error[name]} for name in options}
    results.add(key, row)
    medians = {name: t["median"] for name, t in row["times"].items()}
    over = (f"{name} {medians[name] / medians[o.base]:.2f}" for name, o in options.items() if o.base)
    say(f"{key}: time over the plain layer's: " + "  ".join(over))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("group", GROUPS)
def test_options(results, say, quick, group, case, mode):
    options = {name: option for name, option in GROUPS[group].items() if mode in option.modes}
    row, key = row_of(group, case, mode, 2), f"option {group} {case} {mode}"
    measure(results, say, key, row, options, case, mode, 1.5 if quick else SECONDS)


def test_recompute_a_long_sequence(results, say, quick):
    options = {name: GROUPS["LSTM"][name] for name in ("LSTM", "recompute")}
    row, key = row_of("LSTM", LONG, "training", 2), f"option LSTM {LONG} training"
    measure(results, say, key, row, options, LONG, "training", SECONDS)


@pytest.mark.parametrize("case", CASES)
def test_truncated_backward(results, say, quick, case):
    """The backward alone: one forward, whose graph is kept."""
    torch.set_num_threads(2)
    entrants, error = [], {}
    for gradient in GRADIENTS:
        trial = Trial("LSTM1997" if gradient == "full" else "LSTM1997(gradient='truncated')", case)
        x = trial.x.clone().requires_grad_()
        leaves = [x, *trial.module.parameters()]
        out = trial.module(x, trial.hx)[0]

        def call(out=out, leaves=leaves, grad=trial.grad):
            return torch.autograd.grad(out, leaves, grad, retain_graph=True)

        entrant = Contestant(f"rnnkernels {gradient}", call)
        error[gradient] = errors([entrant], trial.expected()[1:], True, trial.names[1:])[entrant.name]
        entrant.name = gradient
        entrants.append(entrant)
    with Others() as rest:
        times = interleave(entrants, 0.5 if quick else 2.0, True)
    row = {
        **row_of("LSTM1997", case, "backward", 2),
        "other_cores": rest.cores,
        "times": {name: {**summary(seconds), "error": error[name]} for name, seconds in times.items()},
    }
    results.add(f"truncated {case}", row)
    full, truncated = (row["times"][g]["median"] for g in GRADIENTS)
    say(f"backward of LSTM1997 {case}: truncated {truncated * 1e3:.3f} ms, {full / truncated:.2f}x faster than full")
