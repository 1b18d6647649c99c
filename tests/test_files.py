"""What files may do to us, and we to them: damaged data sets, checkpoints and results, folders that are no folders."""

import ctypes
import errno
import gzip
import io
import json
import math
import os
import pickle
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import equal

from rnnkernels import cli
from rnnkernels.experiments import ENTRIES, Outcome, report, runner
from rnnkernels.tasks import data, pickled
from rnnkernels.training import Config, Store, Training, train

# --- lists that numpy pickled -----------------------------------------------------------------------------------------


def lists(*rows):
    """An array of lists, as Keras keeps reviews."""
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array


NUMBERS = ([1, 300], [7, 70000, 2**40], list(range(2500)), [], [2**31, 255])


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["lists", "tuples", "numpy's integers", "rows"])
def test_lists_are_what_numpy_writes(protocol, kind):
    array = np.empty(len(NUMBERS), dtype=object)
    for k, row in enumerate(NUMBERS):
        array[k] = {
            "lists": row,
            "tuples": tuple(row),
            "numpy's integers": [np.int64(n) if n % 2 else np.dtype(">u8").type(n) for n in row],
            "rows": np.array(row, ">i8" if k % 2 else "<u8"),
        }[kind]
    content = pickle.dumps(array, protocol)
    assert [list(row) for row in pickled.lists_of(content)] == [*NUMBERS]
    if protocol < 4:  # where no length stands before a name
        older = content.replace(b"numpy._core", b"numpy.core")
        assert older != content and [list(row) for row in pickled.lists_of(older)] == [*NUMBERS]


def test_lists_of_python_2():
    content = pickle.dumps(lists([1, 2], [3]), 2).replace(b"numpy._core", b"numpy.core")
    encoded = re.compile(rb"c_codecs\nencode\n.*?\x86q.Rq.", re.S)
    content, changed = encoded.subn(b"U\x01b", content)
    assert changed == 1 and pickled.lists_of(content) == [[1, 2], [3]]


def array(shape, dtype, content, flags=b"63"):
    """In the words of pickle: numpy's array of this shape, dtype and content. Flags 0 deny that it is of objects."""
    dtype = b"cnumpy\ndtype\n(V" + dtype + b"\nI0\nI1\ntR(I3\nV<\nNNNI-1\nI-1\nI" + flags + b"\ntb"
    made = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
    return made + b"(I1\n(" + shape + b"t" + dtype + b"I0\n" + content + b"tb"


def one(item):
    """An array of one list, or what stands for it."""
    return array(b"I1\n", b"O8", b"(" + item + b"l") + b"."


EIGHT = b"C\x08AAAAAAAA"
NO_LISTS = {
    "objects of bytes": array(b"I1\n", b"O8", EIGHT) + b".",
    "objects of bytes, whose dtype denies it": array(b"I1\n", b"O8", EIGHT, b"0") + b".",
    "a row of objects whose dtype denies it": one(array(b"I1\n", b"O8", EIGHT, b"0")),
    "objects of no bytes": array(b"I9\n", b"O8", b"C\x00") + b".",
    "objects of bytes, further in": one(array(b"I1\n", b"O8", EIGHT)),
    "ndarray itself": b"cnumpy\nndarray\n((I1\ntVO8\n" + EIGHT + b"tR.",
    "fewer than its shape": array(b"I9\n", b"O8", b"((I1\nll") + b".",
    "a row of more than its bytes": one(array(b"I9\n", b"i8", EIGHT)),
    "a size that overflows": one(array(b"L2305843009213693953L\n", b"i8", EIGHT)),
    "sizes of which two are negative": one(array(b"I-1\nI-1\n", b"i8", EIGHT)),
    "a number of bytes": one(array(b"I1\n", b"i8", b"L99999999999L\n")),
    "a size that is a list": one(array(b"(I1\nlL99999999999L\n", b"i8", EIGHT)),
    "floats": one(array(b"I1\n", b"f8", EIGHT)),
    "many bytes": b"c__builtin__\nbytes\n(L99999999999L\ntR.",
    "a large memo": b"]r\xff\xff\xff\x7f.",
    "tuples in tuples, to be hashed": b"})" + b"\x85" * 100_000 + b"I1\ns.",
    "tuples in tuples, as a name": b"Vnumpy\n)" + b"\x85" * 100_000 + b"\x93.",
    "lists in lists": one(b"(" * 100_000 + b"l" * 100_000),
    "itself": array(b"I1\n", b"O8", b"(lp0\ng0\na") + b".",
    "more after the end": pickle.dumps(lists([1]), 4) + b".",
    "nothing": b"",
    "the first half": pickle.dumps(lists([1, 2, 3], [4]), 4)[:-9],
    "a dict": pickle.dumps({"a": 1}),
    "an array in a list": b"]" + one(b"(I1\nl")[:-1] + b"a.",
}


@pytest.mark.parametrize("name", NO_LISTS)
def test_nothing_else_is_read(name):
    tracemalloc.start()
    try:
        with pytest.raises(Exception):  # noqa: B017 (the loaders name the file: below)
            [data._numbers(row, 2**63) for row in pickled.lists_of(NO_LISTS[name])]
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()


# --- data sets --------------------------------------------------------------------------------------------------------


def npy(array, protocol=4):
    """As numpy writes it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    return file.getvalue() + (pickle.dumps(array, protocol) if array.dtype == object else array.tobytes("A"))


REVIEWS = {
    "x_train": npy(lists([1, 2, 9, 300], [5])),
    "y_train": npy(np.array([1, 0])),
    "x_test": npy(lists([3, 70000])),
    "y_test": npy(np.array([1])),
}


def imdb_with(folder, **entries):
    """A small imdb.npz with these entries instead of its own; its path."""
    path = folder / "imdb.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (REVIEWS | entries).items():
            archive.writestr(f"{name}.npy", content)
    return path


def header(descr="<i8", shape="(1,)", fortran="False", version=1):
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


def test_fortran_order_is_heeded(tmp_path):
    rows = np.array([[1, 2, 3], [4, 5, 6]])
    imdb_with(tmp_path, x_train=npy(np.asfortranarray(rows)))
    assert data.imdb(tmp_path, T=4).train.tolist() == [[1, 4, 5, 6], [1, 7, 8, 9]]
    for version in (2, 3):
        imdb_with(tmp_path, x_train=header(shape="(2, 3)", fortran="True", version=version) + rows.tobytes("F"))
        assert data.imdb(tmp_path, T=4).train.tolist() == [[1, 4, 5, 6], [1, 7, 8, 9]]


@pytest.mark.parametrize(
    "entries,word",
    [
        ({"x_train": npy(lists([1], ["word"]))}, "x_train: expected lists of integers"),
        ({"x_train": npy(lists([1], [-1]))}, "x_train: expected lists of integers"),
        ({"x_train": npy(lists([1], [2**63]))}, "x_train: expected lists of integers"),
        ({"x_train": npy(lists([1]))}, "y_train: expected a label for each of 1 reviews, found 2"),
        ({"x_test": npy(lists([])[:0]), "y_test": npy(np.zeros(0, int))}, "y_test: expected"),
        ({"y_test": npy(np.array([2]))}, "y_test: expected lists of integers from 0 to 1"),
        ({"y_test": npy(np.array([1.0]))}, "y_test: expected integers, found float64"),
        ({"y_test": npy(np.array([[1]]))}, "y_test: expected lists of integers"),
        ({"y_test": header(shape="(2,)") + bytes(8)}, "y_test: expected 2 numbers of int64, found 8 bytes"),
        ({"y_test": header(shape="(2305843009213693953,)") + bytes(8)}, "y_test: expected 2305843009213693953 numbers"),
        ({"y_test": header(shape="(-1, -1)") + bytes(8)}, "y_test: "),
        ({"y_test": header(version=9) + bytes(8)}, "y_test: expected an npy file of version"),
        ({"y_test": header("(99999999,)i8") + bytes(8)}, "y_test: expected integers"),
        ({"y_test": header("O")}, "y_test: "),
        ({"y_test": b"<html>"}, "y_test: "),
        ({"x_train": NO_LISTS["objects of bytes"]}, "x_train: "),
        ({"x_train": header("O") + NO_LISTS["objects of bytes, whose dtype denies it"]}, "x_train: "),
        ({"x_train": header("O", "(2,)") + pickle.dumps(lists([1]))}, r"x_train: expected shape \(2,\), found 1 lists"),
        ({"x_train": npy(lists(*[[0] * 1000] * 1000))}, "x_train: expected at most"),  # one list, again and again
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_imdb_names_what_is_wrong(entries, word, tmp_path):
    path = imdb_with(tmp_path, **entries)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {word}"):
        data.imdb(tmp_path)


def test_imdb_archives_that_are_none(tmp_path, monkeypatch):
    path = imdb_with(tmp_path)
    whole = path.read_bytes()
    for content in (b"", b"<html>", whole[:-30], whole[: len(whole) // 2], whole.replace(b"x_test", b"x_tset")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: "):
            data.imdb(tmp_path)
    start = whole.index(b"NUMPY")
    path.write_bytes(whole[:start] + b"M" + whole[start + 1 :])
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: x_train: BadZipFile: Bad CRC"):
        data.imdb(tmp_path)
    path.write_bytes(whole)
    monkeypatch.setattr(data, "LARGEST", 50)
    with pytest.raises(ValueError, match="x_train: expected at most 50 bytes"):
        data.imdb(tmp_path)


def test_imdb_texts_that_are_none(tmp_path):
    for place in ("train/pos", "train/neg", "test/pos", "test/neg"):
        (tmp_path / "aclImdb" / place).mkdir(parents=True)
        (tmp_path / "aclImdb" / place / "0_1.txt").write_text("good")
    path = tmp_path / "aclImdb/test/neg/0_1.txt"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: UnicodeDecodeError"):
        data.imdb(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: IsADirectoryError"):
        data.imdb(tmp_path)


def idx(values):
    return b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


IMAGES = {
    "train-images-idx3-ubyte.gz": gzip.compress(idx(np.arange(20 * 6, dtype=np.uint8).reshape(20, 2, 3)), mtime=0),
    "train-labels-idx1-ubyte": idx(np.arange(20, dtype=np.uint8) % 10),
    "t10k-images-idx3-ubyte": idx(np.arange(6 * 6, dtype=np.uint8).reshape(6, 2, 3)),
    "t10k-labels-idx1-ubyte.gz": gzip.compress(idx(np.arange(6, dtype=np.uint8)), mtime=0),
}


def mnist_in(folder):
    for name, content in IMAGES.items():
        (folder / name).write_bytes(content)


PACKED, PLAIN = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte"


@pytest.mark.parametrize(
    "name,content,word",
    [
        (PACKED, IMAGES[PACKED][:-9], "EOFError"),
        (PACKED, IMAGES[PACKED][:-6] + b"\0\0" + IMAGES[PACKED][-4:], "BadGzipFile: CRC"),
        (PACKED, gzip.decompress(IMAGES[PACKED]), "BadGzipFile"),
        (PACKED, IMAGES[PACKED][:10] + b"\xff" * 20, "error: Error -3"),
        (PACKED, b"", "expected an idx file"),
        (PLAIN, IMAGES[PLAIN] + b"\0", "expected 6 x 2 x 3 bytes, found more"),
        (PLAIN, IMAGES[PLAIN][:-1], "expected 6 x 2 x 3 bytes, found 35"),
        (PLAIN, IMAGES[PLAIN][:9], "expected 3 sizes, found the file's end"),
        (PLAIN, idx(np.zeros((6, 6), np.uint8)), "expected 3 dimensions, found 2"),
        (PLAIN, idx(np.zeros((6, 3, 2), np.uint8)), "expected images of 2 x 3, as those to train on, found 3 x 2"),
        (PLAIN, b"\0\0\x08\x03" + b"\xff" * 12, "expected 1 to"),
        (PLAIN, b"\0\0\x08\x03" + b"\x80\0\0\0\x80\0\0\0\0\0\0\x04", "expected 1 to"),
        (PLAIN, b"\0\0\x08\x03" + b"\0\0\0\x06" + bytes(8), "expected 1 to"),
        (PLAIN, b"\0\0\x0d\x03" + bytes(12), "expected an idx file of unsigned bytes"),
        ("train-labels-idx1-ubyte", idx(np.full(20, 10, np.uint8)), "expected labels from 0 to 9, found 10"),
        ("train-labels-idx1-ubyte", idx(np.zeros(19, np.uint8)), "expected as many labels as images, 20, found 19"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mnist_names_what_is_wrong(name, content, word, tmp_path):
    mnist_in(tmp_path)
    assert data.mnist(tmp_path).train.shape == (20, 2, 3)
    (tmp_path / name).write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / name))}: {word}"):
            data.mnist(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_folder_where_a_file_should_be(tmp_path):
    mnist_in(tmp_path)
    (tmp_path / PLAIN).unlink()
    (tmp_path / PLAIN).mkdir()
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / PLAIN))}: IsADirectoryError"):
        data.mnist(tmp_path)


# --- damage by chance, from fixed seeds -------------------------------------------------------------------------------


def damaged(rng, content):
    """With one to three bytes changed, a piece cut out, doubled, or replaced by zeros, or the end missing."""
    content = bytearray(content)
    a, b = sorted(rng.integers(0, len(content) + 1, 2))
    kind = rng.integers(0, 8)
    if kind < 4:
        for at in rng.integers(0, len(content), kind or 1):
            content[at] = rng.integers(0, 256) if kind else content[at] ^ (1 << rng.integers(0, 8))
    else:
        b = min(b, a + 20)
        content[a:b] = [b"", content[a:b] * 2, bytes(b - a), b""][kind - 4]
        if kind == 7:
            del content[a:]
    return bytes(content)


@pytest.mark.filterwarnings("ignore:Reading `.npy`")  # "as it was created on Python 2", says numpy
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("what", ["imdb", "imdb's entries", "mnist"])
def test_damaged_data_is_refused_by_name(what, seed, tmp_path):
    rng, refused = np.random.default_rng(seed), 0
    mnist_in(tmp_path)
    path = imdb_with(tmp_path)
    whole = path.read_bytes()
    for _ in range(300):
        if what == "imdb":
            path.write_bytes(damaged(rng, whole))
        elif what == "mnist":
            name = list(IMAGES)[rng.integers(0, 4)]
            path = tmp_path / name
            path.write_bytes(damaged(rng, IMAGES[name]))
        else:
            name = list(REVIEWS)[rng.integers(0, 4)]
            protocol = int(rng.integers(0, 6))
            content = npy(lists([1, 300], [5]), protocol) if name == "x_train" else REVIEWS[name]
            imdb_with(tmp_path, **{name: damaged(rng, content)})
        try:
            if what == "mnist":
                data.mnist(tmp_path)
            else:
                found = data.imdb(tmp_path)
                assert found.train.min() >= 0 and found.train.max() < found.words and found.test_labels.max() <= 1
        except (ValueError, FileNotFoundError) as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            refused += 1
        if what == "mnist":
            path.write_bytes(IMAGES[name])
    assert refused > 30


# --- a run's folder ---------------------------------------------------------------------------------------------------

NTM = {"controller_size": 8, "memory_rows": 4, "memory_width": 3}
CONFIG = Config("copy", {"bits": 2, "max_length": 3}, arguments=NTM, log=10, evaluate=20, fresh=3, sequences=30)
TINY = ["--bits", "2", "--max-length", "3", "--controller-size", "8", "--memory-rows", "4", "--memory-width", "3"]
TINY += ["--log", "10", "--evaluate", "20", "--fresh", "3", "--sequences", "30", "--threads", "1"]


@pytest.fixture
def run(tmp_path):
    """A folder with a run."""
    train(CONFIG, tmp_path / "run")
    return tmp_path / "run"


def said(capsys, command):
    """The one line in which a command says what is wrong."""
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    lines = [line for line in lines if line.strip() and "sequences/s" not in line and "|" not in line]
    assert len(lines) == 1 and lines[0].startswith(f"rnnkernels {command}: "), lines
    return lines[0]


def test_an_entry_that_became_a_folder_is_damage(run):
    """Of such an entry torch.load reads nothing, and returns memory that was never written."""
    store = Store(run)
    whole = store.checkpoint.read_bytes()
    for entry in re.finditer(rb"PK\x01\x02", whole):
        content = bytearray(whole)
        content[entry.start() + 38] |= 0x10  # MS-DOS's mark of a folder
        store.checkpoint.write_bytes(content)
        with pytest.raises(ValueError, match="got a damaged one: archive/.* as a folder$"):
            store.load()


def test_no_flipped_bit_of_a_checkpoint_loads_as_something_else(run):
    store, rng = Store(run), np.random.default_rng(0)
    whole, state, refused = store.checkpoint.read_bytes(), store.load(), 0
    for at in rng.integers(0, 8 * len(whole), 600):
        content = bytearray(whole)
        content[at // 8] ^= 1 << at % 8
        store.checkpoint.write_bytes(content)
        try:
            assert equal(store.load(), state)  # a bit of no meaning, as those between two entries
        except ValueError as error:
            assert str(error).startswith(f"{store.checkpoint}: expected a whole checkpoint, got a damaged one: ")
            refused += 1
    assert refused > 400


def test_a_damaged_checkpoint_is_refused_by_every_reader(run, capsys):
    for module in ("tqdm", "matplotlib"):
        pytest.importorskip(module)
    path = Store(run).checkpoint
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
        start = entry.header_offset
    content[start + 30 + len(entry.filename) + 64 + 40] ^= 4
    path.write_bytes(content)
    metrics = Store(run).metrics.read_bytes()
    for read in (lambda: Training.load(run), lambda: train(CONFIG, run, resume=True)):
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*checksum of {entry.filename}$"):
            read()
    for command in (["evaluate", run], ["plot", run], ["train", "copy", "--resume", "--out", run]):
        assert cli.main([str(word) for word in command]) == 1
        assert f"{path}: " in (line := said(capsys, command[0])) and entry.filename in line
    assert Store(run).metrics.read_bytes() == metrics and path.read_bytes() == content


@pytest.mark.parametrize(
    "changed",
    [
        lambda state: [1, 2],
        lambda state: state["model"],
        lambda state: state | {"config": state["config"] | {"dance": 1}},
        lambda state: state | {"config": state["config"] | {"batch": "a"}},
        lambda state: state | {"config": state["config"] | {"arguments": {"dance": 1}}},
        lambda state: state | {"model": {}},
        lambda state: state | {"generators": {}},
        lambda state: {name: value for name, value in state.items() if name != "curve"},
        lambda state: state | {"sequences": [1]},
    ],
)
def test_a_checkpoint_of_something_else_is_refused(changed, run, capsys):
    path = Store(run).checkpoint
    torch.save(changed(torch.load(path)), path)
    expected = f"{path}: expected the checkpoint of a run, as this version of rnnkernels keeps it, got another: "
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}"):
        Training.load(run)
    assert cli.main(["evaluate", str(run)]) == 1 and expected in said(capsys, "evaluate")


def test_checksums_are_written_whatever_torch_was_told(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        train(CONFIG, tmp_path)
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(before)
    assert Training.load(tmp_path).sequences == 30


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\n", b"{\n", b"[" * 100_000 + b"\n", b"7\n", b'{"kind": 1}\n', b'{"kind": "training"}\n']
)
def test_metrics_that_are_none_are_refused_by_line(content, run, capsys):
    pytest.importorskip("matplotlib")
    with Store(run).metrics.open("ab") as file:
        file.write(content)
    assert cli.main(["plot", str(run)]) == 1
    assert f"{Store(run).metrics}: line 5: expected metrics of a run" in said(capsys, "plot")


def test_a_damaged_line_is_shown_in_one(run):
    with Store(run).metrics.open("ab") as file:
        file.write(b"\x0b\x1c\x85\n")
    with pytest.raises(ValueError, match="line 5: ") as raised:
        Store(run).lines()
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("metrics", [None, "x", [1], -1])
def test_a_checkpoint_that_does_not_know_its_metrics_is_not_resumed(metrics, run):
    path = Store(run).checkpoint
    torch.save(torch.load(path) | {"metrics": metrics}, path)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: expected the checkpoint of a run"):
        train(CONFIG, run, resume=True)


def test_a_loss_that_is_not_finite_does_not_end_a_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    loop = sys.modules["rnnkernels.training.loop"]
    scores = loop.Scores(math.nan, math.inf, 50.0)
    monkeypatch.setattr(loop, "evaluate", lambda *args, **sizes: scores)
    assert train(CONFIG, tmp_path).sequences == 30
    assert cli.main(["evaluate", str(tmp_path), "--json", "--test", "length=2"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"][0]["loss"] is None
    (line,) = (line for line in Store(tmp_path).lines() if line["kind"] == "evaluation")
    assert line["loss"] is None and line["errors"] is None and line["right"] == 50
    assert cli.main(["plot", str(tmp_path)]) == 0


def test_a_strangers_metrics_are_left_alone(tmp_path, capsys):
    pytest.importorskip("tqdm")
    path = tmp_path / "metrics.jsonl"
    path.write_text("three weeks of work\n")
    with pytest.raises(ValueError, match="^folder: expected one without a run, got .*, which has a metrics.jsonl$"):
        train(CONFIG, tmp_path)
    assert cli.main(["train", "copy", *TINY, "--out", str(tmp_path)]) == 1 and "folder: " in said(capsys, "train")
    assert path.read_text() == "three weeks of work\n" and os.listdir(tmp_path) == ["metrics.jsonl"]
    path.write_text("")  # of a run that was killed before its first checkpoint
    assert train(CONFIG, tmp_path).sequences == 30


@pytest.mark.parametrize("name", ["checkpoint.new", "checkpoint.pt", "metrics.jsonl"])
def test_links_are_not_followed(name, tmp_path):
    target = tmp_path / "precious"
    for content in ("precious", ""):
        target.write_text(content)
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).symlink_to(target)
        if name == "checkpoint.new":
            train(CONFIG, tmp_path / "run")
            assert not Store(tmp_path / "run").checkpoint.is_symlink()
            (tmp_path / "run" / "checkpoint.new").symlink_to(target)
            train(replace(CONFIG, sequences=40), tmp_path / "run", resume=True)
            assert Training.load(tmp_path / "run").sequences == 40
            for file in (tmp_path / "run").iterdir():
                file.unlink()
        else:
            with pytest.raises(ValueError, match="^folder: expected"):
                train(CONFIG, tmp_path / "run")
            (tmp_path / "run" / name).unlink()
        assert target.read_text() == content


def test_one_process_trains_in_a_folder(run, capsys):
    pytest.importorskip("tqdm")
    script = "import sys; from rnnkernels.training import *; s = Store(sys.argv[1]); s.begin(True); print(); input()"
    holder = subprocess.Popen([sys.executable, "-c", script, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    kept = {path.name: path.read_bytes() for path in run.iterdir()}
    try:
        assert holder.stdout.readline()
        with pytest.raises(
            ValueError, match=f"^folder: expected one that no other process .* got {re.escape(str(run))}$"
        ):
            train(CONFIG, run, resume=True)
        assert cli.main(["train", "copy", "--resume", "--out", str(run)]) == 1
        assert "no other process" in said(capsys, "train")
        assert Training.load(run).sequences == 30  # to read is no harm
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert {path.name: path.read_bytes() for path in run.iterdir()} == kept
    assert train(replace(CONFIG, sequences=40), run, resume=True).sequences == 40  # the killed one has left no lock


def test_what_a_checkpoint_would_not_give_back_is_refused(tmp_path):
    for arguments in (NTM | {"memory_init": torch.nn.Linear}, NTM | {"controller_size": np.int64(8)}):
        with pytest.raises(ValueError, match="^arguments: expected what a checkpoint holds"):
            train(replace(CONFIG, arguments=arguments), tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_run_that_ended_meanwhile_is_resumed_from_its_end(run, monkeypatch):
    """What is loaded is what is there once the folder is ours, not what was there before."""
    begin = Store.begin

    def later(self, resume):
        monkeypatch.setattr(Store, "begin", begin)
        train(replace(CONFIG, sequences=60), run, resume=True)
        begin(self, resume)

    monkeypatch.setattr(Store, "begin", later)
    assert train(replace(CONFIG, sequences=50), run, resume=True).sequences == 60


# --- what reproduce keeps ---------------------------------------------------------------------------------------------


@pytest.fixture
def reproduce(tmp_path, monkeypatch):
    """`reproduce(trial, words)` runs the entry "equality" with another trial; its exit status."""
    pytest.importorskip("tqdm")

    def call(trial, *words, jobs=1):
        monkeypatch.setitem(ENTRIES, "equality", replace(ENTRIES["equality"], trial=trial, trials=3))
        words = ["reproduce", "equality/full", "--jobs", jobs, "--out", tmp_path, *words]
        return cli.main([str(word) for word in words])

    return call


def solved(t):
    return Outcome(True, t.seed)


def kept(folder):
    """Seeds on file, by run."""
    runs = runner.load(folder / "reproduction/equality.json")
    return [[trial["seed"] for held in run["variants"].values() for trial in held["trials"]] for run in runs]


RUN = {
    "date": "",
    "machine": {},
    "isa": "",
    "versions": {},
    "revision": None,
    "cap": 1,
    "jobs": 1,
    "interrupted": False,
}
KEPT = RUN | {"machine": {"processor": "", "cores": 1}, "variants": {}}
DAMAGED = {
    "no JSON": b"{",
    "no text": b"\xff\xfe",
    "nested": b"[" * 100_000,
    "a list": b"[]",
    "a number": b'{"runs": 7}',
    "runs of nothing": b'{"runs": [{}]}',
    "no trials": json.dumps({"runs": [RUN | {"variants": {"a": {"options": {}, "trials": 3}}}]}).encode(),
    "a trial of text": json.dumps(
        {"runs": [RUN | {"variants": {"a": {"options": {}, "trials": [{"solved": True, "count": "x"}]}}}]}
    ).encode(),
    "no seconds": json.dumps(
        {
            "runs": [
                KEPT | {"variants": {"a": {"options": {}, "trials": [{"solved": True, "count": 1, "seconds": None}]}}}
            ]
        }
    ).encode(),
    "trials of none": json.dumps({"runs": [KEPT | {"variants": {"a": {"options": {}, "trials": []}}}]}).encode(),
    "no machine": json.dumps({"runs": [KEPT | {"machine": {}, "variants": {}}]}).encode(),
    "no revision": json.dumps({"runs": [{k: v for k, v in KEPT.items() if k != "revision"}]}).encode(),
    "cut off": (b'{"entry": "equality", "runs": [' + json.dumps(RUN).encode())[:-5],
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("entry", ["equality", "anbn"])  # its own, and one that the page shows
def test_damaged_results_are_found_before_the_first_trial(entry, name, tmp_path, reproduce, capsys):
    path, begun = tmp_path / "reproduction" / f"{entry}.json", []
    path.parent.mkdir()
    path.write_bytes(DAMAGED[name])
    assert reproduce(lambda t: begun.append(t) or solved(t)) == 1
    assert f"{path}: expected the runs of `reproduce`, got a damaged file" in said(capsys, "reproduce")
    assert not begun and path.read_bytes() == DAMAGED[name]
    assert cli.main(["reproduce", "--render", "--out", str(tmp_path)]) == 1
    assert str(path) in said(capsys, "reproduce")


def test_trials_are_kept_as_they_end(tmp_path, reproduce):
    at_start = []

    def trial(t):
        at_start.append(kept(tmp_path))
        return solved(t)

    assert reproduce(trial) == 0 and reproduce(trial, "--seed", 7) == 0
    assert at_start[:3] == [[], [[0]], [[0, 1]]] and at_start[3:] == [
        [[0, 1, 2]],
        [[0, 1, 2], [7]],
        [[0, 1, 2], [7, 8]],
    ]
    assert kept(tmp_path) == [[0, 1, 2], [7, 8, 9]]
    assert [run["interrupted"] for run in runner.load(tmp_path / "reproduction/equality.json")] == [False, False]


def test_what_is_not_finite_is_kept_and_shown(tmp_path, reproduce):
    values = [0.5, math.nan, math.inf]

    def trial(t):
        curve = {"sequences": [1, 2], "loss": [values[t.seed], 1.0], "errors": [1.0, math.nan]}
        return Outcome(True, 1, "", {"drawn": values[t.seed]}, curve)

    assert reproduce(trial) == 0 and kept(tmp_path) == [[0, 1, 2]]
    path = tmp_path / "reproduction/equality.json"
    assert '"loss": [ null, 1.0 ]' in path.read_text() and "NaN" not in path.read_text()
    (run,) = runner.load(path)
    found = runner.outcomes(run["variants"]["full"]["trials"])
    assert found[0].figures == {"drawn": 0.5} and math.isnan(found[1].figures["drawn"])
    assert report.summary(found)["further"] == "drawn: 0.5, 2 not finite"
    assert "drawn: 0.5, 2 not finite" in (tmp_path / "REPRODUCTION.md").read_text()


def test_a_trial_that_cannot_be_kept_is_no_others_loss(tmp_path, reproduce, capsys):
    assert reproduce(lambda t: Outcome(True, 1, "", {"x": {1} if t.seed == 1 else 1.0})) == 1
    assert kept(tmp_path) == [[0, 2]] and "equality/full, seed 1: TypeError" in capsys.readouterr().err


def test_no_gate_lets_nan_pass():
    gate = ENTRIES["continual"].gate
    for name in gate.variants:
        assert len(gate.check({name: [Outcome(None, 1, "", {"outer T or P right, %": math.nan})]})) == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_it_has_kept_what_had_ended(jobs, tmp_path):
    pytest.importorskip("tqdm")
    words = ["reproduce", "equality/full", "--trials", "1000000000", "--cap", "2", "--jobs", str(jobs)]
    process = subprocess.Popen(
        [sys.executable, "-m", "rnnkernels", *words, "--out", tmp_path], stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 120
    try:
        while sum(map(len, kept(tmp_path))) < 4:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
    (seeds,) = kept(tmp_path)
    assert len(seeds) >= 4 and runner.load(tmp_path / "reproduction/equality.json")[0]["interrupted"]
    assert (
        cli.main(["reproduce", "equality/full", "--trials", "1", "--cap", "2", "--jobs", "1", "--out", str(tmp_path)])
        == 0
    )
    assert kept(tmp_path) == [seeds, [0]]


def full(path, content):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_full_disk_loses_no_trial(tmp_path, reproduce, monkeypatch, capsys):
    whole = runner.replace

    def trial(t):
        monkeypatch.setattr(runner, "replace", full if t.seed == 1 else whole)
        return solved(t)

    assert reproduce(trial) == 0 and kept(tmp_path) == [[0, 1, 2]]
    assert "equality: not kept, to be tried again: " in capsys.readouterr().err

    def last(t):
        monkeypatch.setattr(runner, "replace", full if t.seed == 2 else whole)
        return solved(t)

    assert reproduce(last) == 1 and kept(tmp_path) == [[0, 1, 2], [0, 1]]
    line = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rnnkernels reproduce: ")][-1]
    assert "No space left on device; not kept in " in line
    path = type(tmp_path)(line.rpartition(" ")[2])
    assert [len(v["trials"]) for v in runner.load(path)[0]["variants"].values()] == [3]
    path.unlink()


def test_a_file_damaged_meanwhile_is_left_alone(tmp_path, reproduce, capsys):
    path = tmp_path / "reproduction/equality.json"

    def trial(t):
        if t.seed == 1:
            path.write_text("{")
        return solved(t)

    assert reproduce(trial) == 1 and path.read_text() == "{"
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rnnkernels reproduce: ")]
    rescued = type(tmp_path)(lines[0].rpartition(" ")[2])
    assert len(runner.load(rescued)[0]["variants"]["full"]["trials"]) == 3
    rescued.unlink()


def test_two_at_once_keep_both(tmp_path, reproduce):
    def trial(t):
        if t.seed == 1:
            variant = replace(ENTRIES["equality"].variants[0], name="other")
            other = runner.Run(ENTRIES["equality"], [variant], 1, 1.0, 1, {"other": [Outcome(True, 1, seed=70)]})
            runner.keep(tmp_path / "reproduction/equality.json", other)
        return solved(t)

    assert reproduce(trial) == 0 and kept(tmp_path) == [[0, 1, 2], [70]]
    script = (
        "import sys; from pathlib import Path; from rnnkernels.experiments import ENTRIES, Outcome, runner\n"
        "e = ENTRIES['equality']; v = e.variants[0]; r = runner.Run(e, [v], 1, 1.0, 1, {v.name: []})\n"
        "for seed in range(30):\n"
        "    r.found[v.name].append(Outcome(True, 1, seed=seed))\n"
        "    runner.keep(Path(sys.argv[1]), r)\n"
    )
    path = tmp_path / "two.json"
    two = [subprocess.Popen([sys.executable, "-c", script, path]) for _ in range(2)]
    assert [process.wait(120) for process in two] == [0, 0]
    assert [len(held["trials"]) for run in runner.load(path) for held in run["variants"].values()] == [30, 30]


@pytest.fixture
def interruptible():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_a_trial_is_kept(tmp_path, reproduce, monkeypatch, interruptible, capsys):
    whole = runner.replace

    def interrupted(path, content):
        if kept(tmp_path) == [[0]]:
            signal.raise_signal(signal.SIGINT)
        whole(path, content)

    monkeypatch.setattr(runner, "replace", interrupted)
    assert reproduce(solved) == 130 and kept(tmp_path) == [[0, 1]]
    assert "interrupted: what had finished is kept" in capsys.readouterr().err


# --- folders that are no folders, disks that are full, arguments that mean nothing ------------------------------------


@pytest.fixture
def bits_hold():
    """Permission bits hold for root too."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    before = data[0]
    data[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, data) == 0
    yield
    data[0] = before
    assert libc.capset(header, data) == 0


def test_a_folder_that_cannot_be_written(run, tmp_path, reproduce, bits_hold, capsys):
    pytest.importorskip("matplotlib")
    other = tmp_path / "other"
    other.mkdir()
    begun = []
    folders = (run, other, tmp_path)
    for folder in folders:
        folder.chmod(0o555)
    try:
        for command in (
            ["train", "copy", *TINY, "--out", other],
            ["train", "copy", *TINY, "--out", other / "deeper"],
            ["train", "copy", "--resume", "--sequences", 60, "--out", run],
            ["plot", run],
            ["demo", "--out", other / "demo.png"],
        ):
            assert cli.main([str(word) for word in command]) == 1
            line = said(capsys, command[0])
            assert "Permission denied" in line and str(other if other in command or "demo" in command else "/") in line
        assert reproduce(lambda t: begun.append(t)) == 1 and "Permission denied" in said(capsys, "reproduce")
        assert not begun and cli.main(["evaluate", str(run), "--sequences", "2"]) == 0
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert Training.load(run).sequences == 30


def started(*words, limit=None):
    """A command, whose files may have `limit` bytes."""

    def begin():
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "rnnkernels", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=begin)


def last(done, command):
    """The only line that a command said, but for its progress."""
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip() and "|" not in line]
    assert len(lines) == 1 and lines[0].startswith(f"rnnkernels {command}: "), done.stderr
    return lines[0]


def test_a_disk_that_gets_full(run, tmp_path):
    """A limit to the size of files: to the program as a full disk, in the middle of a file."""
    pytest.importorskip("tqdm")
    size = Store(run).checkpoint.stat().st_size
    done = started("train", "copy", *TINY, "--out", tmp_path / "new", limit=size // 2)
    assert f"{tmp_path / 'new/checkpoint.pt'}: File too large" in last(done, "train")
    assert os.listdir(tmp_path / "new") == ["metrics.jsonl"]  # and no half of a checkpoint
    done = started("train", "copy", "--resume", "--sequences", 900, "--out", run, limit=size // 2)
    assert f"{run / 'checkpoint.pt'}: File too large" in last(done, "train")
    assert Training.load(run).sequences == 30 and sorted(os.listdir(run)) == ["checkpoint.pt", "metrics.jsonl"]
    more = replace(CONFIG, sequences=30_000, log=1, evaluate=0)
    train(replace(more, sequences=1), tmp_path / "long")
    done = started("train", "copy", "--resume", "--sequences", 30_000, "--out", tmp_path / "long", limit=size + 2000)
    assert f"{tmp_path / 'long/metrics.jsonl'}: File too large" in last(done, "train")
    assert Training.load(tmp_path / "long").sequences >= 1
    assert train(replace(more, sequences=3), tmp_path / "long", resume=True).sequences >= 3


def test_standard_output_that_cannot_be_written():
    with open("/dev/full", "w") as file:
        done = subprocess.run(
            [sys.executable, "-m", "rnnkernels", "info"], stdout=file, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1 and done.stderr == "rnnkernels info: No space left on device\n"
    command = f"{sys.executable} -m rnnkernels reproduce --list | head -c 1 >&2"
    done = subprocess.run(["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], stderr=subprocess.PIPE, text=True)
    assert len(done.stderr) == 1  # what `head` says


@pytest.mark.parametrize(
    "words,said_of",
    [
        (["train", "copy", "--out", "FILE"], "folder: expected a folder, got the file FILE"),
        (["train", "copy", "--out", "FILE/in"], "FILE"),
        (["train", "copy", "--resume", "--out", "FILE"], "folder: expected that of a run"),
        (["train", "copy", "--lr", "nan"], "lr: "),
        (["train", "copy", "--checkpoint-seconds", "nan"], "checkpoint_seconds: expected"),
        (["train", "copy", "--checkpoint-sequences", "-1"], "checkpoint_sequences: expected"),
        (["train", "copy", "--memory-rows", "1" + "0" * 15], ""),
        (["train", "copy", "--memory-rows", "1" + "0" * 30], ""),
        (["train", "copy", "--controller-size", "0"], "controller_size: "),
        (["train", "copy", "--batch", "-1"], "batch: "),
        (["train", "copy", "--seed", "1" + "0" * 30], "seed: "),
        (["train", "copy", "--set", "controller_size=[]"], ""),
        (["evaluate", "FILE"], "folder: expected that of a run"),
        (["evaluate", "RUN", "--test", "generator=3"], "sizes: expected length, got generator"),
        (["evaluate", "RUN", "--test", "size=3"], "sizes: expected length, got size"),
        (["evaluate", "RUN", "--test", "count=3"], "sizes: expected length, got count"),
        (["evaluate", "RUN", "--test", "seed=3"], "sizes: expected length, got seed"),
        (["evaluate", "RUN", "--test", "self=3"], "sizes: expected length, got self"),
        (["evaluate", "RUN", "--test", "length=2147483647"], ""),
        (["plot", "RUN", "--test", "generator=3"], "sizes: expected length, got generator"),
        (["plot", "RUN", "--test", "size=3"], "sizes: expected length, got size"),
        (["plot", "RUN", "--out", "FILE"], "FILE: File exists"),
        (["plot", "FILE"], "folder: expected that of a run"),
        (["demo", "--out", "FILE/demo.png"], "--out: a file in a folder that exists expected"),
        (["demo", "--out", "RUN"], "RUN: Is a directory"),
        (["demo", "--ntm-out", "RUN/demo.dance"], "--ntm-out: a picture expected"),
        (["reproduce", "equality", "--out", "FILE"], "--out: a folder expected, found the file FILE"),
        (["reproduce", "equality", "--out", "FILE/in"], "FILE"),
        (["reproduce", "--render", "--out", "FILE"], "FILE"),
        (["reproduce", "mnist-rows", "--data", "FILE"], "--data: a folder expected"),
        (["reproduce", "equality", "--set", "lr={1}", "--out", "new"], "--set: a number, a word, or lists"),
        (["check", "--device", "dance"], ""),
        (["check", "--seed", "1" + "0" * 30], ""),
        (["bench", "--device", "dance"], ""),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_one_line_says_what_is_wrong(words, said_of, run, tmp_path, monkeypatch, capsys):
    for module in ("tqdm", "matplotlib", "sklearn"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    before = sorted(os.listdir(run))
    words = [word.replace("FILE", "file").replace("RUN", "run") for word in words]
    if words[0] == "train" and "--out" not in words:
        words += ["--out", "new"]
    assert cli.main(words) == 1
    assert said_of.replace("FILE", "file").replace("RUN", "run") in said(capsys, words[0])
    assert (tmp_path / "file").read_text() == "kept" and sorted(os.listdir(run)) == before


@pytest.mark.parametrize(
    "size", ["length=0", "length=x", "length", "=3", "length=3,=3", "length=" + "1" + "0" * 30, ""]
)
def test_sizes_that_are_none(size, capsys):
    for words in (["evaluate", "run", "--seed", "1" + "0" * 30], ["reproduce", "--trials", "1" + "0" * 30]):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert end.value.code == 2 and "usage:" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate", "run", "--test", size])
    assert end.value.code == 2 and "usage:" in capsys.readouterr().err


def test_ctrl_c_at_any_command(run, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for name, words in (("evaluate", ["evaluate", run]), ("plot", ["plot", run]), ("info", ["info"])):
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[f"rnnkernels.cli.{name}"], "run", interrupted)
            assert cli.main([str(word) for word in words]) == 130
        assert capsys.readouterr().err.split() == ["interrupted"]
