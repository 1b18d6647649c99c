"""Papers' experiments, run anew: `python -m rnnkernels reproduce`.

One module for each family of tasks, each with its `ENTRIES`; `entry` has the words they are written in, `runner` runs
their trials, `report` writes the page.
"""

from . import at_end, continual, equality, formal, grammar, images, lags, memory
from .entry import Clock, Entry, Gate, Outcome, Trial, Variant

__all__ = ["ENTRIES", "Clock", "Entry", "Gate", "Outcome", "Trial", "Variant"]

# by name, in the order of the page
ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for module in (equality, at_end, grammar, formal, continual, lags, images, memory)
    for entry in module.ENTRIES
}
