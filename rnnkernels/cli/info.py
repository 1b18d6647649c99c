"""Print what was built, what this machine has and which kernel ran last."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> int:
    """Prints `rnnkernels.info()`."""
    from .. import info

    print(info())
    return 0
