"""The command line: one module per command, each with `add_arguments(parser)` and `run(args) -> exit status`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .. import get_isa
from . import check, demo, info, reproduce


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 good, 1 a failed check, 2 bad usage, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m rnnkernels", description="Fused recurrent layers for PyTorch on the CPU."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in (info, check, demo, reproduce):
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
