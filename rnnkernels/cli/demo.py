"""Train the same LSTM and GRU digit readers with torch.nn and with rnnkernels, then a Neural Turing Machine to copy.

The handwritten digits that ship inside scikit-learn (1797 images of 8 x 8 pixels) are read row by row: T = 8 ticks of
I = 8 pixels. Both trainings start from one seed and take turns step by step, so that whatever else the machine does
meets both. The machine learns the copy task of its paper, and a second picture shows where it writes and reads. Ends
with status 1 if the losses of the first 50 steps differ by more than 1e-4 or the accuracies by more than one point, or
if the machine has not come below 0.1 wrong bits per sequence.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

STEPS_COMPARED = 50
LOSS_TOLERANCE = 1e-4
ACCURACY_TOLERANCE = 1.0  # points of a hundred
SIDES = ("torch.nn", "rnnkernels")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The demo's arguments."""
    from . import positive, seed

    parser.add_argument("--seed", type=seed, default=0, help="of the weights, the split and the order of the images")
    parser.add_argument("--epochs", type=positive, default=20, help="passes over the training images")
    parser.add_argument("--seconds", type=positive, default=75, help="no new epoch of a layer is begun after so long")
    parser.add_argument("--hidden", type=positive, default=128, help="hidden units of each of the two layers")
    parser.add_argument("--batch", type=positive, default=32, help="images in a training step")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="threads of both sides")
    parser.add_argument("--sequences", type=positive, default=40_000, help="that the machine learns to copy at most")
    parser.add_argument(
        "--out", type=Path, default=Path("demo.png"), help="where the picture of the digit readers goes"
    )
    parser.add_argument("--ntm-out", type=Path, default=Path("demo-ntm.png"), help="where that of the machine goes")


class Reader(nn.Module):
    """Two recurrent layers over the rows of an image, a linear layer over the last tick.

    Input (B, T=8, I=8), output (B, 10) scores.
    """

    def __init__(self, kind: type[nn.Module], hidden: int) -> None:
        super().__init__()
        self.rows = kind(8, hidden, num_layers=2, batch_first=True)
        self.score = nn.Linear(hidden, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.score(self.rows(image)[0][:, -1])


@dataclass
class Side:
    """One side's model, its optimiser, and what came of it."""

    model: Reader
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    accuracy: float = math.nan

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def step(self, images: Tensor, labels: Tensor) -> None:
        start = time.perf_counter()
        loss = nn.functional.cross_entropy(self.model(images), labels)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(loss.item())

    @torch.inference_mode()
    def test(self, images: Tensor, labels: Tensor) -> None:
        self.accuracy = 100.0 * (self.model(images).argmax(1) == labels).float().mean().item()


@dataclass
class Result:
    """One kind of layer, trained on both sides."""

    kind: str
    sides: dict[str, Side]

    @property
    def loss_difference(self) -> float:
        ours, theirs = (self.sides[s].losses[:STEPS_COMPARED] for s in SIDES)
        return max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), key=lambda d: (math.isnan(d), d))

    @property
    def accuracy_difference(self) -> float:
        return abs(self.sides[SIDES[0]].accuracy - self.sides[SIDES[1]].accuracy)

    @property
    def speed_up(self) -> float:
        return sum(self.sides[SIDES[0]].seconds) / sum(self.sides[SIDES[1]].seconds)

    def disagreements(self) -> list[str]:
        """One line for each way in which the sides differ by more than they may; NaN differs."""
        lines = []
        if not self.loss_difference <= LOSS_TOLERANCE:
            lines.append(
                f"{self.kind}: losses of the first {STEPS_COMPARED} steps within {LOSS_TOLERANCE:g} expected, "
                f"found {self.loss_difference:.2g}"
            )
        if not self.accuracy_difference <= ACCURACY_TOLERANCE:
            lines.append(
                f"{self.kind}: accuracies within {ACCURACY_TOLERANCE:g} point expected, "
                f"found {self.accuracy_difference:.2f} points"
            )
        return lines


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The images (N, T=8, I=8) in [0, 1] and labels (N,) to train on, and those, a fifth, to test on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=0.2, random_state=seed % 2**32, stratify=labels)
    train, test, train_labels, test_labels = (torch.from_numpy(part) for part in split)
    return train.float().view(-1, 8, 8) / 16, train_labels, test.float().view(-1, 8, 8) / 16, test_labels


def train(kind: str, args: argparse.Namespace, data: tuple[Tensor, ...], progress: Any) -> Result:
    """Both sides of one kind of layer, in turns."""
    import rnnkernels as rk

    torch.manual_seed(args.seed)
    model = Reader(getattr(nn, kind), args.hidden)
    sides = {SIDES[0]: Side(model), SIDES[1]: Side(rk.convert(copy.deepcopy(model)))}
    images, labels, test_images, test_labels = data
    for side in sides.values():  # the first calls of a process set things up that no later call pays for
        warm = Side(copy.deepcopy(side.model))
        for _ in range(3):
            warm.step(images[: args.batch], labels[: args.batch])

    order = torch.Generator().manual_seed(args.seed)
    turn, start = list(sides.values()), time.perf_counter()
    for epoch in range(args.epochs):
        if time.perf_counter() - start > args.seconds:
            progress.write(f"{kind}: stopped after {epoch} epochs and {args.seconds} s, on both sides alike")
            break
        for batch in torch.randperm(len(images), generator=order).split(args.batch):
            for side in turn:
                side.step(images[batch], labels[batch])
            turn.reverse()
            progress.update()
        progress.set_postfix({name: f"{sum(side.seconds):.1f} s" for name, side in sides.items()}, refresh=False)
    for side in sides.values():
        side.model.eval()
        side.test(test_images, test_labels)
    return Result(kind, sides)


def learn_to_copy(args: argparse.Namespace, progress: Any) -> str | None:
    """Trains the machine, one sequence a step, and draws what it does with a long one; what is wrong, in a line."""
    from ..training import CONVERGED, paper, pictures
    from ..training import train as learn

    def told(line: dict[str, Any]) -> None:
        progress.update(line["sequences"] - progress.n)
        progress.set_postfix_str(f"{line['loss']:.2f} bits, {line['errors']:.2f} wrong", refresh=False)

    config = paper("copy", "ntm-lstm", sequences=args.sequences, seed=args.seed, stop=True, threads=1)
    trained = learn(config, told=told)
    pictures.weightings(trained, {"length": 20}, args.ntm_out)
    errors = trained.curve[-1][2] if trained.curve else math.inf
    if trained.converged is None:
        return f"copy: below {CONVERGED} wrong bits per sequence expected, found {errors:.2f} after {args.sequences:,}"
    progress.write(
        f"copy: {errors:.3f} wrong bits per sequence of 1 to 20 vectors, after {trained.converged:,} sequences"
    )
    return None


def picture(name: str, path: Path) -> None:
    """Raises ValueError or OSError where no picture could be written, before anything has been learned to be drawn."""
    from matplotlib.backend_bases import FigureCanvasBase

    if not path.absolute().parent.is_dir():
        raise ValueError(f"{name}: a file in a folder that exists expected, found {path}")
    kinds = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix and path.suffix[1:].lower() not in kinds:
        raise ValueError(f"{name}: a picture expected ({', '.join(kinds)}), found {path}")
    created = not path.exists()
    path.open("ab").close()
    if created:
        path.unlink()


def draw(results: list[Result], title: str, path: Path) -> None:
    """The loss curves of both sides, one panel for each kind of layer, and the times."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from ..training.pictures import save

    look = {"torch.nn": {"color": "#f0a35e", "linewidth": 4}, "rnnkernels": {"color": "#1f4e79", "linewidth": 1.2}}
    figure, panels = pyplot.subplots(1, len(results) + 1, figsize=(5 * (len(results) + 1), 4.2), layout="constrained")
    for panel, result in zip(panels, results, strict=False):
        for name, side in result.sides.items():
            panel.plot(side.losses, label=f"{name}, {side.accuracy:.1f} % right", **look[name])
        panel.set(title=result.kind, xlabel="training step", ylabel="loss (cross entropy)", yscale="log")
        panel.legend()
    places = range(len(results))
    for shift, name in ((-0.2, SIDES[0]), (0.2, SIDES[1])):
        seconds = [sum(result.sides[name].seconds) for result in results]
        bars = panels[-1].bar([p + shift for p in places], seconds, width=0.38, label=name, color=look[name]["color"])
        panels[-1].bar_label(bars, fmt="%.1f s")
    panels[-1].set_xticks(places, [f"{result.kind}\n{result.speed_up:.1f} times as fast" for result in results])
    panels[-1].set(title="training time", ylabel="seconds")
    panels[-1].margins(y=0.15)
    panels[-1].legend()
    figure.suptitle(title, fontsize=10)
    save(figure, path)
    pyplot.close(figure)


def run(args: argparse.Namespace) -> int:
    """Trains, prints the table, writes the pictures; 1 if the sides disagree or the machine cannot copy."""
    from . import require

    require({"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm"})
    for name, path in (("--out", args.out), ("--ntm-out", args.ntm_out)):
        picture(name, path)
    from tqdm import tqdm

    from .. import get_isa

    torch.set_num_threads(args.threads)
    data = digits(args.seed)
    steps = args.epochs * math.ceil(len(data[0]) / args.batch)
    facts = (
        f"digits read row by row: T 8, B {args.batch}, I 8, H {args.hidden}, 2 layers, {args.epochs} epochs, "
        f"threads {args.threads}, {get_isa()}, torch {torch.__version__}"
    )
    print(facts)
    results = []
    for kind in ("LSTM", "GRU"):
        with tqdm(
            total=steps, desc=f"{kind:4}", unit="step", mininterval=0.2 if sys.stderr.isatty() else 10
        ) as progress:
            results.append(train(kind, args, data, progress))

    print(f"\n{'':6}{'torch.nn':>12}{'rnnkernels':>12}{'speed-up':>10}{'accuracy':>19}{'first losses apart':>21}")
    for result in results:
        theirs, ours = (result.sides[name] for name in SIDES)
        print(
            f"{result.kind:6}{sum(theirs.seconds):10.1f} s{sum(ours.seconds):10.1f} s{result.speed_up:9.2f}x"
            f"{theirs.accuracy:9.1f} %{ours.accuracy:6.1f} %{result.loss_difference:21.1e}"
        )
    draw(results, facts, args.out)
    disagreements = [line for result in results for line in result.disagreements()]
    if not disagreements:
        print("\nboth sides agree: the same losses at first, the same accuracy in the end")
    with tqdm(
        total=args.sequences, desc="NTM, copy", unit="seq", mininterval=0.2 if sys.stderr.isatty() else 10
    ) as progress:
        trouble = learn_to_copy(args, progress)
    print(f"pictures: {args.out}, {args.ntm_out}")
    disagreements += [trouble] if trouble else []
    for line in disagreements:
        print(f"rnnkernels demo: {line}", file=sys.stderr)
    return 1 if disagreements else 0
