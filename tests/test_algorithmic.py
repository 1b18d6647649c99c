"""The five tasks of the Neural Turing Machine: what stands where and when, losses, the best predictor."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rnnkernels.tasks.algorithmic import TASKS, AssociativeRecall, Copy, DynamicNGrams, PrioritySort, RepeatCopy


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(batch):
    """Each sequence's x (T,I) and what is wanted at its last K ticks (K,O), as arrays; checks all else is empty."""
    for b, n in enumerate(batch.lengths.tolist()):
        ticks = batch.mask[:, b].nonzero().flatten().tolist()
        assert ticks == list(range(n - len(ticks), n)) and ticks
        assert not batch.x[n:, b].any() and not batch.target[: ticks[0], b].any() and not batch.target[n:, b].any()
        yield batch.x[:n, b].numpy(), batch.target[ticks, b].numpy()


@pytest.mark.parametrize("name", TASKS)
def test_what_all_tasks_share(name):
    task = TASKS[name]()
    batch = task.batch(seeded(), 50)
    T = int(batch.lengths.max())
    assert batch.x.shape == (T, 50, task.inputs) and batch.target.shape == (T, 50, task.outputs)
    assert batch.x.dtype == batch.target.dtype == torch.float32 and batch.lengths.dtype == torch.int64
    assert batch.mask.shape == (T, 50) and batch.mask.dtype == torch.bool
    assert len(list(rows(batch))) == 50 and set(batch.target.unique().tolist()) == {0.0, 1.0}
    again, other = task.batch(seeded(), 50), task.batch(seeded(1), 50)
    assert all(map(torch.equal, batch, again)) and not torch.equal(batch.x[:9], other.x[:9])
    whole = task.batch(seeded(), 300)
    assert task.batch(seeded(), 1, **task.largest).lengths == whole.lengths.max()
    for sizes in task.tests:
        assert len(set(task.batch(seeded(), 5, **sizes).lengths.tolist())) == 1
    with pytest.raises(ValueError, match="sizes: expected .*, got dance"):
        task.batch(seeded(), 1, dance=3)
    with pytest.raises(ValueError, match=f"{task.sizes[0]}: expected a number >= 1, got 0"):
        task.batch(seeded(), 1, **{task.sizes[0]: 0})


@pytest.mark.parametrize(
    "kind,sizes,word",
    [
        (Copy, {"bits": 0}, "bits"),
        (Copy, {"bits": 2.0}, "bits"),
        (Copy, {"start_flag": 1}, "start_flag"),
        (Copy, {"min_length": 21}, "max_length"),
        (RepeatCopy, {"max_repeats": 0}, "max_repeats"),
        (AssociativeRecall, {"min_items": 1}, "min_items"),
    ],
)
def test_sizes_without_meaning_are_refused(kind, sizes, word):
    with pytest.raises(ValueError, match=f"^{word}: expected"):
        kind(**sizes)


@pytest.mark.parametrize("flags", [True, False])
def test_copy(flags):
    task = Copy(start_flag=flags, output_flag=flags)
    assert (task.inputs, task.outputs) == ((10, 9) if flags else (9, 8))
    found = []
    for x, wanted in rows(task.batch(seeded(), 2000)):
        n = len(wanted)
        assert len(x) == flags + n + 1 + n and (x[flags : flags + n, :8] == wanted[:, :8]).all()
        ticks, channels = x[:, 8:].nonzero()
        assert list(zip(ticks, channels)) == ([(0, 0), (n + 1, 1)] if flags else [(n, 0)])
        assert not x[: int(flags), :8].any() and not x[flags + n :, :8].any() and not wanted[:, 8:].any()
        found.append((n, wanted[:, :8].mean()))
    lengths, means = np.array(found).T
    assert set(lengths) == set(range(1, 21)) and abs(lengths.mean() - 10.5) < 0.4 and abs(means.mean() - 0.5) < 0.02
    assert task.batch(seeded(), 3, length=50).lengths.tolist() == [flags + 101] * 3


def test_repeat_copy():
    task, said = RepeatCopy(), []
    assert (task.inputs, task.outputs) == (8, 7)
    for x, wanted in rows(task.batch(seeded(), 2000)):
        n = int(x[:, 6].argmax())
        repeats = (len(wanted) - 1) // n
        assert len(x) == n + 2 + n * repeats + 1 and x[:, 6].sum() == 1 and not x[n:, :6].any() and not x[n + 2 :].any()
        assert (wanted[:-1, :6] == np.concatenate([x[:n, :6]] * repeats)).all()
        assert wanted[-1].tolist() == [0] * 6 + [1] and not wanted[:-1, 6].any()
        assert x[n + 1, 7] == np.float32((repeats - 5.5) / math.sqrt(8.25)) and x[:, 7].astype(bool).sum() == 1
        said.append((n, repeats, x[n + 1, 7]))
    lengths, repeats, numbers = np.array(said).T
    assert set(lengths) == set(repeats) == set(range(1, 11))
    assert abs(numbers.mean()) < 0.07 and abs(numbers.std() - 1) < 0.05
    (beyond, _), *_ = rows(task.batch(seeded(), 1, length=20, repeats=20))
    assert len(beyond) == 423 and beyond[21, 7] == np.float32(14.5 / math.sqrt(8.25))
    assert torch.isfinite(RepeatCopy(min_repeats=3, max_repeats=3).batch(seeded(), 1).x).all()


def test_associative_recall():
    task, found = AssociativeRecall(), set()
    assert (task.inputs, task.outputs) == (8, 6)
    for x, wanted in rows(task.batch(seeded(), 1000)):
        starts, asked = x[:, 6].nonzero()[0], x[:, 7].nonzero()[0]
        items = [x[t + 1 : t + 4, :6] for t in starts]
        n = len(items)
        assert starts.tolist() == [4 * k for k in range(n)] and asked.tolist() == [4 * n, 4 * n + 4]
        assert len(x) == 4 * n + 8 and not x[4 * n + 5 :].any() and not x[[*starts, *asked], :6].any()
        query = x[4 * n + 1 : 4 * n + 4, :6]
        (place, *_) = (k for k in range(n - 1) if (items[k] == query).all() and (items[k + 1] == wanted).all())
        found.add((n, place))
    assert found == {(n, k) for n in range(2, 7) for k in range(n - 1)}  # every item but the last is asked for
    assert task.batch(seeded(), 2, items=20).lengths.tolist() == [88, 88]
    with pytest.raises(ValueError, match="items: expected at least 2"):
        task.batch(seeded(), 1, items=1)


def test_dynamic_ngrams():
    batch, chances = DynamicNGrams(length=6000, order=2).batch(seeded(), 40), []
    assert batch.mask.all() and batch.lengths.tolist() == [6000] * 40
    for x, wanted in rows(batch):
        assert x[0] == 0 and (x[1:] == wanted[:-1]).all()
        bits = wanted[:, 0].astype(int)
        context, following = 2 * bits[:-2] + bits[1:-1], bits[2:]
        for c in range(4):
            early, late = following[:3000][context[:3000] == c], following[3000:][context[3000:] == c]
            if min(len(early), len(late)) > 300:
                assert abs(early.mean() - late.mean()) < 0.17  # one table throughout: four standard deviations
                chances.append(early.mean())
    assert len(chances) > 80 and np.std(chances) > 0.2  # and another for each sequence and context


def test_the_best_predictor_of_ngrams_is_its_recursion():
    task = DynamicNGrams(length=60, order=3)
    batch = task.batch(seeded(), 20)
    for b, (_, wanted) in enumerate(rows(batch)):
        counts, bits, lost = {}, wanted[:, 0].astype(int).tolist(), 0.0
        for t, bit in enumerate(bits):
            if t < 3:
                lost += 1
                continue
            seen = counts.setdefault(tuple(bits[t - 3 : t]), [0, 0])
            lost -= math.log2((seen[bit] + 0.5) / (sum(seen) + 1))
            seen[bit] += 1
        assert float(task.optimal(batch)[b]) == pytest.approx(lost, rel=1e-9)


def test_the_best_predictor_of_ngrams_loses_133_bits():
    task = DynamicNGrams()
    lost = task.optimal(task.batch(seeded(), 20_000))
    assert abs(float(lost.mean()) - 132.99) < 1 and abs(float(lost.mean()) - task.order - 127.99) < 1
    assert abs(float(lost.std()) - 36) < 1
    assert task.optimal(task.batch(seeded(), 2, length=4)).tolist() == [4, 4]
    assert Copy().optimal(Copy().batch(seeded(), 2)) is None


def test_priority_sort():
    task = PrioritySort(bits=40)  # no vector twice
    highest = []
    for x, wanted in rows(task.batch(seeded(), 200)):
        assert len(x) == 37 and len(wanted) == 16 and x[:, 41].nonzero()[0].tolist() == [20] and not x[20:, :41].any()
        ranked = sorted(range(20), key=lambda k: -x[k, 40])
        assert (wanted == x[ranked[:16], :40]).all()
        highest.append(x[ranked[0], 40])
    assert max(highest) <= 1 and abs(np.mean(highest) - 19 / 21) < 0.02  # of 20 from U(-1, 1)
    assert PrioritySort().inputs == 10 and PrioritySort().outputs == 8
    assert task.batch(seeded(), 1, vectors=30).mask.sum() == 16


@pytest.mark.parametrize("name", TASKS)
def test_loss_and_errors(name):
    task = TASKS[name]()
    batch = task.batch(seeded(), 7)
    logits = torch.randn(batch.target.shape, dtype=torch.float64)
    bits = errors = 0.0
    for b, (_, wanted) in enumerate(rows(batch)):
        p = logits[batch.mask[:, b], b].sigmoid().numpy()
        bits -= np.log2(np.where(wanted == 1, p, 1 - p)).sum()
        errors += ((p > 0.5) != (wanted == 1)).sum()
    assert float(task.loss(logits, batch)) == pytest.approx(bits / 7, rel=1e-9)
    assert float(task.errors(logits, batch)) == pytest.approx(errors / 7, rel=1e-6)
    judged = float(batch.mask.sum()) * task.outputs / 7
    assert float(task.loss(torch.zeros_like(logits), batch)) == pytest.approx(judged)
    outside = logits + 100 * ~batch.mask.unsqueeze(-1)
    assert torch.equal(task.loss(outside, batch), task.loss(logits, batch))
    assert torch.equal(task.errors(outside, batch), task.errors(logits, batch))
    assert float(task.errors(2 * batch.target - 1, batch)) == 0.0


def test_a_task_of_other_sizes():
    task = replace(Copy(), bits=3, max_length=2)
    assert task.batch(seeded(), 30).x.shape == (6, 30, 5)
