"""Task generators, the papers' networks, and the experiments that train them: definitions, counts, mechanics."""

import gzip
import itertools
import json
import os
import re
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rnnkernels import cli
from rnnkernels.experiments import ENTRIES, Clock, Entry, Gate, Outcome, Trial, Variant, report, runner
from rnnkernels.experiments.formal import accepted, reach
from rnnkernels.experiments.grammar import right, strings_right
from rnnkernels.experiments.learners import learner, outputs_at_end
from rnnkernels.experiments.online import Adam, Online, Sgd, optimiser
from rnnkernels.experiments.recursion import Recursion
from rnnkernels.tasks import data, languages, long_lags, networks, reber, sequences
from rnnkernels.tasks.networks import LAYOUTS, weights

ROOT = Path(__file__).resolve().parent.parent


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(make):
    """Two calls with one seed give the same, another seed something else."""
    first, again, other = (make(seeded(seed)) for seed in (0, 0, 1))
    if isinstance(first, sequences.Batch):
        first, again, other = ([t.tolist() for t in batch if t is not None] for batch in (first, again, other))
    return first == again and first != other


# --- embedded Reber strings -------------------------------------------------------------------------------------------


def path_of(inner):
    """States of the automaton as the paper draws it, in a notation of its own; None where a string leaves it."""
    arrows = ["0B1", "1T2", "1P3", "2S2", "2X4", "3T3", "3V5", "4X3", "4S6", "5P4", "5V6", "6E7"]
    state, path = "0", []
    for symbol in inner:
        following = [arrow[2] for arrow in arrows if arrow[:2] == state + symbol]
        if not following:
            return None
        (state,) = following
        path.append(state)
    return path if state == "7" else None


def test_embedded_reber_strings_are_those_of_the_automaton():
    generator = seeded()
    for _ in range(500):
        string = reber.embedded(generator)
        assert string[0] == "B" and string[1] in "TP" and string[-2:] == string[1] + "E"
        assert path_of(string[2:-2]) is not None and reber.is_embedded(string)
    assert draws(lambda g: [reber.embedded(g) for _ in range(5)])


@pytest.mark.parametrize("string", ["BTBPVPSETE", "BPBTXXTVVEPE", "BTBPVPXVVETE", "BTBTXSETE", "BPBTSSXSEPE"])
def test_embedded_reber_strings_that_wrong_automata_refuse(string):
    assert reber.is_embedded(string)


@pytest.mark.parametrize(
    "string", ["BTBPVPSEPE", "BTBTXXSETE", "BTBTXSET", "BTBTXSETEB", "BXBTXSEXE", "BTBETE", "", "BTBTXSE", "TBTXSETE"]
)
def test_what_is_no_embedded_reber_string(string):
    assert not reber.is_embedded(string)
    with pytest.raises(ValueError, match="embedded Reber"):
        reber.legal(string)


def test_reber_choices_are_even():
    generator = seeded()
    strings = [reber.embedded(generator) for _ in range(4000)]
    for place in (1, 3):  # outer, and the first choice within
        assert abs(np.mean([s[place] == "T" for s in strings]) - 0.5) < 0.04
    assert abs(np.mean([len(s[2:-2]) == 5 for s in strings]) - 1 / 4) < 0.04  # BTXSE, BPVVE: three choices each


def test_reber_legal_symbols_are_what_other_strings_with_this_start_go_on_with():
    generator = seeded()
    strings = {reber.embedded(generator) for _ in range(20000)}
    follows = {}
    for string in strings:
        for t in range(1, len(string)):
            follows.setdefault(string[:t], set()).add(string[t])
    short = [s for s in strings if len(s) <= 11]
    assert len(short) > 10
    for string in short:
        legal = reber.legal(string)
        assert len(legal) == len(string) and legal[-1] == {"B"}
        assert all(legal[t - 1] == follows[string[:t]] for t in range(1, len(string)))


@pytest.mark.parametrize("distinct", [True, False])
def test_reber_sets(distinct):
    sets = reber.sets(seeded(), distinct=distinct)
    assert len(sets.train) == len(sets.test) == 256 and not set(sets.train) & set(sets.test)
    unique = len(set(sets.train)), len(set(sets.test))
    assert unique == (256, 256) if distinct else max(unique) < 256
    assert draws(lambda g: reber.sets(g, 20, distinct))


def test_reber_batch():
    strings = ["BTBTXSETE", "BPBPVPSEPE"]
    batch, legal = reber.batch(strings)
    assert batch.x.shape == batch.target.shape == legal.shape == (9, 2, 7) and batch.lengths.tolist() == [8, 9]
    for b, string in enumerate(strings):
        n = len(string) - 1
        assert [reber.SYMBOLS[k] for k in batch.x[:n, b].argmax(1)] == list(string[:-1])
        assert [reber.SYMBOLS[k] for k in batch.target[:n, b].argmax(1)] == list(string[1:])
        assert [{s for s, may in zip(reber.SYMBOLS, row) if may} for row in legal[:n, b]] == reber.legal(string)[:-1]
        assert not batch.x[n:, b].any() and not legal[n:, b].any()
    rows = list(batch.rows())
    assert [x.shape for x, _ in rows] == [(8, 1, 7), (9, 1, 7)] and all(x.is_contiguous() for x, _ in rows)
    assert all(torch.equal(t, batch.target[: len(t), b]) for b, (_, t) in enumerate(rows))


def test_continual_stream_is_one_string_after_the_other():
    pieces = list(itertools.islice(reber.continual(seeded()), 300))
    text = "".join(reber.SYMBOLS[k] for piece in pieces for k in piece.x[:, 0].argmax(1))
    following = "".join(reber.SYMBOLS[k] for piece in pieces for k in piece.target.argmax(1))
    assert following == text[1:] + "B"
    for piece in pieces:
        string = "".join(reber.SYMBOLS[k] for k in piece.x[:, 0].argmax(1))
        assert reber.is_embedded(string) and string[piece.outer + 1] == string[1] and piece.outer == len(string) - 3
        assert (piece.legal & piece.target.bool()).any(1).all() and piece.legal[piece.outer].sum() == 1


# --- long lags --------------------------------------------------------------------------------------------------------


def symbols(batch):
    """Strings of one-hot inputs as lists of places."""
    return [row.argmax(1).tolist() for row in (batch.x[:n, b] for b, n in enumerate(batch.lengths.tolist()))]


def all_one_hot(batch):
    alive = torch.arange(batch.x.size(0)).unsqueeze(1) < batch.lengths
    return torch.equal(batch.x.sum(2), alive.float()) and set(batch.x.unique().tolist()) <= {0.0, 1.0}


def test_2a_has_two_strings():
    batch = long_lags.long_lag_2a(seeded(), 200)
    assert batch.x.shape == batch.target.shape == (100, 200, 101) and all_one_hot(batch)
    for string, wanted in zip(symbols(batch), batch.target.argmax(2).T.tolist()):
        assert string[0] in (99, 100) and string[1:] == list(range(99))
        assert wanted == [*range(99), string[0]]
    assert 60 < sum(string[0] == 99 for string in symbols(batch)) < 140
    assert draws(lambda g: long_lags.long_lag_2a(g, 9, p=10))


def test_2b_has_a_random_middle():
    batch = long_lags.long_lag_2b(seeded(), 200)
    strings = np.array(symbols(batch))
    wanted = batch.target.argmax(2).T.numpy()
    assert batch.x.shape == (100, 200, 101) and (strings[:, 1:] < 99).all() and (strings[:, 0] >= 99).all()
    assert (wanted[:, :-1] == strings[:, 1:]).all() and (wanted[:, -1] == strings[:, 0]).all()
    assert set(np.unique(strings[:, 1:])) == set(range(99)) and set(strings[:, 0]) == {99, 100}
    assert draws(lambda g: long_lags.long_lag_2b(g, 9, p=10))


@pytest.mark.parametrize("q,p", [(50, 50), (20, 5)])
def test_2c_has_lags_without_bound(q, p):
    batch = long_lags.long_lag_2c(seeded(), 2000, q=q, p=p)
    assert all_one_hot(batch) and batch.x.size(2) == p + 4 and batch.target.shape == (2000, 2)
    for string, target in zip(symbols(batch), batch.target):
        assert string[0] == p + 1 and string[1] == p + 2 + int(target.argmax()) and string[-1] == p
        assert all(s < p for s in string[2:-1]) and len(string) >= q + 3  # the last of q + 4 is to be predicted
    more = batch.lengths.numpy() - q - 3
    assert more.min() == 0 and abs(more.mean() - 9) < 1 and abs((more == 0).mean() - 0.1) < 0.03
    assert abs(float(batch.target[:, 0].mean()) - 0.5) < 0.05
    assert draws(lambda g: long_lags.long_lag_2c(g, 9))


def lengths_are(batch, low, high):
    return set(batch.lengths.tolist()) == set(range(low, high + 1)) and batch.x.size(0) == high


@pytest.mark.parametrize("name", ["two_sequences_3a", "two_sequences_3b", "two_sequences_3c"])
@pytest.mark.parametrize("N", [1, 3])
def test_3_is_told_by_its_first_elements(name, N):
    made = getattr(long_lags, name)(seeded(), 2000, T=100, N=N)
    batch, clean = made if name.endswith("c") else (made, made.target)
    assert lengths_are(batch, 100, 110) and batch.x.shape[2] == 1 and batch.target.shape == (2000, 1)
    low, high = (0.8, 0.2) if name.endswith("c") else (0.0, 1.0)
    first = torch.isclose(clean[:, 0], torch.tensor(high))
    assert torch.isclose(clean[~first, 0], torch.tensor(low)).all() and 900 < first.sum() < 1100
    sign = torch.where(first, 1.0, -1.0)
    noise = batch.x[:, :, 0].clone()
    noise[:N] -= sign
    if name.endswith("b"):
        assert abs(noise[:N].var() - 0.2) < 0.03
    else:
        assert not noise[:N].any()
    rest = torch.cat([noise[N:n, b] for b, n in enumerate(batch.lengths.tolist())])
    assert abs(rest.var() - 0.2) < 0.005 and abs(rest.mean()) < 0.01  # the variance is 0.2, not the deviation
    assert all(not batch.x[n:, b].any() for b, n in enumerate(batch.lengths.tolist()))
    if name.endswith("c"):
        assert abs((batch.target - clean).var() - 0.1) < 0.02
        assert draws(lambda g: long_lags.two_sequences_3c(g, 5)[0])
    else:
        assert draws(lambda g: getattr(long_lags, name)(g, 5))


@pytest.mark.parametrize("T", [22, 100])
@pytest.mark.parametrize("name", ["adding", "multiplication"])
def test_4_and_5_mark_two_pairs(name, T):
    batch = getattr(long_lags, name)(seeded(), 20000, T=T)
    adds = name == "adding"
    assert lengths_are(batch, T, T + T // 10) and batch.target.shape == (20000, 1)
    firsts, seconds, lags = set(), set(), set()
    for b, n in enumerate(batch.lengths.tolist()):
        values, marks = batch.x[:n, b].T
        assert marks[0] == marks[-1] == -1 and set(marks[1:-1].tolist()) <= {0.0, 1.0}
        marked = (marks == 1).nonzero()[:, 0].tolist()
        assert len(marked) in (1, 2)
        numbers = [float(values[m]) for m in marked] + [0.0 if adds else 1.0] * (2 - len(marked))
        wanted = 0.5 + sum(numbers) / 4 if adds else numbers[0] * numbers[1]
        assert abs(wanted - float(batch.target[b])) < 1e-6
        if len(marked) == 2:
            assert marked[0] < 10
            firsts.add(marked[0])
            seconds.add(marked[1])
        lags.add(n - 1 - marked[-1])
    assert max(firsts) == 9 and max(seconds) == T // 2 - 1 and min(lags) == T // 2
    alone = [int((batch.x[:, b, 1] == 1).sum()) == 1 for b in range(20000)]
    other = 9 / 10 / (T // 2 - 1)
    assert abs(np.mean(alone) - 1 / 10 - other) < 0.01  # the first pair was the first or the second of the two
    assert batch.x[:, :, 0].min() < (-0.99 if adds else 1e-6) and batch.x[:, :, 0].max() > 0.99
    assert batch.x[:, :, 0].min() >= (-1 if adds else 0)
    assert draws(lambda g: getattr(long_lags, name)(g, 5))


def test_4_refuses_sequences_too_short_to_mark():
    with pytest.raises(ValueError, match="T: expected at least 22"):
        long_lags.adding(seeded(), 1, T=20)


@pytest.mark.parametrize("name,spans", [("6a", [(10, 20), (50, 60)]), ("6b", [(10, 20), (33, 43), (66, 76)])])
def test_6_is_told_by_the_order_of_its_symbols(name, spans):
    make = getattr(long_lags, f"temporal_order_{name}")
    batch = make(seeded(), 3000)
    assert all_one_hot(batch) and lengths_are(batch, 100, 110) and long_lags.ORDER_SYMBOLS == "EBabcdXY"
    places = [set() for _ in spans]
    for string, target in zip(symbols(batch), batch.target):
        string = "".join(long_lags.ORDER_SYMBOLS[k] for k in string)
        assert string[0] == "E" and string[-1] == "B" and set(string[1:-1]) <= set("abcdXY")
        found = [(place, symbol) for place, symbol in enumerate(string, 1) if symbol in "XY"]
        assert len(found) == len(spans)
        for known, (place, _) in zip(places, found):
            known.add(place)
        classes = ["".join(c) for c in itertools.product("XY", repeat=len(spans))]
        assert classes[int(target.argmax())] == "".join(symbol for _, symbol in found) and target.sum() == 1
    assert places == [set(range(low, high + 1)) for low, high in spans]
    assert batch.target.sum(0).min() > 0.7 * 3000 / len(batch.target[0])
    assert draws(lambda g: make(g, 5))


def test_singles_are_the_batches_cut_up():
    stream = sequences.singles(long_lags.temporal_order_6a, seeded())
    batch = long_lags.temporal_order_6a(seeded(), 256)
    for b in range(256):
        x, target = next(stream)
        assert torch.equal(x[:, 0], batch.x[: batch.lengths[b], b]) and torch.equal(target, batch.target[b : b + 1])
        assert x.size(0) == batch.lengths[b]
    assert next(stream)[0].size(1) == 1
    y = torch.arange(batch.x.size(0) * 256.0).view(-1, 256, 1)
    assert all(batch.ends(y)[b] == y[n - 1, b] for b, n in enumerate(batch.lengths.tolist()))


# --- formal languages -------------------------------------------------------------------------------------------------

LANGUAGES = [languages.AN_BN, languages.AN_BN_CN, languages.ABBA]


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
def test_legal_symbols_are_what_other_strings_with_this_start_go_on_with(language):
    many = [language.string(*c) for c in itertools.product(range(1, 9), repeat=language.counts)]
    for counts in itertools.product(range(1, 5), repeat=language.counts):
        string = language.string(*counts)
        for t, allowed in enumerate(language.legal(*counts)):
            follow = {other[t + 1] for other in many if other.startswith(string[: t + 1])}
            assert set(allowed) == follow and string[t + 1] in allowed


def test_languages_as_written():
    assert languages.AN_BN.string(2) == "SaabbT" and languages.AN_BN.legal(2) == ["a", "ab", "ab", "b", "T"]
    assert languages.AN_BN_CN.string(1) == "SabcT" and languages.AN_BN_CN.legal(2)[-4:] == ["b", "c", "c", "T"]
    assert languages.ABBA.string(1, 2) == "SabbBBAT"
    assert languages.ABBA.legal(1, 2) == ["a", "ab", "bB", "bB", "B", "A", "T"]
    assert [language.symbols for language in LANGUAGES] == ["SabT", "SabcT", "SabBAT"]
    with pytest.raises(ValueError, match="counts: expected 1"):
        languages.AN_BN.string(0)
    with pytest.raises(ValueError, match="counts: expected 2"):
        languages.ABBA.legal(1)


def test_language_sequences_and_batches():
    x, allowed = languages.AN_BN.sequence(2)
    assert x.shape == (5, 1, 4) and x[:, 0].argmax(1).tolist() == [0, 1, 1, 2, 2]
    assert allowed.tolist() == [[0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    batch = languages.AN_BN.batch([(1,), (2,)])
    assert batch.lengths.tolist() == [3, 5] and torch.equal(batch.x[:, 1], x[:, 0]) and not batch.x[3:, 0].any()
    assert torch.equal(batch.target[:, 1], allowed)
    drawn = [languages.ABBA.draw(seeded(k), 1, 3) for k in range(60)]
    assert {n for counts in drawn for n in counts} == {1, 2, 3} and all(len(counts) == 2 for counts in drawn)


# --- data sets --------------------------------------------------------------------------------------------------------


def write_idx(path, values):
    content = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    (gzip.open if path.suffix == ".gz" else open)(path, "wb").write(content)


@pytest.fixture
def mnist_folder(tmp_path):
    """Four small files, one of them packed, in a folder below."""
    rng, folder = np.random.default_rng(0), tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    write_idx(folder / "train-images-idx3-ubyte", rng.integers(0, 256, (20, 28, 28), np.uint8))
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.arange(20, dtype=np.uint8) % 10)
    write_idx(folder / "t10k-images.idx3-ubyte", rng.integers(0, 256, (6, 28, 28), np.uint8))
    write_idx(folder / "t10k-labels-idx1-ubyte", np.arange(6, dtype=np.uint8))
    return tmp_path


def test_mnist(mnist_folder):
    rows, pixels = data.mnist(mnist_folder), data.mnist(mnist_folder, rows=False)
    assert rows.train.shape == (20, 28, 28) and pixels.train.shape == (20, 784, 1) and rows.white == 255
    assert torch.equal(rows.train.flatten(), pixels.train.flatten()) and rows.test_labels.tolist() == list(range(6))
    assert rows.train_labels.tolist() == [k % 10 for k in range(20)] and rows.train_labels.dtype == torch.int64
    ticks = rows.ticks(rows.test)
    assert ticks.shape == (28, 6, 28) and torch.equal(ticks[3, 2], rows.test[2, 3].float() / 255)


def test_mnist_files_that_are_none(mnist_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        data.mnist(tmp_path / "nowhere")
    path = mnist_folder / "MNIST/raw/t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="6 bytes, found 5"):
        data.mnist(mnist_folder)
    path.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="idx file"):
        data.mnist(mnist_folder)


def test_digits():
    pytest.importorskip("sklearn")
    rows, pixels = data.digits(seeded()), data.digits(seeded(), rows=False)
    assert rows.train.shape[1:] == (8, 8) and pixels.train.shape[1:] == (64, 1) and rows.white == 16
    assert len(rows.train) + len(rows.test) == 1797 and rows.train.max() == 16
    assert torch.equal(rows.test.flatten(), pixels.test.flatten())
    assert rows.test_labels.bincount().min() >= 33  # a fifth of every class
    assert not torch.equal(rows.test, data.digits(seeded(1)).test)


def lists(*rows):
    """An array of lists, as Keras keeps reviews."""
    array = np.empty(len(rows), dtype=object)
    array[:] = [list(row) for row in rows]
    return array


@pytest.fixture
def imdb_file(tmp_path):
    reviews = {"x_train": lists([1, 2, 9], [5]), "x_test": lists(range(1, 101))}
    np.savez(tmp_path / "imdb.npz", **reviews, y_train=np.array([1, 0]), y_test=np.array([1]))
    return tmp_path


def test_imdb_of_keras(imdb_file):
    reviews = data.imdb(imdb_file, words=10, T=5)
    assert reviews.train.tolist() == [[0, 1, 4, 5, 2], [0, 0, 0, 1, 8]] and reviews.train_labels.tolist() == [1, 0]
    assert reviews.test.tolist() == [[2] * 5] and reviews.words == 10
    assert data.imdb(imdb_file, words=1000, T=80).test[0].tolist() == [k + 3 for k in range(21, 101)]


def test_imdb_runs_nothing_that_a_file_contains(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    array = np.empty(1, dtype=object)
    array[0] = Evil()
    np.savez(tmp_path / "imdb.npz", x_train=array, y_train=np.array([1]), x_test=array, y_test=np.array([1]))
    with pytest.raises(ValueError, match="lists of numbers expected, found posix.mkdir"):
        data.imdb(tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.fixture
def imdb_folder(tmp_path):
    texts = {
        "train/pos": ["Good, good film!<br />It's fun"],
        "train/neg": ["bad film", "bad"],
        "test/pos": ["fun film"],
    }
    for place, reviews in (texts | {"test/neg": ["so bad"]}).items():
        folder = tmp_path / "aclImdb" / place
        folder.mkdir(parents=True)
        for k, text in enumerate(reviews):
            (folder / f"{k}_7.txt").write_text(text)
    return tmp_path


def test_imdb_of_texts(imdb_folder):
    reviews = data.imdb(imdb_folder, words=20, T=6)
    # by frequency, then by the alphabet: bad, film, good (2), fun, it's (1)
    bad, film, good, fun, its = range(4, 9)
    assert reviews.train_labels.tolist() == [0, 0, 1] and reviews.test_labels.tolist() == [0, 1]
    assert reviews.train.tolist() == [[0] * 3 + [1, bad, film], [0] * 4 + [1, bad], [1, good, good, film, its, fun]]
    assert reviews.test.tolist() == [[0] * 3 + [1, 9, bad], [0] * 3 + [1, fun, film]]
    assert data.imdb(imdb_folder, words=6, T=3).test.tolist() == [[1, 2, bad], [1, 2, film]]
    assert torch.equal(data.imdb(imdb_folder / "aclImdb", 20, 6).train, reviews.train)
    with pytest.raises(FileNotFoundError, match="imdb.npz"):
        data.imdb(imdb_folder / "nowhere")


# --- the papers' networks ---------------------------------------------------------------------------------------------

COUNTS = {
    "reber_3x2": 276,
    "reber_4x1": 264,
    "long_lag_2a": 10504,
    "long_lag_2b": 10504,
    "long_lag_2c": 6 * 50 + 64,
    "two_sequences_3a": 102,
    "two_sequences_3b": 102,
    "two_sequences_3c": 102,
    "adding": 93,
    "multiplication": 93,
    "temporal_order_6a": 156,
    "temporal_order_6b": 308,
    "continual": 424,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_networks_have_the_papers_weights(name):
    assert weights(networks.network(name, seeded())) == COUNTS[name]


@pytest.mark.parametrize("p", [100, 200, 500, 1000])
def test_2c_has_6p_plus_64_weights(p):
    assert weights(networks.network(networks.variable_lag(p), seeded())) == 6 * p + 64


@pytest.mark.parametrize("name", LAYOUTS)
def test_networks_begin_as_the_papers_say(name):
    layout, network = LAYOUTS[name], networks.network(name, seeded())
    b, n = layout.blocks, layout.blocks * layout.size
    weight = torch.cat([p.flatten() for k, p in network.named_parameters() if "bias_ih" not in k])
    assert weight.abs().max() <= layout.bound and weight.abs().max() > 0.8 * layout.bound and weight.std() > 0
    again, other = (networks.network(name, seeded(seed)).state_dict() for seed in (0, 1))
    assert all(torch.equal(p, again[k]) for k, p in network.state_dict().items())
    assert not torch.equal(network.readout.weight, other["readout.weight"])
    bias = getattr(network.hidden, "bias_ih_l0", None)
    assert (bias is None) == (layout.bias == "none")
    if bias is None:
        return
    forget = layout.options.get("forget_gate", False)
    parts = {"i": b, "f": b * forget, "g": n * (layout.bias == "all"), "o": b}
    found = dict(zip(parts, bias.detach().split(list(parts.values()))))
    for gate, wanted in (("i", layout.input_gates), ("f", layout.forget_gates), ("o", layout.output_gates)):
        drawn = found.pop(gate)
        assert drawn.tolist() == list(wanted) if wanted else drawn.numel() == 0 or drawn.abs().max() <= layout.bound
    assert found["g"].numel() == 0 or 0 < found["g"].abs().max() <= layout.bound


def test_gate_biases_that_no_gate_has():
    for changes in ({"input_gates": (1.0,)}, {"bias": "none"}, {"forget_gates": (1.0, 1.0, 1.0)}):
        with pytest.raises(ValueError, match="_gates: expected one bias"):
            networks.network("reber_3x2", seeded(), **changes)


def test_continual_without_forget_gates():
    assert weights(networks.network(networks.continual(False), seeded())) == 8 * 15 + 8 * 16 + 7 * 16


def test_outputs_see_the_inputs_where_the_paper_says_so():
    for name in LAYOUTS:
        assert LAYOUTS[name].reads_inputs == (name in ("long_lag_2a", "long_lag_2b", "continual"))
    network, x = networks.network("continual", seeded()), torch.randn(3, 2, 7)
    net, hx = network(x)
    out, _ = network.hidden(x)
    assert torch.equal(net, network.readout(torch.cat((x, out), 2))) and len(hx) == 3


def test_peephole_network_has_17_weights():
    network = networks.timing(seeded())
    assert weights(network) == 17
    assert network.hidden.bias_ih_l0[[0, 1, 3]].tolist() == [0.0, -2.0, 2.0]
    assert not network.hidden.bias_hh_l0.any() and network.hidden.weight_ch_l0.abs().max() <= 0.1
    assert weights(networks.timing(seeded(), 4, 4, 2, input_gate=None)) == 6 + 4 * 2 * (4 + 2 + 1) + 4 * 3


# --- online learning --------------------------------------------------------------------------------------------------


def gradients(network, x, target, derivative=True, loss=None):
    """By autograd: of half the squared error, or of cross entropy."""
    net = network(x)[0][len(x) - len(target) :, 0]
    if derivative:
        loss = 0.5 * (net.sigmoid() - target).square().sum()
    else:
        loss = nn.functional.binary_cross_entropy_with_logits(net, target, reduction="sum")
    names, parameters = zip(*((k, p) for k, p in network.named_parameters() if p.requires_grad))
    return dict(zip(names, torch.autograd.grad(loss, parameters)))


def close(actual, expected):
    """To rounding of float64 along hundreds of ticks."""
    pairs = [(actual[k].detach(), e.detach()) for k, e in expected.items()]
    return all(float((a - e).abs().max()) <= 1e-10 * max(1.0, float(e.abs().max())) for a, e in pairs)


@pytest.mark.parametrize("derivative", [True, False], ids=["f'", "no f'"])
@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_recursion_is_the_truncated_gradient(name, derivative):
    """Eqs (19) to (28), accumulated forwards with weights that stay, against autograd through the layer."""
    network = networks.network(name, seeded(), dtype=torch.float64, bound=0.5)
    layout = LAYOUTS[name]
    x = torch.randn(20, 1, layout.inputs, dtype=torch.float64)
    target = torch.rand(15, layout.outputs, dtype=torch.float64)
    before = {k: p.detach().clone() for k, p in network.named_parameters()}
    recursion = Recursion(network, derivative)
    outputs = [recursion.tick(a, None if t < 5 else target[t - 5].numpy()) for t, a in enumerate(x[:, 0].numpy())]
    expected = gradients(network, x, target, derivative)
    y = network(x)[0][:, 0].sigmoid().detach()
    assert close({"y": torch.from_numpy(np.stack(outputs))}, {"y": y})
    recursion.update(1.0)
    recursion.store()
    assert close({k: before[k] - p.detach() for k, p in network.named_parameters()}, expected)


@pytest.mark.parametrize("options", [{"gate_feedback": False}, {"g": "tanh", "h": "identity"}, {"recurrent": False}])
def test_recursion_of_other_forms(options):
    layout = networks.Layout(3, 2, 2, 3, "all", True, options={"forget_gate": True, **options})
    network = networks.network(layout, seeded(), dtype=torch.float64, bound=0.5)
    x, target = torch.randn(9, 1, 3, dtype=torch.float64), torch.rand(9, 2, dtype=torch.float64)
    recursion = Recursion(network)
    for a, t in zip(x[:, 0].numpy(), target.numpy()):
        recursion.tick(a, t)
    expected = gradients(network, x, target)
    before = {k: p.detach().clone() for k, p in network.named_parameters()}
    recursion.update(1.0)
    recursion.store()
    assert close({k: before[k] - p.detach() for k, p in network.named_parameters()}, expected)


@pytest.mark.parametrize("gradient", ["truncated", "full"])
@pytest.mark.parametrize("derivative", [True, False], ids=["f'", "no f'"])
@pytest.mark.parametrize("name,K", [("reber_3x2", 12), ("continual", 12), ("temporal_order_6a", 1), ("long_lag_2a", 3)])
def test_online_learning_is_gradient_descent(name, K, derivative, gradient):
    network, twin = (networks.network(name, seeded(), gradient, torch.float64, bound=0.5) for _ in range(2))
    teacher = Online(network, optimiser("sgd", 0.25), derivative)
    for _ in range(3):
        x = torch.randn(12, 1, LAYOUTS[name].inputs, dtype=torch.float64)
        target = torch.rand(K, LAYOUTS[name].outputs, dtype=torch.float64)
        y, _ = teacher.learn(x, target)
        assert close({"y": torch.from_numpy(y)}, {"y": twin(x)[0][-K:, 0].sigmoid().detach()})
        moved = gradients(twin, x, target, derivative)
        with torch.no_grad():
            for k, p in twin.named_parameters():
                p -= 0.25 * moved[k]
        assert close(dict(network.named_parameters()), dict(twin.named_parameters()))


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_adam_is_torchs(clip):
    parameters, twins = ([torch.linspace(-1, 1, n, dtype=torch.float64) for n in (3, 8)] for _ in range(2))
    step, theirs = Adam(parameters, 0.1, clip), torch.optim.Adam([t.requires_grad_() for t in twins], 0.1)
    for k in range(5):
        for t in twins:
            t.grad = torch.sin(t.detach() * (k + 1))
        step([t.grad.numpy().copy() for t in twins])
        if clip:
            norm = torch.cat([t.grad for t in twins]).norm()
            for t in twins:
                t.grad *= min(1.0, clip / norm)
        theirs.step()
    assert close(dict(enumerate(parameters)), dict(enumerate(t.detach() for t in twins)))


def test_optimisers_leave_alone_what_is_not_trained():
    network = networks.timing(seeded(), 4, 4, 2)
    teacher = Online(network, optimiser("adam", 0.1, 1.0), False)
    x, target = languages.AN_BN.sequence(3)
    before = network.readout.weight.detach().clone()
    for _ in range(3):
        teacher.learn(x, target)
    assert not network.hidden.bias_hh_l0.any() and not torch.equal(before, network.readout.weight)
    with pytest.raises(ValueError, match="optimiser"):
        optimiser("sgd", 0.1, 1.0)
    assert isinstance(teacher.step, Sgd)


@pytest.mark.parametrize("name", ["reber_3x2", "continual"])
def test_online_learning_with_one_distribution(name):
    network, twin = (networks.network(name, seeded(), "full", torch.float64, bound=0.5) for _ in range(2))
    x, target = torch.randn(9, 1, 7, dtype=torch.float64), torch.eye(7, dtype=torch.float64)[torch.arange(9) % 7]
    y, _ = Online(network, optimiser("sgd", 1.0), False, True).learn(x, target)
    net = twin(x)[0][:, 0]
    nn.functional.cross_entropy(net, target, reduction="sum").backward()
    assert close({"y": torch.from_numpy(y)}, {"y": net.softmax(1)})
    assert close(dict(network.named_parameters()), {k: p - p.grad for k, p in twin.named_parameters()})
    with pytest.raises(ValueError, match="softmax"):
        Online(network, optimiser("sgd", 1.0), True, True)


def test_learners_refuse_what_has_no_meaning():
    options = {"optimiser": "sgd", "lr": 0.1, "derivative": True}
    network = networks.network("reber_3x2", seeded(), "full")
    for update in ("symbol", "year"):
        with pytest.raises(ValueError, match="update"):
            learner(network, {**options, "update": update})
    carried = learner(networks.network("continual", seeded()), {**options, "update": "symbol"})
    piece = next(reber.continual(seeded()))
    y, hx = carried.learn(piece.x, piece.target)
    state = carried.recursion.c.copy()
    assert y.shape == piece.target.shape and carried.learn(piece.x, piece.target, hx)[1]
    assert state.any() and not np.array_equal(state, carried.recursion.c)


# --- criteria ---------------------------------------------------------------------------------------------------------


def test_right_means_that_the_legal_symbols_are_the_most_active():
    legal = torch.tensor([[True, False, False], [True, False, True]])
    assert right(torch.tensor([[1.0, 0.9, -3.0], [0.2, 0.1, 5.0]]), legal).tolist() == [True, True]
    assert right(torch.tensor([[1.0, 1.0, -3.0], [0.2, 0.3, 5.0]]), legal).tolist() == [False, False]


class Table(nn.Module):
    """A layer that answers with what it is told."""

    def __init__(self, out):
        super().__init__()
        self.out = out

    def forward(self, x, hx=None):
        return self.out[: len(x)], None


def telling(net):
    network = networks.Network(Table(net), net.size(2), net.size(2), net.size(2), False)
    with torch.no_grad():
        network.readout.weight.copy_(torch.eye(net.size(2)))
    return network


def test_strings_right_looks_at_every_symbol_and_no_further():
    batch, legal = reber.batch(["BTBTXSETE", "BPBPVPSEPE"])
    net = legal.float()
    assert strings_right(telling(net), batch, legal).tolist() == [True, True]  # past the end all outputs are alike
    net[7, 0] = 0.0
    assert strings_right(telling(net), batch, legal).tolist() == [False, True]


def test_accepted_and_reach():
    language = languages.AN_BN
    batch = language.batch([(n,) for n in range(1, 17)])
    net = batch.target * 2 - 1
    assert accepted(telling(net), language, [(n,) for n in range(1, 17)]) == [True] * 16
    net[5, 6] *= -1
    assert reach(telling(net), language, 16, lambda: True) == 6
    assert reach(telling(net), language, 1000, lambda: False) == 0


def test_outputs_at_end():
    network = networks.network("temporal_order_6a", seeded())
    batch = long_lags.temporal_order_6a(seeded(), 5)
    y = outputs_at_end(network, batch)
    for b, (x, _) in enumerate(batch.rows()):
        assert torch.allclose(y[b], network(x)[0][-1, 0].sigmoid(), atol=1e-6)


# --- experiments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name,variant", [(e.name, v.name) for e in ENTRIES.values() for v in e.variants])
def test_every_variant_of_every_entry_runs(name, variant, request):
    entry = ENTRIES[name]
    folder = None
    if "digits" in name:
        pytest.importorskip("sklearn")
    if entry.needs_data:
        folder = request.getfixturevalue("mnist_folder" if "mnist" in name else "imdb_folder")
    cap = 1 if entry.unit == "epochs" else 2
    few = {name: 3 for name in ("fresh", "tested") if name in entry.options}
    outcome = entry.run(Trial(0, cap, entry.options_of(entry.variant(variant)) | few, folder))
    assert 0 <= outcome.count <= cap and outcome.solved in (None, False, name == "equality")
    json.dumps(outcome.as_dict(), allow_nan=False)


def test_an_easy_task_is_solved_and_counted(monkeypatch):
    from rnnkernels.experiments import at_end

    monkeypatch.setattr(at_end, "RECENT", 5)
    options = ENTRIES["order-6a"].options | {"right": 1.0, "mean": 1.0}
    outcome = at_end.trial(Trial(0, 50, options))
    assert outcome.solved and outcome.count == 5 and outcome.figures["wrong of 2560"] == 0 and outcome.stopped == ""
    options = ENTRIES["order-6a"].options | {"right": 1.0, "mean": 0.0}
    outcome = at_end.trial(Trial(0, 7, options))
    assert outcome.solved is False and outcome.count == 7 and outcome.stopped == "cap"


def test_time_is_kept():
    told = []
    clock = Clock(lambda: len(told) > 1, told.append)
    trial = Trial(0, 10**9, {}, None, clock)
    count = 0
    while trial.going(count):
        count += 1
    assert 0 < count < 10**9 and trial.unsolved(count).stopped == "time"
    clock.finish()
    assert sum(told) == pytest.approx(1.0)
    assert not Trial(0, 3, {}).going(3)


def tiny(function, gate=None, **options):
    return Entry("tiny", "A tiny one", "1", "updates", function, (Variant("a"), Variant("b", options)), 2, 5, 60,
                 {"x": 0, **dict.fromkeys(options, 0)}, gate)  # fmt: skip


def found_by(entry, monkeypatch, **changes):
    monkeypatch.setitem(ENTRIES, "tiny", entry)
    settings = {"trials": entry.trials, "cap": entry.cap, "seed": 0, "seconds": 60, "jobs": 1} | changes
    return runner.run(entry, entry.variants, **settings)


def test_runner_keeps_what_it_finds(monkeypatch, tmp_path):
    def trial(t):
        drawn = float(torch.rand((), generator=t.generator))
        return Outcome(t.seed != 1, t.seed + t.options["x"], "" if t.seed != 1 else "cap", {"drawn": drawn})

    gate = Gate("all solved", ("a",), lambda found: [f"{o.seed} is not" for o in found["a"] if not o.solved])
    entry = tiny(trial, gate, x=10)
    found = found_by(entry, monkeypatch)
    assert [o.seed for o in found.found["a"]] == [0, 1] and found.found["b"][0].count == 10
    assert found.found["a"][0].figures == found.found["b"][0].figures  # one seed, one draw
    assert found.trouble() == ["1 is not"] and not found.errors and not found.interrupted
    assert found_by(entry, monkeypatch, trials=1).trouble() is None
    assert found_by(entry, monkeypatch, cap=4).trouble() is None
    path = tmp_path / "tiny.json"
    runner.keep(path, found)
    runner.keep(path, found_by(entry, monkeypatch, trials=1))
    runs = runner.load(path)
    assert len(runs) == 2 and runs[0]["variants"]["b"]["options"] == {"x": 10} and not path.with_suffix(".new").exists()
    assert {"date", "machine", "isa", "versions", "revision", "cap", "limit"} <= set(runs[0])

    page = report.render([entry], tmp_path)
    assert "**failed**" in page and "| a | 1 of 2 |" in page  # the full run is shown, the smaller one after it is not
    runner.keep(path, found_by(tiny(trial, gate, x=11), monkeypatch))
    page = report.render([entry], tmp_path)
    assert "| b | 1 of 2 |" in page and "| b (options changed since) | 1 of 2 |" in page


def test_runner_survives_a_trial_that_raises(monkeypatch):
    def trial(t):
        if t.seed:
            raise RuntimeError("lost\nits way")
        return Outcome(True, 1)

    found = found_by(tiny(trial), monkeypatch)
    assert [len(o) for o in found.found.values()] == [1, 1]
    assert found.errors == [f"tiny/{name}, seed 1: RuntimeError: lost its way" for name in "ab"]


def test_runner_keeps_finished_trials_when_interrupted(monkeypatch):
    def trial(t):
        if t.seed:
            raise KeyboardInterrupt
        return Outcome(True, 1)

    found = found_by(tiny(trial), monkeypatch)
    assert found.interrupted and [len(o) for o in found.found.values()] == [1, 1]


def test_runner_stops_in_time(monkeypatch):
    def trial(t):
        count = 0
        while t.going(count):
            count += 1
        return t.unsolved(count)

    found = found_by(tiny(trial), monkeypatch, cap=10**12, seconds=0.1)
    assert [o.stopped for o in found.found["a"]] == ["time"] and not found.found["b"]
    assert "ended by the time limit" in report.summary(found.found["a"])["further"]


def test_summary():
    row = report.summary([Outcome(True, 100, seconds=1.0), Outcome(True, 300, seconds=2.0), Outcome(False, 900)])
    assert row == {"solved": "2 of 3", "median": "300", "mean": "200", "sd": "141", "range": "100 to 300",
                   "seconds": "1", "further": ""}  # fmt: skip
    row = report.summary([Outcome(None, 5, figures={"right": 0.5}), Outcome(None, 5, figures={"right": 0.25})])
    assert row["solved"] == "2 trials" and row["median"] == "-" and row["further"] == "right: 0.38 (0.25 to 0.5)"
    assert report.summary([Outcome(False, 9)])["median"] == "unsolved"


def test_entries_are_consistent():
    with pytest.raises(ValueError, match="options"):
        Entry("t", "", "", "", None, (Variant("a", {"y": 1}),), 1, 1, 1)
    with pytest.raises(ValueError, match="two variants"):
        Entry("t", "", "", "", None, (Variant("a"), Variant("a")), 1, 1, 1)
    with pytest.raises(ValueError, match="gate"):
        Entry("t", "", "", "", None, (Variant("a"),), 1, 1, 1, gate=Gate("", ("b",), lambda found: []))
    for entry in ENTRIES.values():
        assert re.fullmatch(r"[a-z0-9-]+", entry.name) and entry.seconds > 0 and entry.paper and entry.title


def outcomes(solved, **figures):
    """Twenty outcomes alike; "_" in a figure's name stands for a space."""
    figures = {name.replace("_", " "): value for name, value in figures.items()}
    return [Outcome(solved, 30_000, "", figures, seed=seed) for seed in range(20)]


def shares(percent):
    return [Outcome(None, 1, "", {"outer T or P right, %": percent})] * 5


# outcomes that pass, and that do not; of all variants the gate judges alike, or by variant
JUDGED = {
    "equality": (outcomes(True, largest_difference=1e-9), outcomes(False, largest_difference=1e-7)),
    "order-6a": (outcomes(True), outcomes(False)),
    "reber-adam": (outcomes(True), outcomes(False)),
    "ntm-copy": (outcomes(True)[:4] + outcomes(False)[:1], outcomes(True)[:3] + outcomes(False)[:2]),
    "anbn": (outcomes(True, reaches_n=100), outcomes(True, reaches_n=64)),
    "anbncn": (outcomes(True, reaches_n=28), outcomes(True, reaches_n=17)),
    "continual": (
        {"forget gates": shares(99.0), "no forget gates": shares(55.0)},
        {"forget gates": shares(95.0), "no forget gates": shares(70.0)},
    ),
}


@pytest.mark.parametrize("name", [e.name for e in ENTRIES.values() if e.gate])
def test_every_gate_can_pass_and_fail(name):
    gate = ENTRIES[name].gate
    good, bad = (f if isinstance(f, dict) else dict.fromkeys(gate.variants, f) for f in JUDGED[name])
    assert gate.check(good) == [] and len(gate.check(bad)) >= len(gate.variants)


# --- the command ------------------------------------------------------------------------------------------------------


def test_reproduce_lists_every_entry(capsys):
    assert cli.main(["reproduce", "--list"]) == 0
    said = capsys.readouterr().out
    for entry in ENTRIES.values():
        assert f"{entry.name}: {entry.title}" in said and f"time limit {entry.seconds:,} s" in said
        assert all(f"{entry.name}/{variant.name}" in said for variant in entry.variants)


@pytest.mark.parametrize(
    "arguments,word",
    [
        (["dance"], "entry"),
        (["equality/sideways"], "variant"),
        (["imdb"], "--data"),
        (["equality", "--set", "speed=3"], "--set"),
        (["mnist-rows", "--data", "/nowhere"], "--data"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_reproduce_refuses(arguments, word, capsys):
    assert cli.main(["reproduce", *arguments]) == 1
    said = capsys.readouterr().err
    assert word in said and len(said.splitlines()) == 1


def test_reproduce_runs_and_writes_its_page(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setitem(ENTRIES, "equality", replace(ENTRIES["equality"], trials=1, cap=20))
    out = ["--out", str(tmp_path), "--jobs", "1"]
    assert cli.main(["reproduce", "equality", *out]) == 0
    assert cli.main(["reproduce", "equality/full", "--set", "lr=0.25", "--trials", "1", "--cap", "2", *out]) == 0
    said = capsys.readouterr().out
    assert "gate passed" in said and "equality/full; lr=0.25: 1 of 1" in said
    page = (tmp_path / "REPRODUCTION.md").read_text()
    assert "**passed**" in page and "| full; lr=0.25 | 1 of 1 |" in page and "not run" in page
    (tmp_path / "REPRODUCTION.md").unlink()
    assert cli.main(["reproduce", "--render", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "REPRODUCTION.md").read_text() == page


def test_reproduce_side_by_side(tmp_path):
    pytest.importorskip("tqdm")
    command = [sys.executable, "-m", "rnnkernels", "reproduce", "equality", "--cap", "2", "--trials", "1"]
    done = subprocess.run([*command, "--jobs", "2", "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = runner.load(tmp_path / "reproduction/equality.json")
    assert len(run["variants"]) == 4 and all(len(v["trials"]) == 1 for v in run["variants"].values())


def test_killed_it_leaves_no_process_behind(tmp_path):
    pytest.importorskip("tqdm")
    command = [sys.executable, "-m", "rnnkernels", "reproduce", "reber-sgd", "--jobs", "2", "--out", tmp_path]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while (said := process.stderr.read(20)) and "%" not in said:
        pass
    assert said, "ended before its first trial"
    time.sleep(1)  # trials begin
    process.kill()
    process.communicate(timeout=60)  # they hold the other end of the pipe


def test_the_page_is_that_of_the_files():
    page = ROOT / "docs/REPRODUCTION.md"
    if not page.exists():
        pytest.skip("no results yet")
    assert page.read_text() == report.render(ENTRIES.values(), ROOT / "docs/reproduction"), "reproduce --render"
