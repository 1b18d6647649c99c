"""The command line: whatever is typed, it ends with a status and without a traceback."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

from rnnkernels import cli, training
from rnnkernels.experiments import ENTRIES

from .files import damaged, emptied, tiny
from .harness import Draw, Fault, target

WORDS = (
    *("", " ", "x", "-", "--", "-1", "0", "1", "2", "1.5", "nan", "inf", "-inf", "1e400", "99999999999999999999"),
    *("None", "True", "lstm", "ntm", "a=1", "a=", "=", "a=b=c", "length=3", "generator=3", "size=3", "count=2"),
    *("[1]", "(", "{}", "__import__('os')", "a\nb", "\u2603", "\udc80", "x" * 5000, "length=1,length=2", "length=0"),
    *("nowhere", "a file", "/dev/null", "/dev/full", "/proc/x", "a\0b", "a run/checkpoint.pt", "1000000000000"),
)


def run(argv: Sequence[str]) -> None:
    """Runs a command and raises `Fault` unless it says what is wrong in a line, if anything is."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(list(argv))
    except SystemExit as error:
        status = error.code
    except Exception as error:
        raise Fault(f"{' '.join(map(repr, argv))}: a traceback ending in {type(error).__name__}: {error}") from error
    said = err.getvalue()
    if status not in (0, 1, 2):
        raise Fault(f"{' '.join(map(repr, argv))}: ended with status {status!r}")
    if "Traceback" in said:
        raise Fault(f"{' '.join(map(repr, argv))}: {said[-300:]}")
    if status and not said.strip():
        raise Fault(f"{' '.join(map(repr, argv))}: status {status} and not a word")


def spoilt(draw: Draw, argv: Sequence[str]) -> list[str]:
    """The words with one that is another, or more or fewer of them."""
    argv = list(argv)
    for _ in range(draw.pick(1, 1, 1, 2)):
        at = draw.randrange(1, len(argv)) if len(argv) > 1 else 0
        kind = draw.pick("other", "other", "other", "gone", "more")
        if kind == "other":
            argv[at] = draw.choice(WORDS)
        elif kind == "gone":
            del argv[at]
        else:
            argv.insert(at, draw.choice(WORDS))
        if not argv:
            break
    return argv


TRAIN = (
    *("train", "copy", "--max-length", "2", "--bits", "2", "--controller-size", "3", "--memory-rows", "4"),
    *("--memory-width", "3", "--sequences", "2", "--fresh", "2", "--evaluate", "2", "--log", "1", "--batch", "1"),
    *("--threads", "1", "--out", "run"),
)


HUGE = ("1000000000000", "99999999999999999999")
COUNTS = ("--sequences", "--fresh", "--batch", "--max-length", "--trials", "--cap", "--seconds")


def _slow(argv: Sequence[str]) -> bool:
    """Whether it is a right command that would take long: the defaults are the paper's."""
    if any(word in COUNTS and value in HUGE for word, value in zip(argv, argv[1:])):
        return True
    needed = ("--max-length", "--sequences", "--fresh", "--controller-size", "--out", "--evaluate")
    if argv[:1] == ["reproduce"]:
        if "--list" in argv or "--render" in argv:
            return False
        needed = ("--trials", "--cap", "--jobs", "--seconds", "--out")
        if argv[1:2] == [] or argv[1].startswith("-"):  # all entries
            return True
    elif argv[:1] != ["train"] or "--resume" in argv:
        needed = ()
    return any(word not in argv for word in needed)


@target()
def training_commands(draw: Draw) -> None:
    """`train`, `evaluate` and `plot`."""
    emptied("run")
    place = Path("a run")
    if not (place / "checkpoint.pt").exists():
        training.train(tiny(), emptied("a run"))
    Path("a file").write_text("nothing")
    argv = draw.pick(
        TRAIN, TRAIN,
        ("train", "copy", "--resume", "--out", "a run", "--sequences", "2", "--threads", "1"),
        ("evaluate", "a run", "--sequences", "2", "--threads", "1", "--seed", "3"),
        ("evaluate", "a run", "--sequences", "2", "--threads", "1", "--test", "length=2", "--json"),
        ("evaluate", "a run", "--sequences", "2", "--threads", "1", "--test", "length=2,length=3"),
        ("plot", "a run", "--out", "pictures"),
    )  # fmt: skip
    argv = list(argv)
    if argv is not TRAIN and draw.chance(0.3):
        argv += draw.pick(["--set", "head_clip=1.0"], ["--heads", "1"], ["--model", "gru"], ["--stop"], ["--seed", "5"])
    for _ in range(20):
        wrong = spoilt(draw, argv)
        if wrong and not _slow(wrong) and (wrong[0] != "plot" or draw.chance(0.2)):
            return run(wrong)


@target(0.3)
def damaged_runs(draw: Draw) -> None:
    """`evaluate`, `plot` and `train --resume` of a run with a damaged file."""
    folder = emptied("run")
    training.train(tiny(), folder)
    path = folder / draw.pick("checkpoint.pt", "metrics.jsonl")
    path.write_bytes(damaged(draw, path.read_bytes()))
    run(draw.pick(
        ["evaluate", "run", "--sequences", "2", "--threads", "1"],
        ["train", "copy", "--resume", "--out", "run", "--sequences", "3", "--threads", "1"],
        ["plot", "run"],
    ))  # fmt: skip


@target(0.3)
def other_commands(draw: Draw) -> None:
    """`info`, `reproduce`, and commands that do not exist."""
    Path("a file").write_text("nothing")
    out = emptied("results")
    name = draw.pick("adding", "lag-2a", "reber-sgd")
    argv: list[str] = list(draw.pick(
        ("info",), ("reproduce", "--list"), ("reproduce", "--render", "--out", "results"),
        ("reproduce", f"{name}/{ENTRIES[name].variants[0].name}", "--trials", "1", "--cap", "1", "--jobs", "1",
         "--seconds", "2", "--out", "results"),
    ))  # fmt: skip
    if "--cap" in argv and draw.chance(0.5):
        (out / "reproduction").mkdir()
        (out / "reproduction" / f"{name}.json").write_bytes(
            draw.pick(b"", b"{", b"[]", b'{"runs": 3}', b"\xff", b"null")
        )
        return run(argv)
    wrong = spoilt(draw, argv)
    if wrong and not _slow(wrong):
        run(wrong)
