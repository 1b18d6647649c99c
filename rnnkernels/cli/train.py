"""Train a Neural Turing Machine, or any layer, on a task of the paper: copy, associative recall, and three more.

Shows the loss in bits per sequence, wrong bits per sequence and sequences per second, and keeps metrics and checkpoints
in a folder that `evaluate` and `plot` read. Ctrl-C saves and ends; the same command with --resume goes on, bit for bit
as if it had never ended. docs/training.md says what is in the folder.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

# flags of the model's arguments, with what they say in --help
NUMBERS = {
    "controller_size": "units of each layer of the controller",
    "controller_layers": "layers of the controller",
    "read_heads": "read heads",
    "write_heads": "write heads",
    "memory_rows": "rows of the memory (N)",
    "memory_width": "numbers in a row (M)",
    "shift_range": "how far a head may shift at a tick, either way",
    "hidden_size": "units of each layer, of models that are no ntm",
    "num_layers": "layers, of models that are no ntm",
}
WORDS = {
    "controller": "lstm or feedforward",
    "preset": "conventions: graves2014, collier2018 or pytorch-ntm",
    "memory_init": "what the memory holds at first",
    "recompute": "compute again in backward what forward would save: less memory, more time",
}
# fields of `training.Config`
LEARNING = {
    "optimiser": "graves2013 (RMSprop as in the paper), rmsprop (torch's) or adam",
    "lr": "step size",
    "clip_value": "limit of every element of the gradient; 0: none",
    "clip_norm": "limit of the gradient's norm; 0: none",
    "batch": "sequences of a step",
    "sequences": "to be learned from in all",
    "seed": "of everything that is drawn",
    "log": "sequences between lines of metrics",
    "evaluate": "sequences between evaluations; 0: none",
    "fresh": "sequences of an evaluation",
    "threads": "of torch; 0: as many as it has",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments, by task."""
    from ..tasks.algorithmic import TASKS

    tasks = parser.add_subparsers(required=True, dest="task", metavar="task")
    for name, kind in TASKS.items():
        text = kind.__doc__ or ""
        _add_task(tasks.add_parser(name, help=text.partition("\n")[0], description=text), kind)


def _add_task(parser: argparse.ArgumentParser, task: type) -> None:
    """Only what is given on the command line is in the namespace: the rest is the paper's, or the resumed run's."""
    from ..training import MODELS, PAPER, Config
    from . import assignment, positive

    absent = {"default": argparse.SUPPRESS}
    sizes = parser.add_argument_group("sizes of the task")
    for field in fields(task):
        kind = {"action": argparse.BooleanOptionalAction} if type(field.default) is bool else {"type": positive}
        sizes.add_argument(_flag(field.name), help=f"(default: {field.default})", **kind, **absent)
    model = parser.add_argument_group("model")
    model.add_argument("--model", choices=MODELS, metavar="MODEL", help=f"{', '.join(MODELS)} (default: ntm)", **absent)
    rows = next(iter(PAPER.values()))
    model.add_argument("--paper", choices=rows, help="the paper's sizes and rates; other flags change them", **absent)
    for name, text in WORDS.items():
        model.add_argument(_flag(name), help=text, metavar="WORD", **absent)
    model.add_argument("--heads", type=int, metavar="N", help="read heads, and as many write heads", **absent)
    for name, text in NUMBERS.items():
        model.add_argument(_flag(name), type=int, metavar="N", help=text, **absent)
    model.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", type=assignment, help="any other argument"
    )
    learning = parser.add_argument_group("learning")
    for name, text in LEARNING.items():
        default = getattr(Config, name)
        text, metavar = f"{text} (default: {default})", "WORD" if type(default) is str else "X"
        learning.add_argument(_flag(name), type=type(default), metavar=metavar, help=text, **absent)
    learning.add_argument("--stop", action="store_true", help="end below 0.1 wrong bits per sequence", **absent)
    run = parser.add_argument_group("run")
    run.add_argument("--out", type=Path, help="folder of the run (default: runs/TASK-MODEL-SEED)")
    run.add_argument("--resume", action="store_true", help="go on with the run in --out; its settings hold")
    run.add_argument("--checkpoint-seconds", type=float, default=60.0, metavar="X", help="(default: 60)")
    run.add_argument("--checkpoint-sequences", type=int, default=0, metavar="N", help="(default: by time alone)")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def configured(args: argparse.Namespace, base: Any) -> Any:
    """`base`, a `training.Config`, with what the command line changes of it."""
    from ..tasks.algorithmic import TASKS

    given = vars(args)
    sizes = {field.name: given[field.name] for field in fields(TASKS[args.task]) if field.name in given}
    arguments = {name: given[name] for name in (*WORDS, *NUMBERS) if name in given}
    if "heads" in given:
        arguments = dict.fromkeys(("read_heads", "write_heads"), args.heads) | arguments
    changes = {name: given[name] for name in ("task", *LEARNING, "model", "stop") if name in given}
    kept = base.arguments if changes.get("model", base.model) == base.model else {}
    return replace(base, **changes, sizes={**base.sizes, **sizes}, arguments={**kept, **arguments, **dict(args.set)})


def run(args: argparse.Namespace) -> int:
    """Trains under a progress bar; 130 if interrupted, once the run is saved."""
    from . import require

    require({"tqdm": "tqdm"})
    from tqdm import tqdm

    from ..tasks.networks import weights
    from ..training import CONVERGED, Config, Store, paper, train

    start, config = 0, configured(args, paper(args.task, args.paper) if "paper" in args else Config(args.task))
    folder = args.out or Path("runs") / f"{args.task}-{config.model}-{config.seed}"
    if args.resume:
        state = Store(folder).load()
        start, config = state["sequences"], configured(args, state["config"])
    parameters = weights(config.make_model())
    print(f"{config.task}, {config.model}: {parameters:,} parameters; run: {folder}")
    shown: dict[str, str] = {}
    interval = 0.2 if sys.stderr.isatty() else 30
    with tqdm(total=config.sequences, initial=start, unit=" sequences", mininterval=interval) as progress:

        def going(count: int) -> bool:
            progress.update(count - progress.n)
            return True

        def told(line: dict[str, Any]) -> None:
            kind = "" if line["kind"] == "training" else "fresh: "
            shown[kind] = f"{kind}{line['loss']:.2f} bits, {line['errors']:.2f} wrong"
            progress.set_postfix_str("; ".join(shown.values()), refresh=False)

        try:
            training = train(
                config,
                folder,
                resume=args.resume,
                checkpoint_sequences=args.checkpoint_sequences,
                checkpoint_seconds=args.checkpoint_seconds,
                going=going,
                told=told,
            )
            going(training.sequences)
        except KeyboardInterrupt:
            training = None
    if training is None:
        print(f"interrupted: {folder} is saved, --resume goes on", file=sys.stderr)
        return 130
    when = f"after {training.converged:,}" if training.converged else "not"
    print(f"{training.sequences:,} sequences; below {CONVERGED} wrong bits per sequence: {when}")
    return 0
