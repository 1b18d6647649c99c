"""The command line: one module per command, each with `add_arguments(parser)` and `run(args) -> exit status`."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .. import get_isa
from . import bench, check, demo, evaluate, info, plot, reproduce, train


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 good, 1 failed or refused, 2 bad usage, 130 interrupted.

    What users, files and machines may do to a command is an exception of `TROUBLES`, wherever it is raised, and ends it
    with one line. Other exceptions are faults of ours and keep their traceback.
    """
    parser = argparse.ArgumentParser(prog="python -m rnnkernels", description="Fused recurrent layers for PyTorch.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in (info, check, bench, demo, train, evaluate, plot, reproduce):
        text = command.__doc__ or ""
        name = command.__name__.rpartition(".")[2]
        sub = commands.add_parser(
            name,
            help=text.partition("\n")[0].rstrip("."),
            description=text,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run, command=name)
    args = parser.parse_args(argv)
    try:
        get_isa()  # reads $RNNKERNELS_ISA
    except RuntimeError as error:
        print(f"rnnkernels: {error}", file=sys.stderr)
        return 2
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except TROUBLES as error:
        with contextlib.suppress(OSError, ValueError):  # no standard output any more, and at the end no second trouble
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"rnnkernels {args.command}: {line(error)}", file=sys.stderr)
        return 1


TROUBLES = (ArithmeticError, ImportError, MemoryError, OSError, RuntimeError, ValueError)


def line(error: BaseException) -> str:
    """What is wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}".removesuffix(": ")


def positive(text: str) -> int:
    """An argument that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"a number >= 1 expected, found {value}")
    return value


def assignment(text: str) -> tuple[str, Any]:
    """ "lr=0.1" as a pair; a value that is no Python literal is a word."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"OPTION=VALUE expected, found {text}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def sizes(text: str) -> dict[str, int]:
    """ "length=20,repeats=10" as a dict."""
    return {name: positive(str(value)) for name, value in map(assignment, text.split(","))}


def known(tests: Sequence[Mapping[str, int]], task: Any) -> Sequence[Mapping[str, int]]:
    """`tests`, if they are of sizes that the task has; ValueError otherwise."""
    for name in (name for test in tests for name in test):
        if name not in task.sizes:
            raise ValueError(f"sizes: expected {' or '.join(task.sizes)}, got {name}")
    return tests


def require(packages: Mapping[str, str]) -> None:
    """Raises ValueError, which says what to install, where a module among `packages` is not."""
    if absent := [package for module, package in packages.items() if importlib.util.find_spec(module) is None]:
        raise ValueError(f"needs {', '.join(absent)}: pip install {' '.join(absent)}")
