"""Draw what the paper draws: learning curves, targets beside outputs, and weightings over time.

Writes learning.png, all runs in one, and for each run outputs.png and, of a Neural Turing Machine, weightings.png:
location by time, of one sequence.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    from . import seed, sizes

    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run of `train`")
    parser.add_argument("--out", type=Path, help="folder of learning.png (default: the first run's)")
    parser.add_argument(
        "--test",
        action="append",
        type=sizes,
        metavar="NAME=N[,NAME=N]",
        help="sizes to draw instead of the task's own, as length=50, the first in weightings.png too",
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the sequences drawn")


def run(args: argparse.Namespace) -> int:
    """Writes the pictures and prints where they are."""
    from . import known, require

    require({"matplotlib": "matplotlib"})
    from ..training import Store, Training, pictures

    out, written = args.out or args.runs[0], []
    trainings = [Training.load(folder) for folder in args.runs]
    tests = [known(args.test or t.task.tests or [t.task.largest], t.task) for t in trainings]
    lines = {str(folder): Store(folder).lines() for folder in args.runs}
    out.mkdir(parents=True, exist_ok=True)
    written.append(out / "learning.png")
    pictures.curves(lines, written[-1])
    for folder, training, shown in zip(args.runs, trainings, tests):
        written.append(folder / "outputs.png")
        pictures.outputs(training, shown, written[-1], args.seed)
        if training.config.model == "ntm":
            written.append(folder / "weightings.png")
            pictures.weightings(training, (args.test or [training.task.largest])[0], written[-1], args.seed)
    for path in written:
        print(path)
    return 0
