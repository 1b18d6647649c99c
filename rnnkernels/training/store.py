"""Where a run is kept: a folder with `checkpoint.pt` and `metrics.jsonl`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

__all__ = ["Store"]


class Store:
    """A run's folder.

    The checkpoint is replaced as a whole or not at all, whenever the process ends. It knows how long the metrics were:
    what a run wrote after its last checkpoint is cut off when it is resumed, and written again.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.checkpoint, self.metrics = self.folder / "checkpoint.pt", self.folder / "metrics.jsonl"
        self._file: Any = None

    def load(self) -> dict[str, Any]:
        """The checkpoint; ValueError where there is none, or a damaged one."""
        if not self.checkpoint.is_file():
            raise ValueError(f"folder: expected that of a run, with a checkpoint.pt, got {self.folder}")
        try:
            return torch.load(self.checkpoint, weights_only=True)
        except Exception as error:  # torch raises what its archive and its unpickler happen to raise
            raise ValueError(f"{self.checkpoint}: expected a whole checkpoint, got a damaged one") from error

    def lines(self) -> list[dict[str, Any]]:
        """The metrics; what a killed process left of a last line is none."""
        text = self.metrics.read_text(encoding="utf-8") if self.metrics.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def open(self, position: int = 0) -> None:
        """Begins to write metrics after `position` bytes of them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = open(self.metrics, "ab")  # noqa: SIM115 (`close` closes it)
        found = self.metrics.stat().st_size
        if found < position:
            raise ValueError(f"{self.metrics}: expected the {position} bytes of the checkpoint's time, got {found}")
        self._file.truncate(position)

    def write(self, line: dict[str, Any]) -> None:
        """Adds a line of metrics."""
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def save(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint."""
        os.fsync(self._file.fileno())
        fresh = self.checkpoint.with_suffix(".new")
        with open(fresh, "wb") as file:
            torch.save(state | {"metrics": os.fstat(self._file.fileno()).st_size}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self.checkpoint)
        folder = os.open(self.folder, os.O_RDONLY)
        os.fsync(folder)  # the name too
        os.close(folder)

    def close(self) -> None:
        if self._file:
            self._file.close()
