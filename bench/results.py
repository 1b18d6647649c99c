"""What a run leaves behind: rows in ``bench/results/<cpu>-<isa>.json``, rewritten after each row.

A row measured again replaces the older one, so a part of the grid can be run alone (``-k``); every row therefore
carries its own date, revision and load average.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
from pathlib import Path

import torch

import rnnkernels as rk

FOLDER = Path(__file__).parent / "results"


def cpu_facts() -> dict[str, str]:
    """The processor's name, family and model, as far as the system tells."""
    facts = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key in ("model name", "cpu family", "model", "cache size") and key not in facts:
                facts[key] = value
    except OSError:
        pass
    facts.setdefault("model name", platform.processor() or platform.machine())
    return facts


def revision() -> str:
    """The checked-out git revision, with "+" where the sources differ from it; of a tree without git, a digest."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", *words], cwd=FOLDER.parent, capture_output=True, text=True)
        except OSError:  # no git here
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    if git("rev-parse", "--show-prefix") == f"{FOLDER.parent.name}/":  # and not a copy inside some other repository
        head = git("rev-parse", "--short=12", "HEAD")
        if head:
            return head + ("+" if git("status", "--porcelain", "--", "../csrc", "../rnnkernels") else "")
    sources, digest = FOLDER.parent.parent, hashlib.sha256()
    for path in sorted(p for name in ("csrc", "rnnkernels") for p in (sources / name).rglob("*.*")):
        if path.is_file() and path.suffix not in (".so", ".pyc"):
            digest.update(path.relative_to(sources).as_posix().encode() + b"\0" + path.read_bytes())
    return f"sources {digest.hexdigest()[:12]}"


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and quartiles, in seconds."""
    if len(seconds) < 2:
        return {"median": seconds[0], "q1": seconds[0], "q3": seconds[0], "rounds": len(seconds)}
    q1, median, q3 = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3, "rounds": len(seconds)}


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    return value


class Results:
    """The results of this machine and ISA; ``quick`` ones go to a file of their own."""

    def __init__(self, quick: bool):
        cpu = cpu_facts()
        slug = re.sub(r"[^a-z0-9]+", "-", cpu["model name"].lower()).strip("-")
        self.path = FOLDER / f"{slug}-{rk.get_isa()}{'-quick' if quick else ''}.json"
        self.rows: dict[str, dict] = {}
        if self.path.exists():
            self.rows = json.loads(self.path.read_text())["rows"]
        self.revision = revision()
        versions = {name: importlib.metadata.version(name) for name in ("torch", "onnxruntime", "numpy")}
        self.header = {
            "machine": {
                "cpu": cpu["model name"],
                "family": cpu.get("cpu family"),
                "model": cpu.get("model"),
                "cores": os.cpu_count(),
                "system": f"{platform.system()} {platform.release()}",
            },
            "isa": rk.get_isa(),
            "revision": self.revision,
            "date": now(),
            "load_average": os.getloadavg(),
            "software": {
                "python": platform.python_version(),
                **versions,
                "torch_cpu": torch.backends.cpu.get_cpu_capability(),
            },
        }

    def add(self, key: str, row: dict) -> None:
        self.rows[key] = rounded({**row, "date": now(), "revision": self.revision, "load": os.getloadavg()[0]})
        FOLDER.mkdir(exist_ok=True)
        rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(self.rows.items()))
        body = json.dumps(self.header, indent=1)[:-2] + f',\n "rows": {{\n{rows}\n }}\n}}\n'
        part = self.path.with_suffix(".part")
        part.write_text(body)
        part.replace(self.path)  # an interrupted run leaves a whole file


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
