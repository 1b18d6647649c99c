"""Images and reviews: scikit-learn's digits, and MNIST and IMDB from the files they are usually found in."""

from __future__ import annotations

import gzip
import pickle
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy
import torch
from torch import Generator, Tensor

__all__ = ["Images", "Reviews", "digits", "imdb", "mnist"]

PAD, START, UNKNOWN, FIRST_WORD = 0, 1, 2, 3  # Keras's places; the commonest word is 4


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
            if (path := folder / place / name).exists():
                return path
    raise FileNotFoundError(f"{folder}: expected one of {', '.join(names)}, found none")


def _idx(path: Path) -> Tensor:
    """An idx file of unsigned bytes, packed by gzip or not, as a uint8 tensor of its own shape."""
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        content = file.read()
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: expected an idx file of unsigned bytes, found {content[:4]!r} at its start")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path}: expected {content[3]} sizes, found the file's end")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    values = numpy.frombuffer(content, numpy.uint8, offset=start)
    if values.size != numpy.prod(shape, dtype=numpy.int64):
        raise ValueError(f"{path}: expected {' x '.join(map(str, shape))} bytes, found {values.size}")
    return torch.from_numpy(values.copy()).view(shape)


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
        for kind, ranks in (("images", "3"), ("labels", "1")):
            names = [f"{part}-{kind}{dot}idx{ranks}-ubyte{gz}" for dot in "-." for gz in ("", ".gz")]
            path = _find(Path(folder), names)
            parts.append(_idx(path))
            if parts[-1].dim() != int(ranks):
                raise ValueError(f"{path}: expected {ranks} dimensions, found {parts[-1].dim()}")
    images, labels, test, test_labels = parts
    if len(images) != len(labels) or len(test) != len(test_labels):
        raise ValueError(f"{folder}: expected as many labels as images")
    return Images(_as_sequences(images, rows), labels.long(), _as_sequences(test, rows), test_labels.long(), 255)


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


class _Lists(pickle.Unpickler):
    """Reads lists of numbers in numpy's arrays, and refuses everything else a pickle could name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("_core", "core"), name) == ("numpy.core.multiarray", "_reconstruct"):
            return numpy._core.multiarray._reconstruct
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(numpy, name)
        raise pickle.UnpicklingError(f"lists of numbers expected, found {module}.{name}")


def _npy(file: BinaryIO) -> numpy.ndarray:
    """An array of an npz file; one of lists without trusting its pickle."""
    version = numpy.lib.format.read_magic(file)
    read = numpy.lib.format.read_array_header_1_0 if version == (1, 0) else numpy.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        return _Lists(file).load()
    return numpy.frombuffer(file.read(), dtype).reshape(shape)


def _ranks_of_npz(path: Path) -> tuple[list[list[int]], list[int], list[list[int]], list[int]]:
    with zipfile.ZipFile(path) as archive:
        arrays = []
        for name in ("x_train", "y_train", "x_test", "y_test"):
            try:
                with archive.open(f"{name}.npy") as file:
                    arrays.append(_npy(file).tolist())
            except (KeyError, pickle.UnpicklingError) as error:
                raise ValueError(f"{path}: {name}: {error}") from error
    return tuple(arrays)


def _ranks_of_folder(folder: Path) -> tuple[list[list[int]], list[int], list[list[int]], list[int]]:
    texts: dict[str, list[list[str]]] = {}
    labels: dict[str, list[int]] = {}
    for part in ("train", "test"):
        texts[part], labels[part] = [], []
        for label, name in enumerate(("neg", "pos")):
            for path in sorted((folder / part / name).glob("*.txt")):
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
        numbers = [START, *(r + FIRST_WORD if r + FIRST_WORD < words else UNKNOWN for r in review)][-T:]
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
