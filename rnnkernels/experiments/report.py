"""The page of results, rendered from the runs on file and never written by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from .entry import Entry, Outcome
from .runner import judge, load, outcomes

__all__ = ["render", "summary"]

HEAD = """# Reproduction

Papers' figures beside what was measured here. Rendered by `python -m rnnkernels reproduce` from the files in
`reproduction/`, which hold every trial of every run; do not edit it.

Each row is one variant of a protocol. Of its runs on file the page shows the latest with at least the entry's own
number of trials, or else the latest of all. *Solved*: trials that met the paper's criterion. *Median*: over all trials,
one that did not counting as more than any that did. *Mean*, *sd* and *range*: over the trials that did. *Seconds*: the
mean of a trial's, on one thread. A gate is judged on runs with the entry's own number of trials and cap alone.
"""


def _number(value: float) -> str:
    if abs(value) >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def latest(entry: Entry, runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each variant on file the run that is shown, its options and trials beside its facts; the entry's own first.

    What was run under a name whose options are other ones by now is shown under a name of its own.
    """
    now = {v.name: json.loads(json.dumps(entry.options_of(v))) for v in entry.variants}
    shown: dict[str, dict[str, Any]] = {}
    for run in runs:
        for name, held in run["variants"].items():
            changed = name in now and held["options"] != now[name]
            label = f"{name} (options changed since)" if changed else name
            full = len(held["trials"]) >= entry.trials
            if label not in shown or full or len(shown[label]["trials"]) < entry.trials:
                shown[label] = {**run, **held}
    return {name: shown[name] for name in [*(n for n in now if n in shown), *(n for n in shown if n not in now)]}


def summary(found: list[Outcome]) -> dict[str, str]:
    """A row of the table, as text: solved, median, mean, sd, range, seconds, further."""
    solved = [o.count for o in found if o.solved]
    judged = any(o.solved is not None for o in found)
    row = {"solved": f"{len(solved)} of {len(found)}" if judged else f"{len(found)} trials"}
    middle = median([o.count if o.solved else float("inf") for o in found])
    row["median"] = "-" if not judged else _number(middle) if middle < float("inf") else "unsolved"
    row["mean"] = _number(mean(solved)) if solved else "-"
    row["sd"] = _number(stdev(solved)) if len(solved) > 1 else "-"
    row["range"] = f"{_number(min(solved))} to {_number(max(solved))}" if solved else "-"
    row["seconds"] = _number(mean(o.seconds for o in found))
    names = dict.fromkeys(name for o in found for name in o.figures)
    further = []
    for name in names:
        held = [o.figures[name] for o in found if name in o.figures]
        values = [value for value in held if math.isfinite(value)]
        text = _number(median(values)) if values else "-"
        text += f" ({_number(min(values))} to {_number(max(values))})" if len(set(values)) > 1 else ""
        text += f", {len(held) - len(values)} not finite" if len(values) < len(held) else ""
        further.append(f"{name}: {text}")
    if late := sorted(o.count for o in found if o.stopped == "time"):
        reached = _number(late[0]) + (f" to {_number(late[-1])}" if late[0] < late[-1] else "")
        further.append(f"{len(late)} ended by the time limit, at {reached}")
    row["further"] = "; ".join(further)
    return row


def _verdict(entry: Entry, shown: Mapping[str, dict[str, Any]]) -> str:
    if entry.gate is None:
        return "reported"
    # a gate over several variants is judged where one run or several have them all
    found = {name: outcomes(run["trials"]) for name, run in shown.items()}
    caps = {shown[name]["cap"] for name in entry.gate.variants if name in shown}
    trouble = judge(entry, found, caps.pop()) if len(caps) == 1 else None
    return "not judged" if trouble is None else "failed" if trouble else "passed"


def _headline(entry: Entry, shown: Mapping[str, dict[str, Any]], rows: Mapping[str, dict[str, str]]) -> str:
    """The measured figure of the first table: the gate's variants, or else the one that solved most, soonest."""

    def merit(name: str) -> tuple[float, float]:
        solved = [o.count for o in outcomes(shown[name]["trials"]) if o.solved]
        return -len(solved) / len(shown[name]["trials"]), mean(solved) if solved else 0.0

    if entry.gate:
        names = [name for name in entry.gate.variants if name in rows]
    elif all(row["median"] == "-" for row in rows.values()):
        names = list(rows)
    else:
        names = sorted(rows, key=merit)[:1]
    texts = []
    for name in names:
        row = rows[name]
        text = row["solved"] if row["median"] == "-" else f"{row['solved']} solved, median {row['median']}"
        text += f"; {row['further']}" if row["further"] else ""
        best = f", the best of {len(rows)} variants" if len(names) < len(rows) and not entry.gate else ""
        texts.append(f"{name}{best}: {text}")
    return "<br>".join(texts) or "-"


def _curves(found: Mapping[str, list[Outcome]]) -> list[str]:
    """A table of learning curves, trials by sequences; nothing where there are none."""
    curves = [
        (name, o, dict(zip(o.curve["sequences"], o.curve["loss"], strict=True)))
        for name, trials in found.items()
        for o in trials
        if o.curve
    ]
    counts = sorted({count for _, _, curve in curves for count in curve})
    if not counts:
        return []
    shown = [counts[2**k - 1] for k in range(len(counts).bit_length())]  # the first, second, fourth, eighth, ...
    shown += counts[-1:] if counts[-1] > shown[-1] else []
    body = []
    for name, o, curve in curves:
        solved = "" if o.solved is None else _number(o.count) if o.solved else "no"
        body.append([name, o.seed, solved, *(_number(curve[c]) if c in curve else "-" for c in shown)])
    head = ["bits per sequence", "seed", "solved at", *(f"after {_number(c)}" for c in shown)]
    return ["", "Learning curves:", "", *_table(head, body, range(1, len(head)))]


def _table(head: list[str], rows: Iterable[Iterable[str]], right: Iterable[int] = ()) -> list[str]:
    rule = ["---:" if k in right else "---" for k in range(len(head))]
    lines = [head, rule, *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def render(entries: Iterable[Entry], folder: Path) -> str:
    """The page, of the files `<entry>.json` in `folder`."""
    overview, sections = [], []
    for entry in entries:
        runs = load(folder / f"{entry.name}.json")
        shown = latest(entry, runs)
        found = {name: outcomes(run["trials"]) for name, run in shown.items()}
        rows = {name: summary(trials) for name, trials in found.items()}
        verdict = _verdict(entry, shown) if rows else "not run"
        overview.append([f"[{entry.name}](#{entry.name})", entry.paper, _headline(entry, shown, rows), verdict])
        sections += ["", f"## {entry.name}", "", f"{entry.title}.", "", f"- Paper: {entry.paper}."]
        if entry.gate:
            sections.append(f"- Gate: {entry.gate.text}: **{verdict}**.")
        else:
            sections.append("- Reported, not gated.")
        sections += [f"- {entry.notes}"] if entry.notes else []
        again = f"python -m rnnkernels reproduce {entry.name}" + " --data DIR" * entry.needs_data
        sections.append(
            f"- Again: `{again}` (trials of each variant: {entry.trials}; at most {entry.seconds:,} seconds in all)."
        )
        if not rows:
            continue
        columns = ["solved", "median", "mean", "sd", "range"]
        unsolvable = all(row["median"] == "-" for row in rows.values())
        columns = ["solved"] if unsolvable else columns
        heads = {"solved": "trials"} if unsolvable else {"median": f"median {entry.unit}"}
        head = ["variant", *(heads.get(c, c) for c in columns), f"cap ({entry.unit})", "seconds", "further", "measured"]
        stamps: dict[str, str] = {}
        body = []
        for name, row in rows.items():
            mark = stamps.setdefault(_stamp(shown[name]), chr(ord("a") + len(stamps) % 26))
            cap = _number(shown[name]["cap"])
            body.append([name, *(row[c] for c in columns), cap, row["seconds"], row["further"], mark])
        sections += ["", *_table(head, body, range(1, len(columns) + 3)), ""]
        sections += [f"{mark}: {stamp}  " for stamp, mark in stamps.items()]
        sections += _curves(found)
    top = _table(["entry", "paper", "measured", "gate"], overview)
    return "\n".join([HEAD, *top, *sections]).rstrip() + "\n"


def _stamp(run: Mapping[str, Any]) -> str:
    machine, versions = run["machine"], run["versions"]
    by = ", ".join(f"{name} {version}" for name, version in versions.items())
    revision = f", revision {run['revision']}" if run["revision"] else ""
    cut = ", interrupted" if run["interrupted"] else ""
    return (
        f"{run['date']}, {machine['processor']}, {machine['cores']} cores, {run['isa']}, {by}{revision}, "
        f"{run['jobs']} trials at a time{cut}"
    )
