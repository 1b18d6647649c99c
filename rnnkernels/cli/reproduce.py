"""Repeat papers' experiments and set their figures beside what is measured here: docs/REPRODUCTION.md.

Every entry has a time limit of its own and can be run alone, one variant of its protocol too: `entry/variant`. Results
are appended to docs/reproduction/<entry>.json as trials end: what had finished counts, however a run ends. Ends with
status 1 if a gate is not met or a trial raises.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..training.files import alone, check_folder, finite, replace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    from . import assignment, positive, seed

    parser.add_argument(
        "entries", nargs="*", metavar="entry", help="names, or entry/variant; none: all that can be run"
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    parser.add_argument("--render", action="store_true", help="write the page from the files, and end")
    parser.add_argument("--trials", type=positive, help="of each variant (default: the entry's own)")
    parser.add_argument("--cap", type=positive, help="sequences of a trial at most (default: the entry's own)")
    parser.add_argument("--seconds", type=positive, help="time limit of each entry (default: its own)")
    parser.add_argument("--seed", type=seed, default=0, help="of the first trial; the next ones count up")
    parser.add_argument("--jobs", "--threads", type=positive, default=2, help="trials at a time, one thread each")
    parser.add_argument(
        "--data", type=Path, help="folder with the files of MNIST or IMDB, for the entries that need it"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        type=assignment,
        help="change an option of the variants that are run; they are kept under another name",
    )
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of REPRODUCTION.md and reproduction/")


def _chosen(args: argparse.Namespace) -> list[tuple[Any, list[Any]]]:
    """Entries and the variants of each to be run, or ValueError."""
    from ..experiments import ENTRIES, Variant

    asked: dict[str, list[Any]] = {}
    for word in args.entries or [e.name for e in ENTRIES.values() if args.data or not e.needs_data]:
        name, slash, variant = word.partition("/")
        if name not in ENTRIES:
            raise ValueError(f"entry: one of {', '.join(ENTRIES)} expected, found {name}")
        entry = ENTRIES[name]
        if entry.needs_data and not args.data:
            raise ValueError(f"{name}: needs --data DIR, the folder of its files")
        chosen = [entry.variant(variant)] if slash else entry.variants
        asked.setdefault(name, []).extend(v for v in chosen if v not in asked.get(name, []))
    if args.data and not args.data.is_dir():
        raise ValueError(f"--data: a folder expected, found {args.data}")
    result = []
    for name, variants in asked.items():
        if args.set:
            try:
                json.dumps(dict(args.set))
            except TypeError as error:
                raise ValueError(f"--set: a number, a word, or lists of them expected, found {error}") from None
            if unknown := {option for option, _ in args.set} - set(ENTRIES[name].options):
                options = ", ".join(ENTRIES[name].options)
                raise ValueError(f"--set: an option of {name} ({options}) expected, found {', '.join(unknown)}")
            label = ", ".join(f"{option}={value}" for option, value in args.set)
            variants = [Variant(f"{v.name}; {label}", {**v.options, **dict(args.set)}) for v in variants]
        result.append((ENTRIES[name], variants))
    return result


def _list() -> None:
    from ..experiments import ENTRIES

    for entry in ENTRIES.values():
        needs = ", needs --data" if entry.needs_data else ""
        print(f"{entry.name}: {entry.title}")
        print(f"    paper: {entry.paper}")
        print(f"    gate: {entry.gate.text if entry.gate else 'none, reported'}")
        print(
            f"    {entry.trials} trials of each variant, at most {entry.cap:,} {entry.unit} each, time limit "
            f"{entry.seconds:,} s{needs}"
        )
        for variant in entry.variants:
            changed = ", ".join(f"{name}={value}" for name, value in variant.options.items())
            print(f"    {entry.name}/{variant.name}" + (f"  [{changed}]" if changed else ""))
        print(f"    options: {json.dumps(dict(entry.options))}\n")


def write_page(out: Path) -> Path:
    """Renders the page; its path."""
    from ..experiments import ENTRIES
    from ..experiments.report import render

    path = out / "REPRODUCTION.md"
    out.mkdir(parents=True, exist_ok=True)
    with alone(out):
        replace(path, render(ENTRIES.values(), out / "reproduction").encode())
    return path


def _check(out: Path) -> None:
    """Raises ValueError or OSError where what is to be found could not be kept, before anything is looked for."""
    from ..experiments import ENTRIES
    from ..experiments.runner import load

    for folder in (out, out / "reproduction"):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--out: a folder expected, found the file {folder}")
        check_folder(folder)
    if (out / "REPRODUCTION.md").is_dir():
        raise ValueError(f"--out: a file expected, found the folder {out / 'REPRODUCTION.md'}")
    for name in ENTRIES:  # the page needs them all
        load(out / "reproduction" / f"{name}.json")


def _rescue(found: Any, path: Path) -> str:
    """What to say of a run that could not be kept where it belongs; it is left with other temporary files."""
    from . import one_line

    trouble = f"{one_line(found.unkept)}; not kept in {path}"
    try:
        handle, name = tempfile.mkstemp(prefix=f"rnnkernels-{found.entry.name}-", suffix=".json")
        with open(handle, "w") as file:
            json.dump({"entry": found.entry.name, "runs": [finite(found.as_dict())]}, file, allow_nan=False)
        return f"{trouble} but in {name}"
    except OSError as error:
        return f"{trouble}, nor elsewhere: {one_line(error)}"


def _measure(entry: Any, variants: list[Any], args: argparse.Namespace) -> Any:
    """Runs an entry under a progress bar, appends to its file, prints its rows; the `Run`."""
    from tqdm import tqdm

    from ..experiments.report import summary
    from ..experiments.runner import keep, run
    from . import one_line

    path = args.out / "reproduction" / f"{entry.name}.json"
    trials, cap, seconds = args.trials or entry.trials, args.cap or entry.cap, args.seconds or entry.seconds
    total, count = trials * len(variants), {"solved": 0, "ended": 0}
    shape = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    with tqdm(
        total=total, desc=entry.name, bar_format=shape, mininterval=0.2 if sys.stderr.isatty() else 30
    ) as progress:

        def told(_: str, outcome: Any) -> None:
            count["ended"] += 1
            count["solved"] += bool(outcome.solved)
            progress.set_postfix_str(
                f"{count['ended']} of {total} trials ended, {count['solved']} solved", refresh=False
            )

        def moved(part: float) -> None:
            progress.update(min(part, total - progress.n))

        def kept(found: Any) -> None:
            if not any(found.found.values()):
                return
            try:
                keep(path, found)
            except (OSError, ValueError) as error:
                if found.unkept is None:
                    progress.write(f"{entry.name}: not kept, to be tried again: {one_line(error)}", file=sys.stderr)
                raise

        found = run(entry, variants, trials, cap, args.seed, seconds, args.jobs, args.data, moved, told, kept)
        progress.n = round(progress.n, 3)
    if found.unkept:
        found.errors.append(_rescue(found, path))
    for name, outcomes in found.found.items():
        if outcomes:
            row = summary(outcomes)
            print(f"{entry.name}/{name}: {row['solved']}, median {row['median']}, mean {row['mean']} {entry.unit}, "
                  f"{row['seconds']} s a trial" + (f"; {row['further']}" if row["further"] else ""))  # fmt: skip
        else:
            print(f"{entry.name}/{name}: no trial finished")
    return found


def run(args: argparse.Namespace) -> int:
    """Runs what was asked for and writes the page; 1 if a gate is not met or a trial raised, 130 if interrupted."""
    from . import require

    if args.list:
        _list()
        return 0
    if args.render:
        print(write_page(args.out))
        return 0
    chosen = _chosen(args)
    digits = {"sklearn": "scikit-learn"} if any("digits" in entry.name for entry, _ in chosen) else {}
    require({"tqdm": "tqdm"} | digits)
    _check(args.out)
    trouble, interrupted = [], False
    for entry, variants in chosen:
        found = _measure(entry, variants, args)
        wrong = found.trouble()
        trouble += found.errors + [f"{entry.name}: {line}" for line in wrong or ()]
        if entry.gate:
            print(f"{entry.name}: gate {'not judged' if wrong is None else 'failed' if wrong else 'passed'}: "
                  f"{entry.gate.text}")  # fmt: skip
        if interrupted := found.interrupted:
            break
    for line in trouble:
        print(f"rnnkernels reproduce: {line}", file=sys.stderr)
    print(f"page: {write_page(args.out)}")
    if interrupted:
        print("interrupted: what had finished is kept", file=sys.stderr)
        return 130
    return 1 if trouble else 0
