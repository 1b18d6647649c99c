"""Where a run is kept: a folder with `checkpoint.pt` and `metrics.jsonl`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.serialization import config as serialization

from ..messages import shown
from ..modules.checks import is_number
from .config import Config
from .files import finite, lock, naming, replace

__all__ = ["Store"]

TAKEN = "the checkpoint of a run, as this version of rnnkernels keeps it, got another"


class Store:
    """A run's folder.

    The checkpoint is replaced as a whole or not at all, whenever the process ends. It knows how long the metrics were:
    what a run wrote after its last checkpoint is cut off when it is resumed, and written again. While a run goes on its
    metrics are locked, so that no other one begins or resumes in the folder.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.checkpoint, self.metrics = self.folder / "checkpoint.pt", self.folder / "metrics.jsonl"
        self._file: Any = None

    @contextlib.contextmanager
    def reading(self, expected: str = TAKEN) -> Iterator[None]:
        """Whatever goes wrong within is a ValueError that names the checkpoint, and says what was expected and came."""
        try:
            yield
        except Exception as error:  # archives, unpicklers and modules raise what they happen to raise
            what = " ".join(str(error).split())[:300]
            kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
            raise ValueError(f"{self.checkpoint}: expected {expected}: {kind}{what}") from error

    def load(self) -> dict[str, Any]:
        """The checkpoint, its configuration as a `Config`; ValueError where there is none, or a damaged one."""
        self._find()
        content = io.BytesIO(self.checkpoint.read_bytes())
        with self.reading("a whole checkpoint, got a damaged one"):
            with zipfile.ZipFile(content) as archive:
                if damaged := archive.testzip():  # torch.load does not look at the checksums
                    raise ValueError(f"wrong checksum of {damaged}")
                if folders := [entry.filename for entry in archive.infolist() if entry.external_attr]:
                    raise ValueError(f"{folders[0]} as a folder")  # of which torch.load reads nothing, and says nothing
            content.seek(0)
            state = torch.load(content, weights_only=True)
        with self.reading():
            return state | {"config": Config(**state["config"])}

    def lines(self) -> list[dict[str, Any]]:
        """The metrics; what a killed process left of a last line is none."""
        content = self.metrics.read_bytes() if self.metrics.exists() else b""
        found = []
        for number, text in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
            try:
                line = json.loads(text)
                good = isinstance(line["kind"], str) and is_number(line["sequences"])
                good = good and (line.get("loss") is None or is_number(line["loss"]))
            except (LookupError, RecursionError, TypeError, ValueError):
                good = False
            if not good:
                text = text.decode(errors="replace")
                raise ValueError(f"{self.metrics}: line {number}: expected metrics of a run, got {shown(text)}")
            found.append(line)
        return found

    def _find(self) -> None:
        if not self.checkpoint.is_file():
            raise ValueError(f"folder: expected that of a run, with a checkpoint.pt, got {self.folder}")

    def _check(self, resume: bool) -> None:
        """Refuses a folder without a run to be resumed, or with anything whose place a new run would take."""
        if resume:
            self._find()
        elif self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"folder: expected a folder, got the file {self.folder}")
        elif os.path.lexists(self.checkpoint):
            raise ValueError(f"folder: expected one without a run, or that it be resumed, got {self.folder}")
        if os.path.lexists(self.metrics) and (self.metrics.is_symlink() or not self.metrics.is_file()):
            raise ValueError(f"folder: expected one whose metrics.jsonl is a file, got {self.folder}")
        if not resume and self.metrics.exists() and self.metrics.stat().st_size:
            raise ValueError(f"folder: expected one without a run, got {self.folder}, which has a metrics.jsonl")

    def begin(self, resume: bool) -> None:
        """Takes the folder for a new run, or to resume the one in it; ValueError where another process has it."""
        self._check(resume)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = open(self.metrics, "ab")  # noqa: SIM115 (`close` closes it)
        if not lock(self._file):
            raise ValueError(f"folder: expected one that no other process trains in now, got {self.folder}")
        self._check(resume)  # whoever had it until now may have changed it

    def cut(self, position: int) -> None:
        """Goes on after `position` bytes of metrics."""
        found = os.fstat(self._file.fileno()).st_size
        if found < position:
            raise ValueError(f"{self.metrics}: expected the {position} bytes of the checkpoint's time, got {found}")
        self._file.truncate(position)

    def write(self, line: dict[str, Any]) -> None:
        """Adds a line of metrics; null for what is not finite."""
        with naming(self.metrics):
            self._file.write(json.dumps(finite(line), allow_nan=False).encode() + b"\n")
            self._file.flush()

    def save(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint."""
        with naming(self.metrics):
            os.fsync(self._file.fileno())
        content = io.BytesIO()  # of a file that cannot be written torch.save says something else
        with serialization.patch("save.compute_crc32", True):
            torch.save(state | {"metrics": os.fstat(self._file.fileno()).st_size}, content)
        replace(self.checkpoint, content.getbuffer())

    def close(self) -> None:
        if self._file:
            with naming(self.metrics):
                self._file.close()
