"""What files may do to us, and we to them: damaged data sets, checkpoints and results, folders that are no folders."""

import gzip
import io
import math
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from rnnkernels import cli
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


def array(shape, dtype, content):
    """In the words of pickle: numpy's array of this shape, dtype and content."""
    dtype = b"cnumpy\ndtype\n(V" + dtype + b"\nI0\nI1\ntR(I3\nV<\nNNNI-1\nI-1\nI63\ntb"
    made = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
    return made + b"(I1\n(" + shape + b"t" + dtype + b"I0\n" + content + b"tb"


def one(item):
    """An array of one list, or what stands for it."""
    return array(b"I1\n", b"O8", b"(" + item + b"l") + b"."


EIGHT = b"C\x08AAAAAAAA"
NO_LISTS = {
    "objects of bytes": array(b"I1\n", b"O8", EIGHT) + b".",
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
        ({"x_train": header("O") + NO_LISTS["objects of bytes"]}, "x_train: "),
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


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return one == other


def test_no_flipped_bit_of_a_checkpoint_loads_as_something_else(run):
    store, rng = Store(run), np.random.default_rng(0)
    whole, state, refused = store.checkpoint.read_bytes(), store.load(), 0
    for at in rng.integers(0, 8 * len(whole), 600):
        content = bytearray(whole)
        content[at // 8] ^= 1 << at % 8
        store.checkpoint.write_bytes(content)
        try:
            assert same(store.load(), state)  # a bit of no meaning, as those between two entries
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
    ],
)
def test_a_checkpoint_of_something_else_is_refused(changed, run, capsys):
    path = Store(run).checkpoint
    torch.save(changed(torch.load(path)), path)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: "):
        Training.load(run)
    assert cli.main(["evaluate", str(run)]) == 1 and str(path) in said(capsys, "evaluate")


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


def test_a_loss_that_is_not_finite_does_not_end_a_run(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    loop = sys.modules["rnnkernels.training.loop"]
    scores = loop.Scores(math.nan, math.inf, 50.0)
    monkeypatch.setattr(loop, "evaluate", lambda *args, **sizes: scores)
    assert train(CONFIG, tmp_path).sequences == 30
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


def test_a_run_that_ended_meanwhile_is_resumed_from_its_end(run, monkeypatch):
    """What is loaded is what is there once the folder is ours, not what was there before."""
    begin = Store.begin

    def later(self, resume):
        monkeypatch.setattr(Store, "begin", begin)
        train(replace(CONFIG, sequences=60), run, resume=True)
        begin(self, resume)

    monkeypatch.setattr(Store, "begin", later)
    assert train(replace(CONFIG, sequences=50), run, resume=True).sequences == 60
