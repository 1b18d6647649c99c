"""What is trained, on what, and how: one dataclass, and the table of the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from .. import modules
from ..modules.checks import is_number, one_of
from ..tasks.algorithmic import TASKS, Task
from ..tasks.networks import Network, StackedLSTM
from .optimisers import OPTIMISERS

__all__ = ["LAYERS", "MODELS", "PAPER", "Config", "paper"]

# every layer of the package, by its name in small letters
LAYERS: dict[str, type[nn.Module]] = {
    name.lower(): kind
    for name in modules.__all__
    if isinstance(kind := getattr(modules, name), type) and issubclass(kind, modules.recurrent.Recurrent)
}
MODELS = ("ntm", "lstm-baseline", *LAYERS)


@dataclass(frozen=True)
class Config:
    """All that a training depends on.

    Attributes:
        task: a name in `tasks.algorithmic.TASKS`.
        sizes: fields of the task that are not as the paper has them.
        model: "ntm", "lstm-baseline" (`tasks.networks.StackedLSTM`), or a layer under a linear output layer.
        arguments: of the model's constructor, beside its numbers of inputs and outputs.
        optimiser: "graves2013", "rmsprop" (torch's, with the same decay and momentum) or "adam".
        lr: step size.
        clip_value: every element of the gradient is kept within this; 0: never.
        clip_norm: the whole gradient is scaled down to this norm where it is longer; 0: never.
        batch: sequences of a step.
        sequences: to be learned from in all.
        seed: of everything that is drawn.
        log: a line of metrics every so many sequences.
        evaluate, fresh: every so many sequences an evaluation on so many fresh ones; 0: none.
        stop: training ends at the first evaluation below `CONVERGED` wrong bits per sequence.
        threads: of torch; 0: as many as it has.
    """

    task: str = "copy"
    sizes: Mapping[str, Any] = field(default_factory=dict)
    model: str = "ntm"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    optimiser: str = "graves2013"
    lr: float = 1e-4
    clip_value: float = 10.0
    clip_norm: float = 0.0
    batch: int = 1
    sequences: int = 100_000
    seed: int = 0
    log: int = 100
    evaluate: int = 1000
    fresh: int = 640
    stop: bool = False
    threads: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("task", TASKS), ("model", MODELS), ("optimiser", OPTIMISERS)):
            one_of(name, getattr(self, name), tuple(choices))
        if not (is_number(self.lr) and 0 < self.lr < math.inf):
            raise ValueError(f"lr: expected a positive number, got {self.lr!r}")
        for name in ("clip_value", "clip_norm", "evaluate", "threads"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected a number >= 0, got {getattr(self, name)!r}")
        if not (type(self.seed) is int and -(2**63) <= self.seed < 2**63):
            raise ValueError(f"seed: expected an integer of 64 bits, got {self.seed!r}")
        if self.arguments.get("batch_first"):
            raise ValueError("batch_first: expected none, ticks come first here, got True")
        for name in ("batch", "sequences", "log", "fresh"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name}: expected a number >= 1, got {getattr(self, name)!r}")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def make_task(self) -> Task:
        """The task, of these sizes."""
        try:
            return TASKS[self.task](**self.sizes)
        except TypeError as error:
            raise ValueError(f"{self.task}: {error}") from None

    def make_model(self) -> nn.Module:
        """The model, drawn from torch's own generator; called as `model(x, lengths=None) -> (logits, state)`."""
        task = self.make_task()
        try:
            if self.model == "ntm":
                from .. import NTM

                return NTM(task.inputs, task.outputs, **self.arguments)
            if self.model == "lstm-baseline":
                return StackedLSTM(task.inputs, task.outputs, **self.arguments)
            hidden = LAYERS[self.model](task.inputs, **{"hidden_size": 256, **self.arguments})
        except TypeError as error:
            raise ValueError(f"{self.model}: {error}") from None
        units = (hidden.proj_size or hidden.hidden_size) * (1 + hidden.bidirectional)
        return Network(hidden, task.inputs, units, task.outputs)


def _row(sequences: int, feedforward: tuple, lstm: tuple, baseline: tuple) -> dict[str, dict[str, Any]]:
    """A task's row of the three tables: heads, units, layers and rate; the same; units and rate."""
    row = {}
    for controller, (heads, units, layers, lr) in (("feedforward", feedforward), ("lstm", lstm)):
        sizes = {"controller": controller, "controller_size": units, "controller_layers": layers}
        arguments = sizes | {"read_heads": heads, "write_heads": heads}
        row[f"ntm-{controller}"] = {"model": "ntm", "arguments": arguments, "lr": lr, "sequences": sequences}
    units, lr = baseline
    arguments = {"hidden_size": units, "num_layers": 3}
    return row | {"lstm": {"model": "lstm-baseline", "arguments": arguments, "lr": lr, "sequences": sequences}}


# Graves, Wayne and Danihelka, "Neural Turing Machines", 2014, Tables 1 to 3; sequences: as far as its curves go
PAPER: dict[str, dict[str, dict[str, Any]]] = {
    "copy": _row(1_000_000, (1, 100, 1, 1e-4), (1, 100, 1, 1e-4), (256, 3e-5)),
    "repeat-copy": _row(500_000, (1, 100, 1, 1e-4), (1, 100, 1, 1e-4), (512, 3e-5)),
    "associative-recall": _row(1_000_000, (4, 256, 1, 1e-4), (1, 100, 1, 1e-4), (256, 1e-4)),
    "dynamic-ngrams": _row(1_000_000, (1, 100, 1, 3e-5), (1, 100, 1, 3e-5), (128, 1e-4)),
    "priority-sort": _row(1_000_000, (8, 512, 1, 3e-5), (5, 100, 2, 3e-5), (128, 3e-5)),
}


def paper(task: str, name: str = "ntm-lstm", **changes: Any) -> Config:
    """The paper's configuration of a task: "ntm-feedforward", "ntm-lstm" or "lstm"; `changes` are to its fields."""
    row = PAPER[one_of("task", task, tuple(PAPER))]
    return Config(task, **row[one_of("paper", name, tuple(row))] | changes)
