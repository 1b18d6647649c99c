"""What every target uses: random choices, calls that may fail in documented ways alone, processes that may die."""

from __future__ import annotations

import importlib
import json
import math
import os
import queue
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS_OF_A_CASE = 30
MEMORY = 16 << 30  # address space of a worker: a wrong size must not make the machine swap
BLOCK = 64  # cases of one target in a row

_T = TypeVar("_T")


class Fault(Exception):
    """Something is wrong with what was called."""


class Draw(random.Random):
    """Random choices, all of them from one seed."""

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def pick(self, *values: _T) -> _T:
        return self.choice(values)

    def size(self, most: int = 12) -> int:
        """A size: mostly small, 0 and 1 now and then."""
        return self.pick(0, 1, self.randint(1, most), self.randint(1, most))

    def seed_torch(self) -> int:
        """Seeds torch, for tensors; the seed."""
        seed = self.getrandbits(31)
        torch.manual_seed(seed)
        return seed


# -- targets -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A function that runs one random case, and its share of the time."""

    name: str
    run: Callable[[Draw], None]
    weight: float


_targets: dict[str, Target] = {}


def target(weight: float = 1.0) -> Callable[[Callable[[Draw], None]], Callable[[Draw], None]]:
    """Registers a function of a `Draw` as a target under its own name."""

    def register(function: Callable[[Draw], None]) -> Callable[[Draw], None]:
        _targets[function.__name__] = Target(function.__name__, function, weight)
        return function

    return register


def targets(modules: Sequence[str]) -> dict[str, Target]:
    """The targets of these modules of this package."""
    names = [importlib.import_module(f"{__package__}.{module}").__name__ for module in modules]
    return {name: one for name, one in _targets.items() if one.run.__module__ in names}


# -- what a call may do ------------------------------------------------------------------------------------------------

ALLOWED = (ValueError, TypeError, RuntimeError, IndexError)
# Messages of Python and torch where nobody looked at the argument.
UNCHECKED = re.compile(
    r"INTERNAL ASSERT|Please report a bug|enforce fail|not enough memory|"
    r"object is not (callable|subscriptable|iterable|an iterator)|unsupported operand|has no (len|attribute)|"
    r"not supported between instances|values to unpack|not in (tuple|list)|index out of range|"
    r"(must|should) be (a )?real number|cannot unpack|only (integer|one element) tensors|Boolean value of Tensor|"
    r"object cannot be interpreted|Overflow when unpacking|too large to convert|NaN to integer|invalid literal"
)
# What torch says before an op is reached: its schema, or a kind of tensor that an op has no kernel for.
BEFORE_OPS = re.compile(r"(?s)\w+\(\).*(Declaration|signatures)|^Could not run '|^There were no tensor")
HUGE = 2**28  # numbers of a tensor: a call with one may fail for want of memory


class Misfit:
    """A value of another kind than the annotation of its argument.

    What Python says of it will do, as it does in torch.nn: hot paths do not look at types.
    """

    def __init__(self, value: Any) -> None:
        self.value = value


def check_refusal(error: BaseException, what: str = "", huge: bool = False, misfit: bool = False) -> None:
    """Raises `Fault` unless this exception is one that a caller's mistake may raise, with one clear line."""
    text, name = str(error), type(error).__name__
    if misfit and isinstance(error, (*ALLOWED, AttributeError, KeyError)) and "INTERNAL ASSERT" not in text:
        return
    if huge and isinstance(error, (RuntimeError, OverflowError)) and re.search("alloc|too big|overflow", text):
        return
    if not isinstance(error, ALLOWED) or isinstance(error, (UnicodeError, RecursionError)):
        raise Fault(f"{what}raised {name}: {text}") from error
    if BEFORE_OPS.search(text):
        return
    if UNCHECKED.search(text):
        raise Fault(f"{what}raised {name} with an unclear message: {text}") from error
    if not text.strip() or len(text.strip().splitlines()) > 1:
        raise Fault(f"{what}raised {name} with a message of several lines or none: {text!r}") from error


def attempt(function: Callable[..., Any], *args: Any, what: str = "", **keywords: Any) -> tuple[Any, Exception | None]:
    """`(result, None)`, or `(None, error)` where the call was refused as it should be."""
    misfit = any(isinstance(v, Misfit) for v in (*args, *keywords.values()))
    args, keywords = _bare(args), _bare(keywords)
    try:
        return function(*args, **keywords), None
    except Fault:
        raise
    except Exception as error:
        huge = any(t.numel() >= HUGE for t in tensors_of([args, keywords]) if not t.is_nested)
        check_refusal(error, what, huge, misfit)
        return None, error


def _bare(values: Any) -> Any:
    """A tuple or dict of arguments without the word that one of them is a misfit."""
    if isinstance(values, dict):
        return {name: v.value if isinstance(v, Misfit) else v for name, v in values.items()}
    return tuple(v.value if isinstance(v, Misfit) else v for v in values)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_of(part)
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, but for the payload of NaN."""
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    if a.is_meta or a.numel() == 0:
        return True
    a, b = a.detach(), b.detach()
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    return bool(torch.equal(a, b) if not a.is_floating_point() else ((a == b) | (a.isnan() & b.isnan())).all())


def _is_plain(t: Tensor) -> bool:
    return type(t) in (Tensor, torch.nn.Parameter) and t.layout == torch.strided and not t.is_nested


def _spans(t: Tensor) -> tuple[int, int, int] | None:
    """The storage and the bytes from the first to one past the last element; None of no element or no memory."""
    if not _is_plain(t) or t.is_meta or t.numel() == 0 or torch._is_zerotensor(t):
        return None
    last = sum((n - 1) * s for n, s in zip(t.shape, t.stride()))
    start = t.data_ptr()
    return t.untyped_storage().data_ptr(), start, start + (last + 1) * t.element_size()


def check_separate(results: Any, inputs: Any) -> None:
    """Raises `Fault` where a result lies in an input's storage or in another result's; batch sizes and orders may."""
    outs = [_spans(t) if t.is_floating_point() else None for t in tensors_of(results)]
    ins = [_spans(t) for t in tensors_of(inputs)]
    storages = {span[0] for span in ins if span}
    for k, span in enumerate(outs):
        if span and span[0] in storages:
            raise Fault(f"result {k} is memory of an input")
        if span and span[0] in [other[0] for other in outs[:k] if other]:
            raise Fault(f"result {k} is memory of another result")


class poisoned:
    """Fresh memory of torch holds NaN, or the largest integer."""

    def __enter__(self) -> None:
        self.before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)

    def __exit__(self, *_: Any) -> None:
        torch.use_deterministic_algorithms(self.before)


def examine(
    function: Callable[..., Any], *args: Any, what: str = "", separate: bool = True, hidden: int = 0, **keywords: Any
) -> tuple[Any, Exception | None]:
    """`attempt`, twice: with fresh memory poisoned and without.

    Both must do the same, leave the arguments as they were, and put results into memory of their own. Random numbers
    must come from torch's default generator, which is set back in between. So many `hidden` results at the end may hold
    what nobody wrote: they are for backward, which must not read it.
    """
    inputs = [t for t in tensors_of([args, keywords]) if _is_plain(t) and not t.is_meta and t.numel() < HUGE]
    before = [t.detach().clone() for t in inputs]
    state = torch.get_rng_state()
    with poisoned():
        result, error = attempt(function, *args, what=what, **keywords)
    torch.set_rng_state(state)
    again, other = attempt(function, *args, what=what, **keywords)
    if type(error) is not type(other):
        raise Fault(f"{what}one call raised {error!r}, the same call again {other!r}")
    for k, (t, was) in enumerate(zip(inputs, before)):
        if not same(t, was):
            raise Fault(f"{what}changed its argument {k}")
    if error is not None:
        return None, error
    pairs = list(zip(tensors_of(result), tensors_of(again), strict=True))
    for k, (a, b) in enumerate(pairs[: len(pairs) - hidden]):
        if _is_plain(a) and not same(a, b):
            raise Fault(f"{what}result {k} differs from call to call: it depends on memory that was never written")
    if separate:
        check_separate(result, [args, keywords])
    return result, None


# -- processes ---------------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """A case that failed."""

    target: str
    seed: int
    case: int
    message: str

    @property
    def kind(self) -> str:
        """What faults of one cause have in common, more or less."""
        text = self.message.partition("\n")[0]
        verb = re.search(
            r"\b(raised|refused|result|accepted|took|taken|changed|did not|the process|fake:|does not|the op said) .*",
            text,
        )
        text = re.sub(r"'[^']*'|\"[^\"]*\"|\[[^]]*\]|\([^)]*\)", "", verb[0] if verb else text)
        return f"{self.target}: {re.sub(r'[-+.0-9a-fx]*[0-9][-+.0-9a-fx]*', '#', text)}"[:120]

    def __str__(self) -> str:
        again = f"python -m tests.fuzz --only {self.target} --seed {self.seed} --case {self.case}"
        return f"{self.target}, seed {self.seed}, case {self.case}: {self.message}\n    again: {again}"


@dataclass
class Report:
    """How many cases ran of each target, and what was found."""

    cases: dict[str, int] = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{count:6,} times {kind}" for kind, count in Counter(one.kind for one in self.found).most_common()]
        lines += [f"{name:24}{count:9,} cases" for name, count in self.cases.items()]
        lines.append(f"{'all':24}{sum(self.cases.values()):9,} cases, {len(self.found)} faults")
        return "\n".join(lines)


def run_case(one: Target, seed: int, case: int) -> str | None:
    """What is wrong with one case, None: nothing."""
    draw = Draw(f"{seed}/{one.name}/{case}")
    draw.seed_torch()
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one.run(draw)
    except Fault as fault:
        return str(fault)
    except Exception as error:  # of what the target itself did around its calls
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"raised {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
        torch.set_grad_enabled(True)
    return None


def work(known: Mapping[str, Target]) -> None:
    """A worker: runs the cases that lines of standard input name, and says on standard output what comes of each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    said = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what commands print
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with poisoned():  # imports a part of torch, which no case shall wait for
            pass
        said.write(json.dumps({"ready": True}) + "\n")
        for line in sys.stdin:
            name, seed, case = json.loads(line)
            message = run_case(known[name], seed, case)
            said.write(json.dumps({"case": case, "message": message}) + "\n")


class Worker:
    """A process that runs cases, and dies of them."""

    def __init__(self, modules: Sequence[str]) -> None:
        environment = os.environ | {"MALLOC_PERTURB_": "165", "PYTHONFAULTHANDLER": "1"}
        environment |= {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name not in os.environ}
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (`close` closes it)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz", "--worker", "--modules", *modules],
            cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
        )  # fmt: skip
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        if self._next(300) is None:
            raise RuntimeError(f"the worker did not start: {self._last_words()}")

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """The next line; None: the process died, or said nothing for so long."""
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            return None
        return json.loads(line) if line else None

    def _last_words(self) -> str:
        self.errors.seek(0)
        text = " ".join(self.errors.read()[-20000:].split())
        at = text.rfind("Fatal Python error")
        return text[at : at + 400] if at >= 0 else text[-400:]

    def run(self, name: str, seed: int, case: int, seconds: float) -> tuple[str | None, bool]:
        """What is wrong with the case, and whether the worker lives."""
        try:
            self.process.stdin.write(json.dumps([name, seed, case]) + "\n")
            self.process.stdin.flush()
            said = self._next(seconds)
        except BrokenPipeError:
            said = None
        if said is not None:
            return said["message"], True
        time.sleep(0.1)
        status = self.process.poll()
        if status is None:
            return f"did not end within {seconds:g} seconds", False
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"the process died of {how}: {self._last_words()}", False

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()


def fuzz(
    modules: Sequence[str],
    seed: int,
    seconds: float,
    only: Sequence[str] = (),
    cases: float = 0,
    seconds_of_a_case: float = SECONDS_OF_A_CASE,
    told: Callable[[Report, float], None] = lambda *_: None,
    heard: Callable[[Found], None] = lambda _: None,
) -> Report:
    """Runs cases of all targets, or of those in `only`, by turns until the time is up.

    Args:
        modules: where targets are.
        cases: of each target at most, times its weight; 0: as many as there is time for.
        seconds_of_a_case: after so many it hangs.
        told: the report so far and the seconds passed, after every block of cases.
        heard: each fault, when it is found.
    """
    chosen = {name: one for name, one in targets(modules).items() if not only or name in only}
    if not chosen:
        raise ValueError(f"only: expected one of {', '.join(targets(modules))}, got {', '.join(only)}")
    report, spent = Report(dict.fromkeys(chosen, 0)), dict.fromkeys(chosen, 0.0)
    start, worker = time.monotonic(), None
    try:
        while time.monotonic() - start < seconds:
            left = {name: math.ceil(cases * one.weight) - report.cases[name] for name, one in chosen.items()}
            open_ones = [name for name in chosen if not cases or left[name] > 0]
            if not open_ones:
                break
            name = min(open_ones, key=lambda n: spent[n] / chosen[n].weight)
            worker = worker or Worker(modules)
            begun = time.monotonic()
            for _ in range(min(BLOCK, left[name]) if cases else BLOCK):
                if time.monotonic() - start >= seconds or time.monotonic() - begun > 5:
                    break
                case = report.cases[name]
                report.cases[name] += 1
                message, alive = worker.run(name, seed, case, seconds_of_a_case)
                if message is not None:
                    report.found.append(Found(name, seed, case, message))
                    heard(report.found[-1])
                if not alive:
                    worker.close()
                    worker = None
                    break
            spent[name] += time.monotonic() - begun
            told(report, time.monotonic() - start)
    finally:
        if worker:
            worker.close()
    return report
