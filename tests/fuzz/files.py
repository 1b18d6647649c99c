"""Files that are damaged: checkpoints, metrics, data sets, results. They are refused by name, or read as they were."""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch

from rnnkernels import training
from rnnkernels.experiments import ENTRIES, report, runner
from rnnkernels.tasks import data

from .harness import Draw, Fault, target, tensors_of

REFUSALS = (ValueError, FileNotFoundError)
TINY = {"controller_size": 3, "memory_rows": 4, "memory_width": 3}


def damaged(draw: Draw, content: bytes) -> bytes:
    """The same bytes with a few that are others, fewer, more, or none."""
    content = bytearray(content)
    kind = draw.pick("bit", "bit", "bit", "byte", "zeros", "cut", "cut", "tail", "insert", "empty", "swap")
    at = draw.randrange(len(content))
    if kind == "bit":
        content[at] ^= 1 << draw.randrange(8)
    elif kind == "byte":
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
    elif kind == "zeros":
        end = min(len(content), at + draw.randint(1, 600))
        content[at:end] = bytes(end - at)
    elif kind == "cut":
        del content[at:]
    elif kind == "tail":
        content += draw.randbytes(draw.randint(1, 100))
    elif kind == "insert":
        content[at:at] = draw.randbytes(draw.randint(1, 20))
    elif kind == "swap":
        other = draw.randrange(len(content))
        content[at], content[other] = content[other], content[at]
    else:
        content.clear()
    return bytes(content)


def read(function: Callable[[], Any], path: Path, what: str, names: str = "") -> tuple[Any, bool]:
    """What a loader makes of a file, and whether it read it; refusals must name the file."""
    try:
        return function(), True
    except REFUSALS as error:
        text = str(error)
        if (names or path.name) not in text and str(path.parent.name) not in text:
            raise Fault(f"{what}: {type(error).__name__} does not name {path.name}: {text}") from error
        if len(text.splitlines()) != 1:
            raise Fault(f"{what}: {type(error).__name__} of several lines: {text!r}") from error
        return None, False
    except OSError as error:
        if path.is_dir() or not os.access(path, os.R_OK):
            return None, False
        raise Fault(f"{what}: raised {type(error).__name__}: {error}") from error
    except Exception as error:
        raise Fault(f"{what}: raised {type(error).__name__}: {error}") from error


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


def emptied(folder: str) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir()
    return Path(folder)


# -- runs --------------------------------------------------------------------------------------------------------------


def tiny(**changes: Any) -> training.Config:
    """A training that is over at once."""
    sizes = {"max_length": 2, "bits": 2}
    options = {"sizes": sizes, "arguments": TINY, "sequences": 2, "log": 1, "evaluate": 2, "fresh": 2, "threads": 1}
    return training.Config("copy", **options | changes)


@functools.cache
def a_run() -> dict[str, bytes]:
    """The files of a run."""
    folder = emptied("a run")
    training.train(tiny(), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@functools.cache
def _state() -> Any:
    folder = emptied("whole")
    (folder / "checkpoint.pt").write_bytes(a_run()["checkpoint.pt"])
    return training.Store(folder).load()


@target(1.5)
def checkpoints(draw: Draw) -> None:
    """A damaged checkpoint is refused, or nothing in it is another."""
    folder = emptied("run")
    for name, content in a_run().items():
        (folder / name).write_bytes(content)
    path = folder / "checkpoint.pt"
    path.write_bytes(damaged(draw, path.read_bytes()))
    whole, store = _state(), training.Store(folder)
    state, loaded = read(store.load, path, "Store.load", "run")
    if loaded and not _equal(state, whole):
        raise Fault("a damaged checkpoint was loaded, and holds other values")
    if draw.chance(0.1):
        read(lambda: training.Training.load(folder), path, "Training.load", "run")
        read(lambda: training.train(tiny(), folder, resume=True), path, "train(resume=True)", "run")


@target(0.5)
def checkpoint_contents(draw: Draw) -> None:
    """A whole checkpoint that holds something else than a run's state."""
    folder = emptied("run")
    for name, content in a_run().items():
        (folder / name).write_bytes(content)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    places = [(state, key) for key in state] + [(state["config"], key) for key in state["config"]]
    for key in ("model", "optimiser", "generators"):
        places += [(state[key], inner) for inner in state[key]]
    where, key = draw.choice(places)
    kind = draw.pick("gone", "other", "other", "whole")
    if kind == "gone":
        del where[key]
    elif kind == "other":
        where[key] = draw.choice([None, 3, -1, "x", [], {}, torch.zeros(3), 1.5, [1, 2], {"a": 1}, True, 2**70])
    else:
        state = draw.choice([None, [], 3, torch.zeros(2), {"config": {}}, {}])
    path = folder / "checkpoint.pt"
    torch.save(state, path)
    what = f"{key}, {kind}: "
    read(lambda: training.Training.load(folder), path, f"{what}Training.load", "")
    read(lambda: training.train(tiny(), folder, resume=True), path, f"{what}train(resume=True)", "")


@target(0.5)
def metrics(draw: Draw) -> None:
    """Damaged metrics: lines are read as they were, or refused."""
    folder = emptied("run")
    for name, content in a_run().items():
        (folder / name).write_bytes(content)
    path = folder / "metrics.jsonl"
    path.write_bytes(damaged(draw, path.read_bytes()))
    lines, loaded = read(training.Store(folder).lines, path, "Store.lines")
    if loaded and not all(isinstance(line, dict) for line in lines):
        raise Fault(f"Store.lines: read what is no line of metrics: {lines}")
    if draw.chance(0.2):
        read(lambda: training.train(tiny(), folder, resume=True), path, "train(resume=True)", "run")


@target(0.3)
def folders(draw: Draw) -> None:
    """Folders of runs that are files, links, full or absent."""
    folder = emptied("places")
    (folder / "file").write_bytes(b"something")
    (folder / "link").symlink_to("file")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    (folder / "inside").mkdir()
    (folder / "inside" / draw.pick("checkpoint.pt", "metrics.jsonl", "checkpoint.new")).mkdir()
    (folder / "strange").mkdir()
    (folder / "strange" / "metrics.jsonl").write_text("precious\n")
    (folder / "linked").mkdir()
    precious = folder / "precious"
    precious.write_text("precious\n")
    (folder / "linked" / draw.pick("checkpoint.new", "metrics.jsonl")).symlink_to("../precious")
    name = draw.pick("file", "link", "dangling", "loop", "inside", "strange", "linked", "file/below", "x" * 300, "a\0b")
    place = draw.pick(folder / name, folder / name, Path("/proc/rnnkernels"), Path("/dev/full"), Path("/dev/null/x"))
    resume = draw.chance(0.3)
    try:
        training.train(tiny(), place, resume=resume)
    except (ValueError, OSError) as error:
        if len(str(error).splitlines()) != 1:
            raise Fault(f"train(folder={place}): {type(error).__name__} of several lines or none: {error}") from error
    except Exception as error:
        raise Fault(f"train(folder={place}, resume={resume}): raised {type(error).__name__}: {error}") from error
    if precious.read_bytes() != b"precious\n":
        raise Fault("train wrote through a link into a file of somebody else")
    if (folder / "strange" / "metrics.jsonl").read_bytes() != b"precious\n":
        raise Fault("train overwrote metrics of somebody else")


# -- data sets ---------------------------------------------------------------------------------------------------------


class _Evil:
    """What no file of lists holds."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple:
        return self.reduced


def _lists(draw: Draw, count: int) -> list[list[int]]:
    return [[draw.randint(1, 30) for _ in range(draw.randint(0, 6))] for _ in range(count)]


def _npy(array: numpy.ndarray, protocol: int, version: tuple[int, int]) -> bytes:
    """An npy file as numpy writes it, its pickle of any protocol."""
    out = io.BytesIO()
    header = numpy.lib.format.header_data_from_array_1_0(array)
    write = numpy.lib.format.write_array_header_1_0 if version == (1, 0) else numpy.lib.format.write_array_header_2_0
    write(out, header)
    if array.dtype.hasobject:
        pickle.dump(array, out, protocol=protocol)
    else:
        out.write(array.tobytes("F" if header["fortran_order"] else "C"))
    return out.getvalue()


@target()
def reviews(draw: Draw) -> None:
    """`imdb.npz`, as numpy writes it with any protocol, damaged, or with something else in its pickle."""
    folder = emptied("imdb")
    lists, protocol, version = {}, draw.randint(0, 5), draw.pick((1, 0), (2, 0))
    parts: dict[str, bytes] = {}
    for part in ("train", "test"):
        lists[part] = _lists(draw, draw.randint(1, 5))
        array = numpy.empty(len(lists[part]), dtype=object)
        array[:] = lists[part]
        parts[f"x_{part}"] = _npy(array, protocol, version)
        labels = numpy.array([draw.randrange(2) for _ in lists[part]], dtype=draw.pick(numpy.int64, numpy.uint8))
        parts[f"y_{part}"] = _npy(labels, protocol, version)
    kind = draw.pick("right", "zip", "zip", "part", "part", "pickle", "pickle", "other", "columns")
    name = draw.choice(list(parts))
    if kind == "part":
        parts[name] = damaged(draw, parts[name])
    elif kind == "pickle":
        dtype = numpy.dtype(object)
        rebuilt = numpy._core.multiarray._reconstruct
        evil = draw.pick(
            _Evil(os.system, "touch hacked"),
            _Evil(numpy.frombuffer, b"\1" * 16, dtype),
            _Evil(numpy.ndarray, (2,), dtype, b"\1" * 16),
            _Evil(rebuilt, numpy.ndarray, (2,), b"O"),
            _Evil(rebuilt, numpy.dtype, (0,), b"b"),
            _Evil(bytes, 3), _Evil(bytearray, b"abc"), _Evil(getattr, "x", "upper"), {"a": 1}, {1, 2}, 3, None, "x",
            [[1, "a"]], [[2**70]], [[-(2**63)]], [[1.5]], [[[1]]], numpy.zeros(3, dtype="V8"), numpy.array(["a", None]),
        )  # fmt: skip
        array = numpy.empty(2, dtype=object)
        array[0], array[1] = (evil, [1]) if not isinstance(evil, list) or draw.chance(0.5) else (evil[0], [1])
        out = io.BytesIO()
        numpy.lib.format.write_array_header_1_0(out, {"descr": "|O", "fortran_order": False, "shape": (2,)})
        if draw.chance(0.5):  # an array of objects whose state is bytes, as numpy never writes it
            state = 1, (2,), dtype, False, draw.pick(b"\1" * 16, bytes(16), b"", [1], [[1], [2], [3]], 7, None)
            pickle.dump(_State(rebuilt, (numpy.ndarray, (0,), b"b"), state), out, protocol=protocol)
        else:
            pickle.dump(draw.pick(array, evil), out, protocol=protocol)
        parts[f"x_{draw.pick('train', 'test')}"] = out.getvalue()
    elif kind == "other":
        parts[name] = _npy(draw.pick(numpy.zeros((2, 3)), numpy.array(5), numpy.array(["a"]), numpy.zeros(0),
                                     numpy.zeros(2, dtype="V3"), numpy.array([1 + 2j]), numpy.array([numpy.nan])),
                           protocol, version)  # fmt: skip
    elif kind == "columns":  # the words of reviews of one length, the first ones of all side by side
        wide = numpy.asfortranarray(numpy.arange(6).reshape(2, 3) + 1)
        lists["train"], parts["x_train"] = wide.tolist(), _npy(wide, protocol, version)
        parts["y_train"] = _npy(numpy.array([0, 1]), protocol, version)
    path = folder / "imdb.npz"
    with zipfile.ZipFile(path, "w", draw.pick(zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)) as archive:
        for part, content in parts.items():
            if kind != "other" or draw.chance(0.95):
                archive.writestr(f"{part}.npy", content)
    if kind == "zip":
        path.write_bytes(damaged(draw, path.read_bytes()))
    found, loaded = read(lambda: data.imdb(folder, 20, 5), path, f"imdb, {kind}")
    if Path("hacked").exists():
        raise Fault("imdb ran what a pickle told it to")
    if kind in ("right", "columns"):
        if not loaded:
            raise Fault(f"imdb refused what numpy writes with protocol {protocol}, {kind}")
        expected = data._reviews(lists["train"], 20, 5)
        if not torch.equal(found.train, expected):
            raise Fault(f"imdb, {kind}: {found.train.tolist()}, not {expected.tolist()}")
    if loaded:
        for t in tensors_of(found):
            t.sum()


class _State:
    """An object whose pickle says: call this, then set that state."""

    def __init__(self, function: Callable[..., Any], arguments: tuple, state: Any) -> None:
        self.reduced = function, arguments, state

    def __reduce__(self) -> tuple:
        return self.reduced


@functools.cache
def _idx_files() -> dict[str, bytes]:
    files = {}
    for part, n in (("train", 3), ("t10k", 2)):
        images, labels = bytes(range(n * 6)), bytes(range(n))
        files[f"{part}-images-idx3-ubyte"] = struct.pack(">4B3I", 0, 0, 8, 3, n, 2, 3) + images
        files[f"{part}-labels-idx1-ubyte"] = struct.pack(">4BI", 0, 0, 8, 1, n) + labels
    return files


@target()
def digits(draw: Draw) -> None:
    """MNIST's four files, packed or not, one of them damaged, before or after it was packed."""
    folder = emptied("mnist")
    files = dict(_idx_files())
    one, before, packed = draw.choice(list(files)), draw.chance(0.5), draw.chance(0.6)
    if before:
        files[one] = damaged(draw, files[one])
    contents = {name: gzip.compress(content, mtime=0) if packed else content for name, content in files.items()}
    if not before:
        contents[one] = damaged(draw, contents[one])
    if draw.chance(0.05):
        del contents[one]
    for name, content in contents.items():
        (folder / (name + ".gz" * packed)).write_bytes(content)
    path = folder / (one + ".gz" * packed)
    read(lambda: data.mnist(folder, draw.chance(0.5)), path, f"mnist, {one}")


# -- results -----------------------------------------------------------------------------------------------------------


@functools.cache
def _results() -> dict[str, Any]:
    entry = next(iter(ENTRIES.values()))
    trial = {
        "solved": True,
        "count": 7,
        "stopped": "",
        "figures": {"error": 0.5},
        "curve": {},
        "seconds": 1.0,
        "seed": 0,
    }
    variant = entry.variants[0]
    held = {"options": json.loads(json.dumps(entry.options_of(variant))), "trials": [trial]}
    run = {**runner.facts(), "cap": 9, "limit": 9, "jobs": 1, "seconds": 1.0, "interrupted": False}
    return {"entry": entry.name, "runs": [{**run, "variants": {variant.name: held}}]}


@target(0.5)
def results(draw: Draw) -> None:
    """A damaged file of results, or one that holds something else."""
    folder = emptied("results")
    content = json.loads(json.dumps(_results()))
    path = folder / f"{content['entry']}.json"
    if draw.chance(0.5):
        run = content["runs"][0]
        held = next(iter(run["variants"].values()))
        where = draw.choice([content, run, run["variants"], held, held["trials"][0]])
        key = draw.choice(list(where))
        if draw.chance(0.4):
            del where[key]
        else:
            where[key] = draw.choice([None, 3, -1, "x", [], {}, 1.5, [1, 2], {"a": 1}, True, [None], 1e400])
        path.write_text(json.dumps(content))
    else:
        path.write_bytes(damaged(draw, json.dumps(content, indent=1).encode()))
    read(lambda: runner.load(path), path, "load")
    read(lambda: report.render(ENTRIES.values(), folder), path, "render")
