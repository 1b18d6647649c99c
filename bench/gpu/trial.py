"""Checks, times and profiles the CUDA kernels on a machine that is lent by the minute.

    bench/gpu_trial.sh [--out FOLDER] [--only STEP ...] [--seconds N] [--device cpu]

Steps run one after the other, the most telling first. Each has a limit of its own, cut to what is left of the whole
less what later steps are to have; one that fails, hangs or finds no tool does not stop the rest. After every step
trial.json says how each ended, and the rows of the bench are written one by one, so that a run that is killed leaves
what it knew. In the folder ($OUT unless --out names one) there are at most 8 files, none over 16 MiB:

    trial.json      how each step ended, its seconds, its last lines, and the facts of the machine
    log.txt         what the steps printed
    <gpu>.json      times of layers and the Neural Turing Machine beside cuDNN
    layouts.txt     microseconds of layouts of a walk beside their estimates
    walks.csv.gz    what each instruction of the walks waited for, where there is ncu

Nothing is fetched. An extension built before (`make gpu-trial`, rnnkernels/_C.cpython-312-*.so) is used where there is
one, else it is built, and the run takes longer. Status 0 if every step that ran succeeded.

    bench/gpu_trial.sh --keep FOLDER    brings such a folder under bench/results/cards/
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CARDS = ROOT / "bench/results/cards"
PYTHON = sys.executable
BUILT, TO_BUILD = 345.0, 575.0  # seconds in all, where the extension lies there and where it must be built
CPU = 4.0  # times the seconds, where the script is tried without a GPU on a machine that may be slow or busy
END = 4.0  # seconds to end a step that does not end by itself
LOG_BYTES, LAST_LINES = 3 << 19, 12  # of a step: what goes to the log at most, what trial.json holds
FILE_BYTES = 16 << 20


@dataclass(frozen=True)
class Step:
    """One of the trial.

    Attributes:
        name: for --only.
        does: in a few words, for --help.
        most: seconds it may take.
        least: seconds kept for it while the steps before it run; it is skipped if fewer are left.
        command: given the device ("cuda" or "cpu"), the folder of results and its seconds; None: nothing to do there,
            a string: why not.
        before: a step that this one is skipped after, if it failed.
    """

    name: str
    does: str
    most: float
    least: float
    command: Callable[[str, Path, float], Sequence[str | Path] | str | None]
    before: str = ""


@functools.cache  # it imports torch
def extension_here() -> bool:
    """Whether this Python can import the package with CUDA kernels."""
    ask = "import rnnkernels as rk; raise SystemExit(not rk.info()['build']['cuda'])"
    return subprocess.run([PYTHON, "-c", ask], cwd=ROOT, env=environment(), capture_output=True).returncode == 0


def environment(device: str = "cuda") -> dict[str, str]:
    """That of the steps: output as it comes, the package of this tree; on the CPU, which may be busy, one thread."""
    paths = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(ROOT)]  # another build, before this tree's own
    return os.environ | {
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        **({"OMP_NUM_THREADS": "1"} if device == "cpu" else {}),
    }


# -- the steps ---------------------------------------------------------------------------------------------------------


def facts(device: str, out: Path, seconds: float) -> Sequence[str]:
    script = """
nvidia-smi; nvcc --version | tail -n 1
for tool in cmake ninja nvcc ncu compute-sanitizer; do command -v $tool || echo "no $tool"; done
"$0" -c 'import torch; print("torch", torch.__version__, "cuDNN", torch.backends.cudnn.version())
if torch.cuda.is_available(): print(torch.cuda.get_device_properties(0))' """
    return ["bash", "-c", script, PYTHON]


def build(device: str, out: Path, seconds: float) -> Sequence[str] | None:
    if device == "cpu" or extension_here():
        return None
    arch = os.environ.get("TORCH_CUDA_ARCH_LIST", "9.0")
    built = f'RNNKERNELS_CUDA=1 TORCH_CUDA_ARCH_LIST={arch} exec "$0" setup.py --quiet build_ext --inplace'
    return ["bash", "-c", built, PYTHON]


def tiny(device: str, out: Path, seconds: float) -> Sequence[str | Path]:
    return [PYTHON, ROOT / "bench/gpu/tiny.py", "--device", device]


def times(device: str, out: Path, seconds: float) -> Sequence[str | Path]:
    words = ["--device", device, "--out", str(out), "--seconds", f"{max(seconds - 15, 5):.0f}"]
    return [PYTHON, ROOT / "bench/gpu/times.py", *words]


def check(device: str, out: Path, seconds: float) -> Sequence[str]:
    return [PYTHON, "-m", "rnnkernels", "check", "--device", device]


def tests(device: str, out: Path, seconds: float) -> Sequence[str]:
    at_once = ["-n", "6"] if has("xdist") else []
    return [PYTHON, "-m", "pytest", "tests/test_on_a_card.py", "-q", *at_once, "--maxfail=20", "-p", "no:cacheprovider"]


def sanitizer(tool: str) -> Callable[[str, Path, float], Sequence[str | Path] | str]:
    def command(device: str, out: Path, seconds: float) -> Sequence[str | Path] | str:
        program: list[str | Path] = [PYTHON, ROOT / "bench/gpu/tiny.py", "--device", device, "--walks"]
        if device == "cpu":
            return program
        found = shutil.which("compute-sanitizer")
        if not found:
            return "no compute-sanitizer here"
        said = subprocess.run([found, "--help"], capture_output=True, text=True).stdout
        only = next((o for o in ("--kernel-name", "--kernel-regex", "--filter") if re.search(rf"{o}\b", said)), None)
        kernels = [only, "kns=walk"] if only else []
        return [found, "--tool", tool, *kernels, "--error-exitcode", "9", *program]

    return command


def compiled(source: str, device: str, *flags: str, to: Path | None = None) -> Sequence[str] | str:
    """A command that compiles a file of this folder and, on a GPU, runs it; what it prints goes to a file, too."""
    if not shutil.which("nvcc"):
        return "no nvcc here"
    program = f"{tempfile.gettempdir()}/gpu-trial-{source}-{os.getpid()}"
    target = "-arch=native" if device == "cuda" else "-arch=sm_90 -Xcicc -O0 -Xptxas -O0"  # sooner, where none runs
    build = f"nvcc -std=c++20 -O3 {target} {' '.join(flags)} -o {program} bench/gpu/{source}.cu"
    run = "true" if device != "cuda" else f"{program} | tee {shlex.quote(str(to))}" if to else program
    return ["bash", "-c", f"set -o pipefail; {build} && {run}; rc=$?; rm -f {program}; exit $rc"]


def sync(device: str, out: Path, seconds: float) -> Sequence[str] | str:
    return compiled("sync", device)


def layouts(device: str, out: Path, seconds: float) -> Sequence[str] | str:
    flags = ("-expt-relaxed-constexpr", "-I csrc", "csrc/cuda/shared.cpp")
    return compiled("layouts", device, *flags, to=out / "layouts.txt")


SECTIONS = ("SourceCounters", "WarpStateStats", "LaunchStats")  # more of them, more replays of each kernel


def profile(device: str, out: Path, seconds: float) -> Sequence[str | Path]:
    program: list[str | Path] = [PYTHON, ROOT / "bench/gpu/walks.py", "--device", device]
    found = shutil.which("ncu") if device == "cuda" else None
    if not found:
        return [*program, "--profile"]
    sections = [word for section in SECTIONS for word in ("--section", section)]
    kernels = ["--profile-from-start", "off", "-k", "regex:forward_walk|backward_walk|ntm_walk"]
    # The report holds the code of every kernel and is too large to bring back.
    report = f"{tempfile.gettempdir()}/gpu-trial-walks-{os.getpid()}"
    seen = [found, "--clock-control", "none", *sections, *kernels, "-f", "-o", report, *program]
    to = out / "walks.csv.gz"
    shown = f'"$1" --import {report}.ncu-rep --page'
    script = f'"$@" && {shown} source --csv | gzip > "$0" && {shown} details; rc=$?; rm -f {report}.*; exit $rc'
    return ["bash", "-c", script, to, *seen]


def has(module: str) -> bool:
    ask = f"import importlib.util as u; raise SystemExit(u.find_spec({module!r}) is None)"
    return subprocess.run([PYTHON, "-c", ask], capture_output=True).returncode == 0


STEPS = (
    Step("facts", "what the machine has", 25, 5, facts),
    Step("build", "the extension, if it is not there", 300, 0, build),
    Step("tiny", "every cell on both paths at tiny sizes", 60, 20, tiny, "build"),
    Step("times", "layers and the NTM beside cuDNN", 120, 60, times, "build"),
    Step("check", "rnnkernels check: numbers, derivatives", 90, 25, check, "build"),
    Step("tests", "tests/test_on_a_card.py", 75, 25, tests, "build"),
    Step("memcheck", "walks under compute-sanitizer", 45, 20, sanitizer("memcheck"), "build"),
    Step("racecheck", "walks under compute-sanitizer", 45, 20, sanitizer("racecheck"), "build"),
    Step("sync", "what a meeting of all blocks costs", 25, 10, sync),
    Step("layouts", "layouts of a walk beside their estimates", 100, 0, layouts),
    Step("profile", "what walks wait for, by ncu", 70, 15, profile, "build"),
)


# -- running them ------------------------------------------------------------------------------------------------------


class Trial:
    """Runs steps and keeps the account of them in `out`."""

    def __init__(self, out: Path, device: str, seconds: float, begin: float) -> None:
        self.out, self.device, self.seconds, self.begin = out, device, seconds, begin
        self.steps: dict[str, dict] = {}
        self.child: subprocess.Popen | None = None
        out.mkdir(parents=True, exist_ok=True)
        self.account = out / "trial.json"
        if self.account.exists():  # a second go with --only: what is known stays
            self.steps = json.loads(self.account.read_text())["steps"]

    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.begin)

    def write(self) -> None:
        body = {"device": self.device, "seconds": round(time.monotonic() - self.begin, 1), "steps": self.steps}
        part = self.account.with_suffix(".part")
        part.write_text(json.dumps(body, indent=1) + "\n")
        part.replace(self.account)

    def end(self, step: Step, state: str, **more: object) -> bool:
        """Writes how a step ended, prints a line; whether it is no failure."""
        self.steps[step.name] = {"state": state, **more}
        self.write()
        rest = "".join(f", {key} {value}" for key, value in more.items() if key in ("rc", "seconds", "why"))
        print(f"== {step.name}: {state}{rest}", flush=True)
        return state != "failed"

    def run(self, step: Step, later: float) -> bool:
        """Runs one step with what is left but for `later` seconds; whether it did not fail."""
        if self.steps.get(step.before, {}).get("state") == "failed":
            return self.end(step, "skipped", why=f"{step.before} failed")
        most = step.most * (CPU if self.device == "cpu" else 1)
        limit = min(most, self.left() - later - END)
        if limit < max(step.least, 1):
            return self.end(step, "skipped", why=f"{self.left():.0f} s were left")
        try:
            command = step.command(self.device, self.out, limit)
        except Exception as error:
            return self.end(step, "failed", why=f"{type(error).__name__}: {error}")
        if not command:
            return self.end(step, "nothing to do")
        if isinstance(command, str):
            return self.end(step, "skipped", why=command)
        self.steps[step.name] = {"state": "running"}
        self.write()
        begin = time.monotonic()
        try:
            rc, last = self.execute(step.name, [str(word) for word in command], limit)
        except OSError as error:  # no such program
            return self.end(step, "failed", why=str(error))
        seconds = round(time.monotonic() - begin, 1)
        for line in last:
            print(f"   {line[:200]}")
        why = {"why": f"stopped after {limit:.0f} s"} if rc == 124 else {}
        return self.end(step, "failed" if rc else "ok", rc=rc, seconds=seconds, **why, last=last)

    def execute(self, name: str, command: Sequence[str], limit: float) -> tuple[int, list[str]]:
        """A command's status and last lines, 124 if it was stopped; its output goes to the log as it comes."""
        last: deque[str] = deque(maxlen=LAST_LINES)
        # A group of its own, so that what the command started ends with it.
        self.child = child = subprocess.Popen(
            command, cwd=ROOT, env=environment(self.device), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, process_group=0, text=True, errors="replace",
        )  # fmt: skip

        def pump() -> None:
            with (self.out / "log.txt").open("a") as log:
                log.write(f"== {name}: {' '.join(command)}\n")
                room = LOG_BYTES
                for line in child.stdout:
                    last.append(line.rstrip("\n")[:400])
                    if room > 0:
                        log.write(line[:room])
                        log.flush()
                        room -= len(line)
                        if room <= 0:
                            log.write("\n... and more\n")

        reader = threading.Thread(target=pump, daemon=True)
        reader.start()
        try:
            rc = child.wait(limit)
        except subprocess.TimeoutExpired:
            rc = 124
        self.stop()
        reader.join(END)
        return rc, list(last)

    def stop(self) -> None:
        """Ends what runs, and whatever it left running."""
        child, self.child = self.child, None
        if child is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(child.pid, number)
                child.wait(END / 2)
            except (ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
                continue


def trim(out: Path) -> None:
    """What would not come back is taken out: files over the limit."""
    for path in out.iterdir():
        if path.is_file() and path.stat().st_size > FILE_BYTES:
            path.unlink()
            with (out / "log.txt").open("a") as log:
                log.write(f"== {path.name} was over {FILE_BYTES >> 20} MiB and is not kept\n")


def keep(folder: Path) -> int:
    """Copies a folder of results under bench/results/cards/; what was kept before of the same GPU is replaced."""
    tables = [p for p in sorted(folder.glob("*.json")) if "rows" in json.loads(p.read_text())]
    if not tables or not (folder / "trial.json").exists():
        print(f"gpu_trial: {folder}: expected trial.json and the times of a GPU, found none", file=sys.stderr)
        return 1
    CARDS.mkdir(parents=True, exist_ok=True)
    for table in tables:
        shutil.copy(table, CARDS / table.name)
    kept = [table.name for table in tables]
    for name in ("trial.json", "layouts.txt"):
        if (folder / name).exists():
            kept.append(f"{tables[0].stem}-{name}")
            shutil.copy(folder / name, CARDS / kept[-1])
    print(f"{CARDS}: {', '.join(kept)}; python -m bench.report renders them")
    return 0


def main(arguments: Sequence[str] | None = None, steps: Sequence[Step] = STEPS) -> int:
    begin = time.monotonic()
    listed = "\n".join(f"    {s.name:10} at most {s.most:3.0f} s  {s.does}" for s in steps)
    parser = argparse.ArgumentParser(
        "gpu_trial.sh",
        description=__doc__,
        epilog=f"steps:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="folder of the results; default: $OUT")
    parser.add_argument("--only", nargs="+", action="extend", metavar="STEP", help="run these alone")
    parser.add_argument("--seconds", type=float, help=f"in all; default {BUILT:.0f}, or {TO_BUILD:.0f} with the build")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: tiny sizes, to try the script")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="bring results under bench/results/cards/, no more")
    given = parser.parse_args(arguments)
    if given.keep:
        return keep(given.keep)
    if unknown := set(given.only or ()) - {step.name for step in steps}:
        parser.error(f"--only: expected of {', '.join(s.name for s in steps)}, got {', '.join(sorted(unknown))}")
    out = given.out or (Path(os.environ["OUT"]) if os.environ.get("OUT") else None)
    if out is None:
        parser.error("--out: expected a folder, or one in $OUT")
    out = out.resolve()
    chosen = [step for step in steps if not given.only or step.name in given.only]
    seconds = given.seconds
    if seconds is None:
        if given.device == "cpu":
            seconds = BUILT * CPU
        else:
            seconds = BUILT if not any(s.name == "build" for s in chosen) or extension_here() else TO_BUILD
    trial = Trial(out, given.device, seconds, begin)

    def killed(number: int, frame: object) -> None:
        trial.stop()
        for name, step in trial.steps.items():
            if step["state"] == "running":
                trial.steps[name] = {"state": "failed", "why": "the trial was killed"}
        trial.write()
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, killed)
    signal.signal(signal.SIGINT, killed)
    fine = True
    for i, step in enumerate(chosen):
        fine &= trial.run(step, sum(s.least for s in chosen[i + 1 :]))
    trim(out)
    print("\n".join(f"{name:10} {s['state']:13} {s.get('seconds', '')}" for name, s in trial.steps.items()))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
