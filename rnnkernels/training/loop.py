"""The training loop: steps, metrics, evaluations, checkpoints."""

from __future__ import annotations

import contextlib
import math
import operator
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, nn

from ..tasks.algorithmic import Task
from .config import Config
from .interrupts import noted
from .optimisers import OPTIMISERS, flatten
from .store import Store

__all__ = ["CONVERGED", "Scores", "Training", "evaluate", "train"]

CONVERGED = 0.1  # wrong bits per sequence (Collier and Beel, "Implementing Neural Turing Machines", 2018)
CHUNK = 64  # sequences of an evaluation at a time
MAY_CHANGE = ("sequences", "stop", "threads")  # of a configuration, when a run is resumed


class Scores(NamedTuple):
    """What an evaluation found, per sequence.

    loss: bits.
    errors: wrong bits.
    right: bits that are not, in %.
    optimal: what the best possible predictor loses on the same sequences, bits; None where that is nothing.
    """

    loss: float
    errors: float
    right: float
    optimal: float | None = None

    def as_dict(self) -> dict[str, float]:
        return {name: value for name, value in self._asdict().items() if value is not None}


@torch.inference_mode()
def evaluate(model: nn.Module, task: Task, generator: Generator, count: int = 640, **sizes: int) -> Scores:
    """Tries a model on fresh sequences.

    Args:
        model: called as `model(x, lengths=None) -> (logits, state)`, in evaluation mode.
        count: sequences.
        sizes: as `task.batch` takes them.
    """
    was_training = model.training
    model.eval()
    loss = errors = judged = optimal = 0.0
    for first in range(0, count, CHUNK):
        size = min(CHUNK, count - first)
        batch = task.batch(generator, size, **sizes)
        logits, _ = model(batch.x, lengths=batch.lengths)
        loss += size * float(task.loss(logits, batch))
        errors += size * float(task.errors(logits, batch))
        judged += int(batch.mask.sum()) * task.outputs
        best = task.optimal(batch)
        optimal = None if best is None else optimal + float(best.sum())
    model.train(was_training)
    return Scores(
        loss / count, errors / count, 100 - 100 * errors / judged, None if optimal is None else optimal / count
    )


class Training:
    """A model in training: all that its next step depends on.

    It seeds torch's own generator, from which models are drawn, and layers' masks.

    Attributes:
        config, task, model: what is trained; the model's parameters are views of one.
        sequences: learned from so far.
        curve: evaluations so far, each (sequences, loss in bits, wrong bits).
        converged: sequences at the first evaluation below `CONVERGED`, or None.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.task = config, config.make_task()
        root = Generator().manual_seed(config.seed)
        own, training, fresh = torch.randint(2**31, (3,), generator=root).tolist()
        torch.manual_seed(own)
        self.model = config.make_model()
        self._trained = [p for p in self.model.parameters() if p.requires_grad]
        self._flat = flatten(self.model)
        self._optimiser = OPTIMISERS[config.optimiser]([self._flat], lr=config.lr)
        self._generators = {"training": Generator().manual_seed(training), "fresh": Generator().manual_seed(fresh)}
        self._generators["torch"] = torch.default_generator
        self.sequences, self.converged = 0, None
        self.curve: list[tuple[int, float, float]] = []
        self._since = [0.0, 0.0, 0, 0.0]  # loss, errors, sequences and seconds since the last line of metrics

    @classmethod
    def load(cls, folder: Path | str) -> Training:
        """The training whose run is in `folder`, as it was at its last checkpoint."""
        store = Store(folder)
        state = store.load()
        with store.reading():
            training = cls(state["config"])
            training.load_state_dict(state)
        return training

    def state_dict(self) -> dict[str, Any]:
        """All of it, to be taken up again by `load_state_dict` of a `Training` of the same configuration."""
        return {
            "config": self.config.as_dict(),
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
            "sequences": self.sequences,
            "converged": self.converged,
            "curve": self.curve,
            "since": self._since,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        for name, generator in self._generators.items():
            generator.set_state(state["generators"][name])
        self.sequences, self.converged = operator.index(state["sequences"]), state["converged"]
        self.curve, self._since = [tuple(point) for point in state["curve"]], list(state["since"])

    def step(self) -> None:
        """Learns from one batch; FloatingPointError, and nothing learned, where the loss is not finite."""
        start, config = time.perf_counter(), self.config
        batch = self.task.batch(self._generators["training"], config.batch)
        logits, _ = self.model(batch.x, lengths=batch.lengths if config.batch > 1 else None)
        loss = self.task.loss(logits, batch)
        bits = loss.item()
        if not math.isfinite(bits):
            raise FloatingPointError(f"loss: expected a finite number, got {bits} after {self.sequences} sequences")
        gradients = torch.autograd.grad(loss, self._trained, allow_unused=True, materialize_grads=True)
        torch.cat([g.flatten() for g in gradients], out=self._flat.grad)
        if config.clip_value:
            self._flat.grad.clamp_(-config.clip_value, config.clip_value)
        if config.clip_norm:
            nn.utils.clip_grad_norm_([self._flat], config.clip_norm, foreach=False)
        self._optimiser.step()
        self.sequences += config.batch
        errors = self.task.errors(logits.detach(), batch).item()
        seconds = time.perf_counter() - start
        found = (bits * config.batch, errors * config.batch, config.batch, seconds)
        self._since = [a + b for a, b in zip(self._since, found)]

    def passed(self, interval: int) -> bool:
        """Whether the last step reached or crossed a multiple of `interval`; never one of 0."""
        return interval > 0 and self.sequences % interval < self.config.batch

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics that are due after the last step; evaluates where that is due."""
        if self.passed(self.config.log):
            loss, errors, count, seconds = self._since
            self._since = [0.0, 0.0, 0, 0.0]
            means = {"loss": loss / count, "errors": errors / count, "rate": count / seconds}
            yield {"kind": "training", "sequences": self.sequences, **means}
        if self.passed(self.config.evaluate):
            scores = evaluate(self.model, self.task, self._generators["fresh"], self.config.fresh)
            self.curve.append((self.sequences, scores.loss, scores.errors))
            if self.converged is None and scores.errors < CONVERGED:
                self.converged = self.sequences
            yield {"kind": "evaluation", "sequences": self.sequences, **scores.as_dict()}

    def evaluate(self, count: int = 640, seed: int = 0, **sizes: int) -> Scores:
        """Tries the model as it is now on sequences of their own seed: this changes nothing of the training."""
        return evaluate(self.model, self.task, Generator().manual_seed(seed), count, **sizes)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _plain(value: Any) -> bool:
    """Whether a checkpoint gives this back: torch.load reads no other types than these and tensors."""
    if isinstance(value, Mapping):
        return all(_plain(item) for pair in value.items() for item in pair)
    if type(value) in (list, tuple):
        return all(map(_plain, value))
    return type(value) in (bool, int, float, str, type(None))


def train(
    config: Config,
    folder: Path | str | None = None,
    *,
    resume: bool = False,
    checkpoint_sequences: int = 0,
    checkpoint_seconds: float = 60.0,
    going: Callable[[int], bool] = lambda _: True,
    told: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Training:
    """Trains until `config.sequences`, or convergence where `config.stop` asks for it.

    Args:
        folder: of checkpoints and metrics; None: nothing is kept.
        resume: goes on with the run in `folder`, bit for bit as if it had never ended; of its configuration only
            sequences, stop and threads may differ.
        checkpoint_sequences, checkpoint_seconds: a checkpoint whenever so many sequences or seconds have passed, and at
            the end; 0 sequences: only by time.
        going: asked before every step, given the sequences so far; training ends where it says no.
        told: told of every line of metrics.

    Raises:
        ValueError: `folder` has a run already, or one that was configured otherwise, or none to be resumed, or a
            damaged one, or one that goes on in another process.
        FloatingPointError: the loss is no longer finite.
        KeyboardInterrupt: after a Ctrl-C, once the checkpoint is written.
    """
    for name, value in (("sequences", checkpoint_sequences), ("seconds", checkpoint_seconds)):
        if not value >= 0:
            raise ValueError(f"checkpoint_{name}: expected a number >= 0, got {value!r}")
    for name, value in config.as_dict().items():
        if folder is not None and not _plain(value):
            raise ValueError(
                f"{name}: expected what a checkpoint holds, numbers, words, lists and dicts, got {value!r}"
            )
    training, store = Training(config), None if folder is None else Store(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_threads(config.threads))
        interrupts: list[int] = []
        if store:
            stack.callback(store.close)
            store.begin(resume)
            if resume:
                state = store.load()
                began = state["config"].as_dict()
                for name, value in config.as_dict().items():
                    if name not in MAY_CHANGE and value != began[name]:
                        raise ValueError(f"{name}: expected {began[name]}, as the run began, got {value}")
                with store.reading():
                    training.load_state_dict(state)
                    position = operator.index(state["metrics"])
                    if position < 0:
                        raise ValueError(f"metrics: expected a number of bytes, got {position}")
                store.cut(position)
            store.save(training.state_dict())
            interrupts = stack.enter_context(noted())
        saved = time.monotonic()
        while training.sequences < config.sequences and not interrupts and going(training.sequences):
            training.step()
            for line in training.metrics():
                if store:
                    store.write(line)
                told(line)
            if config.stop and training.converged is not None:
                break
            if store and (training.passed(checkpoint_sequences) or time.monotonic() - saved >= checkpoint_seconds):
                store.save(training.state_dict())
                saved = time.monotonic()
        if store:
            store.save(training.state_dict())
        if interrupts:
            raise KeyboardInterrupt
    return training
