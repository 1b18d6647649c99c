"""Images and reviews: scikit-learn's digits, and MNIST and IMDB from the files they are usually found in."""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from torch import Generator, Tensor

from .pickled import array_of, lists_of

__all__ = ["Images", "Reviews", "digits", "imdb", "mnist"]

PAD, START, UNKNOWN, FIRST_WORD = 0, 1, 2, 3  # Keras's places; the commonest word is 4
LARGEST = 2**27  # bytes of one array, unpacked: more than twice those of MNIST's largest, and of IMDB's


class Images(NamedTuple):
    """Images read as sequences. Axes: N images, T ticks, I pixels of a tick.

    train, test: uint8 (N,T,I), 0 to `white`.
    train_labels, test_labels: int64 (N,).
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    white: int

    def ticks(self, images: Tensor) -> Tensor:
        """float32 (T,N,I) in [0, 1] of uint8 images (N,T,I)."""
        return images.transpose(0, 1).float().div_(self.white)


def _as_sequences(images: Tensor, rows: bool) -> Tensor:
    """(N,height,width): row by row as it is, or pixel by pixel (N,height*width,1)."""
    return images if rows else images.flatten(1).unsqueeze(2)


def digits(generator: Generator, rows: bool = True, test: float = 0.2) -> Images:
    """scikit-learn's 1797 handwritten digits of 8 x 8 pixels: T=8, I=8 row by row, or T=64, I=1 pixel by pixel.

    Args:
        test: this part of every class is drawn to be tested on.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).to(torch.uint8)
    labels = torch.from_numpy(data.target).to(torch.int64)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        members = (labels == label).nonzero().squeeze(1)
        chosen = torch.randperm(len(members), generator=generator)[: round(test * len(members))]
        held[members[chosen]] = True
    images = _as_sequences(images, rows)
    return Images(images[~held], labels[~held], images[held], labels[held], 16)


def _find(folder: Path, names: Iterable[str]) -> Path:
    """The first of these names that exists in `folder` or in a place below where it usually lies."""
    names = list(names)
    for place in (".", "MNIST/raw", "mnist", "MNIST", "imdb", "IMDB"):
        for name in names:
            if (path := folder / place / name).is_file() or path.is_dir():
                return path
    raise FileNotFoundError(f"{folder}: expected one of {', '.join(names)}, found none")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Names the file in whatever goes wrong: of a damaged one unpackers and parsers raise what they happen to raise."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(f"{path}: {kind}{' '.join(str(error).split())[:300]}") from error


def _idx(path: Path, ranks: int) -> Tensor:
    """An idx file of unsigned bytes, packed by gzip or not, as a uint8 tensor of so many dimensions."""
    with _reading(path), gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        start = file.read(4)
        if len(start) < 4 or start[:3] != b"\0\0\x08":
            raise ValueError(f"expected an idx file of unsigned bytes, found {start!r} at its start")
        if start[3] != ranks:
            raise ValueError(f"expected {ranks} dimensions, found {start[3]}")
        sizes = file.read(4 * ranks)
        if len(sizes) < 4 * ranks:
            raise ValueError(f"expected {ranks} sizes, found the file's end")
        shape = struct.unpack(f">{ranks}I", sizes)
        expected = f"{' x '.join(map(str, shape))} bytes"
        if not 0 < math.prod(shape) <= LARGEST:
            raise ValueError(f"expected 1 to {LARGEST} bytes, found {expected}")
        content = file.read(math.prod(shape) + 1)  # as many as there should be, and the end, where gzip checks its sum
        if len(content) != math.prod(shape):
            raise ValueError(
                f"expected {expected}, found {'more' if len(content) > math.prod(shape) else len(content)}"
            )
        return torch.from_numpy(numpy.frombuffer(content, numpy.uint8).reshape(shape).copy())


def mnist(folder: Path | str, rows: bool = True) -> Images:
    """MNIST of its four idx files: T=28, I=28 row by row, or T=784, I=1 pixel by pixel.

    Args:
        folder: holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte, each perhaps with .gz or a dot before idx, there or in MNIST/raw.

    Raises:
        FileNotFoundError, ValueError: a file is missing, or is no such file.
    """
    parts = []
    for part in ("train", "t10k"):
        paths = [
            _find(Path(folder), [f"{part}-{kind}{dot}idx{ranks}-ubyte{gz}" for dot in "-." for gz in ("", ".gz")])
            for kind, ranks in (("images", 3), ("labels", 1))
        ]
        images, labels = (_idx(path, ranks) for path, ranks in zip(paths, (3, 1)))
        if len(images) != len(labels):
            raise ValueError(f"{paths[1]}: expected as many labels as images, {len(images)}, found {len(labels)}")
        if labels.max() > 9:
            raise ValueError(f"{paths[1]}: expected labels from 0 to 9, found {int(labels.max())}")
        if parts and images.shape[1:] != parts[0].shape[1:]:
            expected, found = (" x ".join(map(str, x.shape[1:])) for x in (parts[0], images))
            raise ValueError(f"{paths[0]}: expected images of {expected}, as those to train on, found {found}")
        parts += [images, labels.long()]
    images, labels, test, test_labels = parts
    return Images(_as_sequences(images, rows), labels, _as_sequences(test, rows), test_labels, 255)


class Reviews(NamedTuple):
    """Reviews as words' numbers. Axes: N reviews, T words.

    train, test: int64 (N,T), 0 before a review's start, 1 at it, 2 for a word not among the commonest, from 4 on words
        by falling frequency.
    train_labels, test_labels: int64 (N,), 1 where the review is favourable.
    words: numbers are below this.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    words: int


def _npy(content: bytes) -> list[Any]:
    """The array of an npy file, as lists; one of lists without trusting its pickle."""
    file = io.BytesIO(content)
    version = numpy.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"expected an npy file of version 1, 2 or 3, found {version}")
    read = numpy.lib.format.read_array_header_1_0 if version == (1, 0) else numpy.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.kind != "O":
        return array_of(file.read(), dtype, shape, fortran).tolist()
    found = lists_of(file.read())
    if shape != (len(found),):
        raise ValueError(f"expected shape {shape}, found {len(found)} lists")
    return found


def _numbers(found: Any, below: int) -> list[int]:
    """`found`, if it is a list of integers from 0 to less than `below`."""
    if type(found) not in (list, tuple) or not all(type(n) is int and 0 <= n < below for n in found):
        raise ValueError(f"expected lists of integers from 0 to {below - 1}, found something else")
    return found


def _ranks_of_npz(path: Path) -> tuple[list[list[int]], list[int], list[list[int]], list[int]]:
    arrays = {}

    def load(name: str, understood: Callable[[list[Any], int], list[Any]]) -> None:
        try:
            entry = archive.getinfo(f"{name}.npy")
            if entry.file_size > LARGEST:
                raise ValueError(f"expected at most {LARGEST} bytes, found {entry.file_size}")
            arrays[name] = understood(_npy(archive.read(entry)), entry.file_size)
        except Exception as error:  # whatever a reader makes of damage
            kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
            raise ValueError(f"{name}: {kind}{error}") from error

    def reviews(found: list[Any], size: int) -> list[list[int]]:
        lists = [_numbers(review, 2**63) for review in found]
        if sum(map(len, lists)) > size:  # lists of one list, again and again
            raise ValueError(f"expected at most {size} numbers, as many as bytes, found more")
        return lists

    def labels(found: list[Any], size: int) -> list[int]:
        return _numbers(found, 2)

    with _reading(path), zipfile.ZipFile(path) as archive:
        for part in ("train", "test"):
            load(f"x_{part}", reviews)
            load(f"y_{part}", labels)
            texts, given = (len(arrays[f"{axis}_{part}"]) for axis in "xy")
            if texts != given or not texts:
                raise ValueError(f"y_{part}: expected a label for each of {texts} reviews, found {given}")
    return tuple(arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))


def _ranks_of_folder(folder: Path) -> tuple[list[list[int]], list[int], list[list[int]], list[int]]:
    texts: dict[str, list[list[str]]] = {}
    labels: dict[str, list[int]] = {}
    for part in ("train", "test"):
        texts[part], labels[part] = [], []
        for label, name in enumerate(("neg", "pos")):
            for path in sorted((folder / part / name).glob("*.txt")):
                with _reading(path):
                    text = path.read_text(encoding="utf-8").lower().replace("<br />", " ")
                texts[part].append(re.findall(r"[a-z0-9']+", text))
                labels[part].append(label)
        if not texts[part]:
            raise ValueError(f"{folder}: expected reviews in {part}/pos and {part}/neg, found none")
    counts = Counter(word for text in texts["train"] for word in text)
    ranks = {word: r for r, (word, _) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item[0])), 1)}
    absent = len(ranks) + 1
    train, test = ([[ranks.get(word, absent) for word in text] for text in texts[part]] for part in ("train", "test"))
    return train, labels["train"], test, labels["test"]


def _reviews(ranks: list[list[int]], words: int, T: int) -> Tensor:
    """The last T numbers of each review, zeros before a shorter one."""
    x = torch.zeros(len(ranks), T, dtype=torch.int64)
    for row, review in zip(x, ranks, strict=True):
        last = (r + FIRST_WORD if r + FIRST_WORD < words else UNKNOWN for r in review[-T:])
        numbers = [START, *last][-T:]
        row[T - len(numbers) :] = torch.tensor(numbers)
    return x


def imdb(folder: Path | str, words: int = 20000, T: int = 80) -> Reviews:
    """IMDB's reviews, numbered and cut as Keras does: the last T words of each.

    Args:
        folder: holds `imdb.npz` (Keras's) or the folder `aclImdb` of texts, or is that folder. Texts are cut into
            words here, so that their numbers are not Keras's.
        words: the numbers are below this; rarer words become 2.

    Raises:
        FileNotFoundError, ValueError: neither is there, or not as it should be.
    """
    folder = Path(folder)
    path = folder if (folder / "train/pos").is_dir() else _find(folder, ["imdb.npz", "aclImdb"])
    train, train_labels, test, test_labels = _ranks_of_folder(path) if path.is_dir() else _ranks_of_npz(path)
    return Reviews(
        _reviews(train, words, T),
        torch.tensor(train_labels),
        _reviews(test, words, T),
        torch.tensor(test_labels),
        words,
    )
