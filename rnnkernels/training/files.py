"""Files that are whole or not there, that one process writes at a time, and whose name is in every error."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["alone", "check_folder", "finite", "lock", "naming", "replace"]


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in the system's errors within: those of writing and closing come without a name."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def replace(path: Path, content: bytes | memoryview) -> None:
    """Writes a file as a whole or not at all, whenever the process ends: beside the old one, whose place it then takes.

    What is in the way beside it is removed, and if it is a link, not followed.
    """
    fresh = path.with_suffix(".new")
    with naming(path):
        fresh.unlink(missing_ok=True)
        with open(fresh, "xb") as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.replace(fresh, path)
            except BaseException:
                fresh.unlink(missing_ok=True)
                raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name too
        finally:
            os.close(folder)


def lock(file: Any, wait: bool = False) -> bool:
    """Whether this open file is now locked by us, as long as it is open; the system unlocks it if we are killed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: better unlocked than not at all
        pass
    return True


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits until no other process is within this for the same folder, and keeps others waiting."""
    with naming(folder):
        opened = os.open(folder, os.O_RDONLY)
    try:
        lock(opened, wait=True)
        yield
    finally:
        os.close(opened)


def check_folder(folder: Path) -> None:
    """Makes a folder where there is none; OSError, which names it, where nothing can be written to it."""
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder), tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(2**16))


def finite(value: Any) -> Any:
    """`value` with None for every number that is not finite, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
