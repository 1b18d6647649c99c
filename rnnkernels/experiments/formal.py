"""Formal languages: trained on short strings, tested on ever longer ones."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

import torch

from ..tasks import languages, networks
from .entry import Entry, Gate, Outcome, Trial, Variant
from .grammar import indices
from .learners import learner


@torch.no_grad()
def accepted(network: networks.Network, language: languages.Language, counts: list[tuple[int, ...]]) -> list[bool]:
    """For each string, whether after every symbol exactly the legal next symbols have an output above 0.5."""
    batch = language.batch(counts)
    wrong = (network(batch.x)[0] > 0) != (batch.target > 0.5)
    past = torch.arange(wrong.size(0)).unsqueeze(1) >= batch.lengths
    return (~wrong.any(-1) | past).all(0).tolist()


def reach(network: networks.Network, language: languages.Language, limit: int, going) -> int:
    """The largest N <= limit for which all strings of n = 1, ..., N are accepted."""
    n = 0
    while n < limit and going():
        group = [(k,) for k in range(n + 1, min(n + 16, limit) + 1)]
        verdicts = accepted(network, language, group)
        if not all(verdicts):
            return n + verdicts.index(False)
        n += len(group)
    return n


def drawn(t: Trial, width: int) -> networks.Network:
    """Peephole cells under outputs for the symbols: weights of N(0, sd^2), biases 0 but for the gates that have one."""
    o = t.options
    network = networks.timing(
        t.generator, width, width, o["cells"], g=o["g"], h=o["h"], gradient=o["gradient"], bound=0.0,
        input_gate=o["input_gate"], forget_gate=o["forget_gate"], output_gate=0.0,
    )  # fmt: skip
    for name, parameter in network.named_parameters():
        if "bias" not in name:
            torch.nn.init.normal_(parameter, 0.0, o["sd"], generator=t.generator)
    return network


def trial(t: Trial) -> Outcome:
    """Learns from `cap` strings, one update each; counts those until all training strings were accepted.

    Options: language (a name in `tasks.languages`), cells; longest (training strings have n = 1, ..., longest);
    limit (of the test); input_gate, forget_gate, sd, g, h of the network; until ("end", or "twice": learning stops once
    the strings of n up to twice `longest` are accepted), looked at every `check` strings; those of `learners.learner`.
    """
    o = t.options
    language = getattr(languages, o["language"])
    network = drawn(t, len(language.symbols))
    teacher = learner(network, o)
    if o["until"] not in ("end", "twice"):
        raise ValueError(f"until: expected 'end' or 'twice', got {o['until']!r}")
    sequences = [language.sequence(n) for n in range(1, o["longest"] + 1)]
    first = count = 0
    for k in indices(t.generator, len(sequences)):
        if not t.going(count):
            break
        teacher.learn(*sequences[k])
        count += 1
        if count % o["check"] == 0 and (not first or o["until"] == "twice"):
            far = reach(network, language, 2 * o["longest"], lambda: True)
            if far >= o["longest"]:
                first = first or count
            if far == 2 * o["longest"] and o["until"] == "twice":
                break
    figures = {"sequences in all": count}
    far = reach(network, language, o["limit"], lambda: t.clock.going(1.0))
    if t.clock.stopped:  # neither trained nor tested to its end
        return t.unsolved(count, **figures)
    figures = {"reaches n": far, **figures}
    return Outcome(True, first, "", figures) if first else t.unsolved(count, **figures)


def least_and_best(variant: str, least: int, best: int) -> Gate:
    """In every seed at least `least`, in one at least `best`."""

    def check(outcomes: Mapping[str, list[Outcome]]) -> list[str]:
        trouble = []
        for name, found in outcomes.items():
            reached = [o.figures.get("reaches n", 0) for o in found]
            if min(reached) < least:
                trouble.append(f"{name}: n of at least {least} in every seed expected, found {min(reached)}")
            if max(reached) < best:
                trouble.append(f"{name}: n of at least {best} in one seed expected, found {max(reached)}")
        return trouble

    return Gate(f"{variant}: reaches n of at least {least} in every seed, {best} in the best", (variant,), check)


def median_and_best(variant: str, middle: int, best: int) -> Gate:
    """The median over seeds at least `middle`, in one seed at least `best`."""

    def check(outcomes: Mapping[str, list[Outcome]]) -> list[str]:
        trouble = []
        for name, found in outcomes.items():
            reached = [o.figures.get("reaches n", 0) for o in found]
            if median(reached) < middle:
                trouble.append(f"{name}: a median n of at least {middle} expected, found {median(reached):g}")
            if max(reached) < best:
                trouble.append(f"{name}: n of at least {best} in one seed expected, found {max(reached)}")
        return trouble

    return Gate(f"{variant}: reaches n of at least {middle} in the median, {best} in the best", (variant,), check)


OPTIONS = {
    "longest": 10,
    "limit": 1000,
    "sd": 0.1,
    "input_gate": -1.0,
    "forget_gate": 1.0,
    "g": "tanh",
    "h": "tanh",
    "gradient": "full",
    "update": "sequence",
    "optimiser": "adam",
    "lr": 0.01,
    "clip": 1.0,
    "derivative": False,
    "until": "end",
    "check": 200,
}
VARIANTS = (
    Variant("forget bias 1, to the end"),
    Variant("forget bias 1, until n = 20", {"until": "twice"}),
    Variant("forget bias 1, linear cells", {"g": "identity", "h": "identity"}),
    Variant("forget bias 1, truncated", {"gradient": "truncated"}),
)
NOTES = (
    "Trained on n = 1 to 10 by Adam 0.01, gradient norm clipped to 1, full gradient, cross entropy against the set of "
    "legal next symbols; accepted: the outputs above 0.5 are exactly that set after every symbol. Solved, at the count "
    "shown: all ten training strings are accepted, looked at every 200 sequences. The n reached, of 1000 at most, is "
    "that of the weights at the cap, or of those that first accepted n = 1 to 20 at such a look. g and h are tanh, or "
    "linear as in the paper. Initial biases: -1 of the input gates but where said, 0 of the output gates."
)

ENTRIES = (
    Entry(
        name="anbn",
        title="PeepholeLSTM, a^n b^n, 2 cells",
        paper="n up to 1000 in the best net, 118 in the mean, after 22,000 strings (2001, from memory); "
        "65 to 100 by Adam in a later reproduction, which stopped at 100",
        unit="sequences",
        trial=trial,
        options=OPTIONS | {"language": "AN_BN", "cells": 2},
        variants=(Variant("forget bias 5, input bias 0", {"forget_gate": 5.0, "input_gate": 0.0}), *VARIANTS),
        trials=5,
        cap=4000,
        seconds=600,
        gate=least_and_best("forget bias 5, input bias 0", 65, 100),
        notes=NOTES,
    ),
    Entry(
        name="anbncn",
        title="PeepholeLSTM, a^n b^n c^n, 3 cells",
        paper="n up to 52 in the best net, 28 in the mean, after 54,000 strings (2001, from memory); "
        "18 to 29, median 24, by Adam in a later reproduction",
        unit="sequences",
        trial=trial,
        options=OPTIONS | {"language": "AN_BN_CN", "cells": 3},
        variants=(Variant("forget bias 3", {"forget_gate": 3.0}), *VARIANTS),
        trials=5,
        cap=8000,
        seconds=900,
        gate=median_and_best("forget bias 3", 18, 28),
        notes=NOTES,
    ),
)
