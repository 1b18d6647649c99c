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

from .. import __version__, get_isa
from . import bench, check, demo, evaluate, info, plot, reproduce, train


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 good, 1 failed or refused, 2 bad usage, 130 interrupted.

    What users, files and machines may do to a command is an exception of `TROUBLES`, wherever it is raised, and ends it
    with one line. Other exceptions are faults of ours and keep their traceback.
    """
    by_script = os.path.basename(sys.argv[0]) == "rnnkernels"
    prog = "rnnkernels" if by_script else "python -m rnnkernels"
    parser = argparse.ArgumentParser(prog=prog, description="Fused recurrent layers for PyTorch.")
    parser.add_argument("--version", action="version", version=f"rnnkernels {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in (info, check, bench, demo, train, evaluate, plot, reproduce):
        text = command.__doc__ or ""
        name = command.__name__.rpartition(".")[2]
        sub = commands.add_parser(
            name,
            help=text.partition("\n")[0].rstrip("."),
            description=text,
            formatter_class=HelpFormatter,
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
        try:
            sys.stdout.flush()
        except OSError:  # that was the trouble; when Python ends it would be so again
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # who reads no further, as `head`, wants no more
            print(f"rnnkernels {args.command}: {one_line(error)}", file=sys.stderr)
        return 1


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each argument that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


TROUBLES = (ArithmeticError, ImportError, MemoryError, OSError, RuntimeError, ValueError)


def one_line(error: BaseException) -> str:
    """What is wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).partition("\nException raised from")[0].split())  # torch adds where in its C++
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}".removesuffix(": ")


def positive(text: str) -> int:
    """An argument that counts something; products of few of them fit 64 bits."""
    value = int(text)
    if not 1 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"a number from 1 to {2**31 - 1} expected, found {value}")
    return value


def seed(text: str) -> int:
    """An argument that seeds what is drawn."""
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise argparse.ArgumentTypeError(f"a number of 64 bits expected, found {value}")
    return value


def assignment(text: str) -> tuple[str, Any]:
    """ "lr=0.1" as a pair; a value that is no Python literal is a word."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"OPTION=VALUE expected, found {text}")
    try:
        return name, ast.literal_eval(value)
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
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
