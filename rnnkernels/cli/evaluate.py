"""Try a trained model on fresh sequences, of the sizes it was trained on and beyond.

For each size: the loss in bits per sequence, wrong bits per sequence, and bits right in %. On dynamic N-grams also what
the best possible predictor loses on the same sequences.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    from . import positive, seed, sizes

    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a run of `train`")
    parser.add_argument("--sequences", type=positive, default=640, help="of each size")
    parser.add_argument("--seed", type=seed, default=0, help="of the sequences")
    parser.add_argument(
        "--test",
        action="append",
        type=sizes,
        metavar="NAME=N[,NAME=N]",
        help="sizes to try instead of the task's own, as length=50 or length=20,repeats=10",
    )
    parser.add_argument("--threads", type=positive, help="of torch (default: as many as it has)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    import torch

    from ..training import Training
    from ..training.files import finite
    from . import known

    torch.set_num_threads(args.threads or torch.get_num_threads())
    training = Training.load(args.folder)
    tests = known(args.test or [{}, *training.task.tests], training.task)
    scores = [training.evaluate(args.sequences, args.seed, **test).as_dict() for test in tests]
    if args.json:
        found = [{"sizes": test, **score} for test, score in zip(tests, scores)]
        facts = {"run": str(args.folder), "config": training.config.as_dict(), "learned_from": training.sequences}
        found = {**facts, "sequences": args.sequences, "seed": args.seed, "scores": finite(found)}
        print(json.dumps(found, indent=1, allow_nan=False))
        return 0
    heads = {"loss": "bits lost", "errors": "wrong bits", "right": "right, %", "optimal": "best possible"}
    print(f"{training.config.task}, {training.config.model}, after {training.sequences:,} sequences; per sequence:")
    print(f"{'':24}" + "".join(f"{heads[name]:>14}" for name in scores[0]))
    for test, score in zip(tests, scores):
        name = ", ".join(f"{name} {value}" for name, value in test.items()) or "as trained"
        print(f"{name:24}" + "".join(f"{value:14.3f}" for value in score.values()))
    return 0
