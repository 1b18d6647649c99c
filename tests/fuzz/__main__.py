"""The command line of the fuzz: see `tests.fuzz`."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time

from . import TARGETS
from .harness import Found, Report, fuzz, run_case, targets, work


def main(argv: list[str] | None = None) -> int:
    """1 if there are faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=sys.modules[__package__].__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (default: 0)")
    parser.add_argument("--only", action="append", default=[], metavar="TARGET", help="this target alone; repeatable")
    parser.add_argument("--case", type=int, help="this case alone, in this process: needs --only")
    parser.add_argument("--list", action="store_true", help="name the targets, and end")
    parser.add_argument("--modules", nargs="+", default=TARGETS, metavar="MODULE", help="of targets (default: all)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    known = targets(args.modules)
    if args.worker:
        work(known)
        return 0
    if args.list:
        for name, one in known.items():
            print(f"{name}: {(one.run.__doc__ or '').splitlines()[0]}")
        return 0
    if unknown := set(args.only) - set(known):
        parser.error(f"--only: expected one of {', '.join(known)}, got {', '.join(unknown)}")
    if args.case is not None:
        if len(args.only) != 1:
            parser.error("--case: expected one --only TARGET beside it")
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # some targets empty folders
            message = run_case(known[args.only[0]], args.seed, args.case)
        print(message or "nothing wrong")
        return int(message is not None)

    last = time.monotonic()

    def told(report: Report, passed: float) -> None:
        nonlocal last
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            print(f"{passed:6.0f} s: {sum(report.cases.values()):,} cases, {len(report.found)} faults", flush=True)

    seen: set[str] = set()

    def heard(found: Found) -> None:
        if found.kind not in seen:  # the others of its kind are counted at the end
            seen.add(found.kind)
            print(found, flush=True)

    report = fuzz(args.modules, args.seed, args.seconds, args.only, told=told, heard=heard)
    print(report)
    return int(bool(report.found))


if __name__ == "__main__":
    sys.exit(main())
