"""The command line: one module per command, each with `add_arguments(parser)` and `run(args) -> exit status`."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .. import get_isa
from . import bench, check, demo, evaluate, info, plot, reproduce, train


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 good, 1 a failed check, 2 bad usage, 130 interrupted."""
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
        sub.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    try:
        get_isa()  # reads $RNNKERNELS_ISA
    except RuntimeError as error:
        print(f"rnnkernels: {error}", file=sys.stderr)
        return 2
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


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


def lacks(command: str, packages: Mapping[str, str]) -> bool:
    """Whether a module among `packages` is not installed; says so in one line, with what to install."""
    absent = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
    if absent:
        print(f"rnnkernels {command}: needs {', '.join(absent)}: pip install {' '.join(absent)}", file=sys.stderr)
    return bool(absent)
