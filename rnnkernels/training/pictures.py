"""The paper's pictures: learning curves, targets beside outputs, weightings over time. Needs matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from .files import replace
from .loop import Training

__all__ = ["curves", "outputs", "save", "weightings"]


def _image(panel: Any, values: Tensor, title: str, numbered: bool = False) -> None:
    """Values (rows, ticks), 0 white and 1 black unless they go further."""
    limits = {"vmin": min(0.0, float(values.min())), "vmax": max(1.0, float(values.max()))}
    panel.imshow(values.numpy(), aspect="auto", cmap="gray_r", interpolation="nearest", **limits)
    panel.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
    panel.tick_params(labelsize=7, left=numbered, labelleft=numbered)
    panel.locator_params(axis="x", integer=True)


def _figure(rows: int, columns: int, width: float, heights: Sequence[float], **options: Any) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure((width, sum(heights)), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=heights, **options)


def save(figure: Any, path: Path) -> None:
    """Writes a picture as a whole or not at all, as PNG where its name does not say what it is."""
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format=path.suffix[1:] or "png")
    replace(path, content.getbuffer())


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Bits per sequence against sequences: evaluations, and faintly the sequences learned from.

    Args:
        runs: the lines of metrics of each, by name.
    """
    figure, panels = _figure(1, 1, 7, [4.2])
    panel = panels[0, 0]
    for number, (name, lines) in enumerate(runs.items()):
        for kind, look in (("training", {"alpha": 0.3, "linewidth": 0.7}), ("evaluation", {"label": name})):
            points = [(line["sequences"], _number(line.get("loss"))) for line in lines if line["kind"] == kind]
            panel.plot(*zip(*points) if points else ((), ()), color=f"C{number}", **look)
    panel.set(xlabel="sequences", ylabel="cost per sequence (bits)", ylim=(0, None))
    panel.legend()
    save(figure, path)


@torch.inference_mode()
def outputs(training: Training, tests: Sequence[Mapping[str, int]], path: Path, seed: int = 0) -> None:
    """What is wanted and, beside it, what the model says, of one sequence of each of these sizes."""
    figure, panels = _figure(len(tests), 2, 11, [1.2] * len(tests))
    generator = Generator().manual_seed(seed)
    for row, sizes in zip(panels, tests):
        batch = training.task.batch(generator, 1, **sizes)
        logits, _ = training.model(batch.x)
        title = "\n".join(f"{name} {value}" for name, value in sizes.items())
        for panel, values in zip(row, (batch.target, logits.sigmoid())):
            _image(panel, values[batch.mask].T, title)
            title = ""
    panels[0, 0].set_title("target")
    panels[0, 1].set_title("output")
    save(figure, path)


@torch.inference_mode()
def weightings(training: Training, sizes: Mapping[str, int], path: Path, seed: int = 0) -> None:
    """One sequence of these sizes: input, output, and where every head writes and reads, location by time."""
    batch = training.task.batch(Generator().manual_seed(seed), 1, **sizes)
    logits, _, trace = training.model(batch.x, return_trace=True)
    shown = batch.mask.unsqueeze(-1)
    images = [("input", batch.x[:, 0]), ("target", batch.target[:, 0]), ("output", (logits.sigmoid() * shown)[:, 0])]
    for way, heads in (("write", trace.write_weightings), ("read", trace.read_weightings)):
        images += [(f"{way} {k}" if heads.size(2) > 1 else way, heads[:, 0, k]) for k in range(heads.size(2))]
    heights = [2.4 if name.startswith(("write", "read")) else 0.9 for name, _ in images]
    figure, panels = _figure(len(images), 1, 9, heights, sharex=True)
    for panel, (name, values) in zip(panels[:, 0], images):
        _image(panel, values.T, name, numbered=name.startswith(("write", "read")))
    panels[-1, 0].set_xlabel("time")
    save(figure, path)
