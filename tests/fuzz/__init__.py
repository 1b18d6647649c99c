"""A hostile fuzz: random calls of everything public, right ones and wrong ones.

    python -m tests.fuzz --seconds 3600 --seed 7          an hour of all targets
    python -m tests.fuzz --only layer_op --case 41 --seed 7    one case once more, in this process

A target is a function of a `Draw` in one of the modules listed in `TARGETS`, marked with `@target`. It draws what it
likes, calls what it likes through `attempt` or `examine`, and raises `Fault` where something is wrong. Cases run in a
process of their own, so that a crash, an abort and a hang are faults too. All that a case draws follows from the seed,
the target's name and the case's number.
"""

from .harness import Draw, Fault, attempt, examine, target

TARGETS = ("ops", "functions", "transforms", "modules", "files", "commands")

__all__ = ["TARGETS", "Draw", "Fault", "attempt", "examine", "target"]
