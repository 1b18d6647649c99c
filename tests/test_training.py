"""Training: the step, the loop, what is kept of a run and how it goes on, the commands, the entries of reproduce."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import equal
from torch import nn

import rnnkernels as rk
from rnnkernels import cli
from rnnkernels.experiments import ENTRIES, Outcome, Trial, memory, report, runner
from rnnkernels.tasks.algorithmic import TASKS, Copy, DynamicNGrams, RepeatCopy
from rnnkernels.tasks.networks import StackedLSTM, weights
from rnnkernels.training import (
    LAYERS,
    MODELS,
    OPTIMISERS,
    PAPER,
    Config,
    GravesRMSprop,
    Store,
    Training,
    evaluate,
    paper,
    train,
)

SMALL = {"sizes": {"bits": 2, "max_length": 3}, "log": 10, "evaluate": 20, "fresh": 3}
NTM = {"controller_size": 8, "memory_rows": 4, "memory_width": 3}
CASES = {
    "ntm": Config("copy", arguments=NTM, **SMALL),
    "adam, by threes": Config("copy", arguments=NTM, optimiser="adam", batch=3, clip_norm=1.0, **SMALL),
    "masks of torch's generator": Config(
        "copy", model="gru", arguments={"hidden_size": 5, "zoneout": 0.3}, optimiser="rmsprop", **SMALL
    ),
    "baseline": Config(
        "repeat-copy", {"bits": 1, "max_length": 2, "max_repeats": 2}, "lstm-baseline", {"hidden_size": 4}, fresh=3
    ),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- the network beside which the Neural Turing Machine stood ---------------------------------------------------------


@pytest.mark.parametrize(
    "task,count",
    [("copy", 1_352_969), ("repeat-copy", 5_312_007), ("associative-recall", 1_344_518), ("dynamic-ngrams", 331_905)],
)
def test_the_baseline_has_as_many_weights_as_in_the_paper(task, count):
    assert weights(paper(task, "lstm").make_model()) == count


def test_the_baseline_reads_the_input_in_every_layer_and_every_layer_at_the_output():
    network = StackedLSTM(3, 2, hidden_size=4).double()
    for state in (network.h_0, network.c_0):
        nn.init.normal_(state)
    x, outs = torch.randn(6, 5, 3, dtype=torch.float64), []
    for k, layer in enumerate(network.layers):
        twin = nn.LSTM(3 + 4 * (k > 0), 4).double()
        twin.load_state_dict(layer.state_dict())
        start = tuple(s[k].expand(1, 5, 4).contiguous() for s in (network.h_0, network.c_0))
        outs.append(twin(torch.cat([x, *outs[-1:]], -1), start)[0])
    y, (h, c) = network(x)
    assert torch.allclose(y, network.readout(torch.cat(outs, -1))) and torch.allclose(h[2], outs[2][-1])
    first, state = network(x[:2])
    rest, (h_late, c_late) = network(x[2:], state)
    assert torch.allclose(torch.cat((first, rest)), y) and torch.allclose(c, c_late) and torch.allclose(h, h_late)
    short, (h_short, _) = network(x, lengths=torch.tensor([6, 1, 2, 3, 4]))
    assert torch.allclose(short[:2, 2], y[:2, 2]) and torch.allclose(h_short[:, 2], state[0][:, 2])
    y.sum().backward()
    assert all(p.grad.any() for p in network.parameters() if p.requires_grad)
    assert all(not layer.bias_hh_l0.any() and layer.bias_hh_l0.grad is None for layer in network.layers)


# --- configurations ---------------------------------------------------------------------------------------------------


def test_every_model_learns_a_sequence():
    assert set(LAYERS) == {c.__name__.lower() for c in vars(rk).values()
                           if isinstance(c, type) and issubclass(c, rk.modules.recurrent.Recurrent)}  # fmt: skip
    for model in MODELS:
        arguments = NTM if model == "ntm" else {"hidden_size": 3}
        training = Training(Config("copy", model=model, arguments=arguments, **SMALL))
        before = [p.clone() for p in training.model.parameters() if p.requires_grad]
        training.step()
        after = [p for p in training.model.parameters() if p.requires_grad]
        assert all(not torch.equal(a, b) for a, b in zip(before, after)), model


@pytest.mark.parametrize("task,row", [(task, row) for task in PAPER for row in PAPER[task]])
def test_the_papers_table(task, row):
    config = paper(task, row, seed=3)
    heads = config.arguments.get("read_heads", 0)
    expected = {"associative-recall": {"feedforward": 4}, "priority-sort": {"feedforward": 8, "lstm": 5}}
    assert heads == (0 if row == "lstm" else expected.get(task, {}).get(row.removeprefix("ntm-"), 1))
    assert config.seed == 3 and config.optimiser == "graves2013" and config.clip_value == 10 and config.batch == 1
    assert set(PAPER) == set(TASKS) and weights(config.make_model()) > 10_000


@pytest.mark.parametrize(
    "changes,word",
    [
        ({"task": "dance"}, "task"),
        ({"model": "dance"}, "model"),
        ({"optimiser": "sgd"}, "optimiser"),
        ({"lr": 0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"batch": 0}, "batch"),
        ({"clip_norm": -1}, "clip_norm"),
        ({"arguments": {"batch_first": True}}, "batch_first"),
        ({"sizes": {"dance": 1}}, "copy"),
        ({"arguments": {"dance": 1}}, "ntm"),
        ({"model": "gru", "arguments": {"controller": "lstm"}}, "gru"),
    ],
)
def test_configurations_without_meaning_are_refused(changes, word):
    with pytest.raises(ValueError, match=f"^{word}: "):
        Training(Config(**changes))
    with pytest.raises(ValueError, match="paper: expected"):
        paper("copy", "dance")


# --- the step ---------------------------------------------------------------------------------------------------------


def test_rmsprop_is_that_of_the_paper():
    parameters = [torch.linspace(-1, 1, size, dtype=torch.float64).requires_grad_() for size in (2, 3)]
    w = torch.cat(parameters).tolist()
    n, m, d = ([0.0] * 5 for _ in range(3))
    optimiser = GravesRMSprop(parameters, lr=0.01)
    for step in range(6):
        g = [math.sin(3.0 * k + step) for k in range(5)]
        for p, part in zip(parameters, torch.tensor(g, dtype=torch.float64).split([2, 3])):
            p.grad = part
        for k in range(5):
            n[k] = 0.95 * n[k] + 0.05 * g[k] ** 2
            m[k] = 0.95 * m[k] + 0.05 * g[k]
            d[k] = 0.9 * d[k] - 0.01 * g[k] / math.sqrt(n[k] - m[k] ** 2 + 1e-4)
            w[k] += d[k]
        optimiser.step()
        assert torch.allclose(torch.cat(parameters), torch.tensor(w, dtype=torch.float64), rtol=1e-12, atol=1e-14)
    parameters[0].grad = None
    before = parameters[0].clone()
    assert optimiser.step(lambda: 7) == 7 and torch.equal(parameters[0], before)


@pytest.mark.parametrize("clip", [{"clip_value": 0.02}, {"clip_value": 0.0, "clip_norm": 0.1}], ids=str)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_step_is_that_of_torch(name, clip):
    training = Training(replace(CASES["adam, by threes"], optimiser=name, **({"clip_norm": 0.0} | clip)))
    plain, task = training.config.make_model(), training.task
    plain.load_state_dict(training.model.state_dict())
    optimiser = OPTIMISERS[name](list(plain.parameters()), lr=1e-4)
    _, drawn, _ = torch.randint(2**31, (3,), generator=seeded()).tolist()
    generator = seeded(drawn)
    for _ in range(4):
        training.step()
        batch = task.batch(generator, 3)
        optimiser.zero_grad()
        task.loss(plain(batch.x, lengths=batch.lengths)[0], batch).backward()
        norm = torch.cat([p.grad.flatten() for p in plain.parameters()]).norm()
        for p in plain.parameters():
            if "clip_norm" in clip:
                p.grad *= min(1.0, clip["clip_norm"] / float(norm))
            else:
                p.grad.clamp_(-clip["clip_value"], clip["clip_value"])
        optimiser.step()
        for p, q in zip(training.model.parameters(), plain.parameters()):
            assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)
    assert training.sequences == 12


def test_a_loss_that_is_not_finite_ends_training(tmp_path, monkeypatch):
    whole, count = Copy.loss, []

    def loss(logits, batch):
        count.append(1)
        return whole(logits, batch) * (math.nan if len(count) > 5 else 1)

    monkeypatch.setattr(Copy, "loss", staticmethod(loss))
    with pytest.raises(FloatingPointError, match="after 5 sequences"):
        train(CASES["ntm"], tmp_path, checkpoint_sequences=1)
    assert Training.load(tmp_path).sequences == 5


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_it_learns_to_copy():
    arguments = {"controller_size": 32, "memory_rows": 16, "memory_width": 8}
    config = Config("copy", {"bits": 4, "max_length": 5}, arguments=arguments, lr=1e-3, batch=4, fresh=100, stop=True)
    training = train(replace(config, sequences=20_000))
    assert training.converged is not None and training.converged == training.sequences
    assert training.curve[0][1] > 5 and training.evaluate(200, seed=1).errors < 0.5


def test_evaluation_is_the_mean_over_its_sequences():
    training = Training(Config("dynamic-ngrams", {"length": 9, "order": 2}, "lstm", {"hidden_size": 3}))
    scores = training.evaluate(100, seed=5)
    task, generator = training.task, seeded(5)
    batches = [task.batch(generator, 64), task.batch(generator, 36)]
    x, target = (torch.cat([getattr(b, name) for b in batches], 1) for name in ("x", "target"))
    logits = training.model(x)[0].detach()
    wrong = ((logits > 0) != (target > 0.5)).sum() / 100
    bits = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum") / math.log(2) / 100
    assert scores.loss == pytest.approx(float(bits), rel=1e-5) and scores.errors == pytest.approx(float(wrong))
    assert scores.right == pytest.approx(100 - 100 * float(wrong) / 9)
    assert scores.optimal == pytest.approx(float(torch.cat([task.optimal(b) for b in batches]).mean()))
    assert training.model.training
    perfect = evaluate(Oracle(), RepeatCopy(), seeded(), 10, length=2, repeats=3)
    assert perfect.errors == 0 and perfect.right == 100 and perfect.optimal is None


class Oracle(nn.Module):
    """Copies twice three times, then the end marker."""

    def forward(self, x, lengths=None):
        logits = torch.zeros(x.size(0), x.size(1), 7)
        logits[4:10, :, :6] = x[:2, :, :6].repeat(3, 1, 1) * 60 - 30
        logits[:10, :, 6], logits[10:] = -30, -30
        logits[10:, :, 6] = 30
        return logits, None


def test_it_ends_where_it_is_told_to():
    config = replace(CASES["ntm"], sequences=50)
    assert train(config).sequences == 50
    assert train(config, going=lambda count: count < 20).sequences == 20
    told = []
    training = train(replace(config, batch=4, log=10, evaluate=0), told=told.append)
    assert training.sequences == 52 and [line["sequences"] for line in told] == [12, 20, 32, 40, 52]
    assert {line["kind"] for line in told} == {"training"} and training.curve == [] and training.converged is None
    threads = torch.get_num_threads()
    train(replace(config, threads=2), going=lambda _: torch.get_num_threads() == threads)
    assert torch.get_num_threads() == threads


def same(one, other):
    """Whether two trainings are the same to the last bit, but for the seconds they took."""
    states = [training.state_dict() for training in (one, other)]
    for state in states:
        state["since"] = state["since"][:3]
        state["config"].pop("sequences")
    return equal(*states)


def lines(folder):
    return [{k: v for k, v in line.items() if k != "rate"} for line in Store(folder).lines()]


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_goes_on_bit_for_bit(name, tmp_path):
    config = CASES[name]
    whole = train(replace(config, sequences=96), tmp_path / "whole")
    train(replace(config, sequences=33), tmp_path / "parts")
    torch.manual_seed(7)
    torch.randn(3)
    for sequences in (69, 96):
        parts = train(replace(config, sequences=sequences), tmp_path / "parts", resume=True)
    assert same(whole, parts) and whole.sequences == 96 and same(whole, Training.load(tmp_path / "parts"))
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    assert not same(whole, train(replace(config, sequences=93)))


def test_runs_of_one_seed_are_the_same():
    config = replace(CASES["ntm"], sequences=30)
    assert same(train(config), train(config)) and not same(train(config), train(replace(config, seed=1)))


def test_what_was_written_after_the_checkpoint_is_cut_off(tmp_path):
    config = replace(CASES["ntm"], sequences=40)
    train(config, tmp_path)
    kept = Store(tmp_path).metrics.read_bytes()
    with Store(tmp_path).metrics.open("ab") as file:
        file.write(b'{"kind": "training", "sequences": 50}\n{"kind": "trai')
    assert len(lines(tmp_path)) == 7  # half a line is none
    train(replace(config, sequences=60), tmp_path, resume=True)
    assert Store(tmp_path).metrics.read_bytes().startswith(kept)
    assert [line["sequences"] for line in lines(tmp_path) if line["kind"] == "training"] == [10, 20, 30, 40, 50, 60]
    Store(tmp_path).metrics.write_bytes(kept[:10])
    with pytest.raises(ValueError, match="metrics.jsonl: expected"):
        train(config, tmp_path, resume=True)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_none(part, tmp_path):
    train(replace(CASES["ntm"], sequences=10), tmp_path)
    checkpoint = Store(tmp_path).checkpoint
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match="expected a whole checkpoint, got a damaged one"):
        Training.load(tmp_path)


def test_a_checkpoint_cut_off_while_it_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    config, save, count = replace(CASES["ntm"], sequences=60), torch.save, []

    def dies(state, file):
        count.append(1)
        if len(count) == 4:  # the one at the start, then at 10, 20 and 30
            file.write(b"half of a checkpoint")
            raise OSError("no space left on device")
        save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", dies)
        with pytest.raises(OSError, match="no space"):
            train(config, tmp_path, checkpoint_sequences=10)
    assert Training.load(tmp_path).sequences == 20
    assert same(train(config, tmp_path, resume=True), train(config))
    assert len(lines(tmp_path)) == 9


def test_a_folder_is_not_taken_for_what_it_is_not(tmp_path):
    config = replace(CASES["ntm"], sequences=10)
    with pytest.raises(ValueError, match="folder: expected that of a run"):
        train(config, tmp_path, resume=True)
    train(config, tmp_path)
    with pytest.raises(ValueError, match="folder: expected one without a run"):
        train(config, tmp_path)
    for changes, word in (({"lr": 1.0}, "lr"), ({"seed": 1}, "seed"), ({"arguments": {}}, "arguments")):
        with pytest.raises(ValueError, match=f"^{word}: expected .*, as the run began"):
            train(replace(config, **changes), tmp_path, resume=True)


@pytest.fixture
def interruptible():
    """A background job of some shells ignores Ctrl-C, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_between_two_steps(tmp_path, interruptible):
    config = replace(CASES["ntm"], sequences=60)

    def interrupted(count):
        if count == 33:
            signal.raise_signal(signal.SIGINT)
        return True

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, going=interrupted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert Training.load(tmp_path).sequences == 34
    assert same(train(config, tmp_path, resume=True), train(config))
    with pytest.raises(KeyboardInterrupt):  # nothing to save: at once
        train(config, going=interrupted)

    def twice(count):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "twice", going=twice)
    assert Training.load(tmp_path / "twice").sequences == 0


# --- the commands -----------------------------------------------------------------------------------------------------

TINY = ["--bits", "2", "--max-length", "3", "--controller-size", "8", "--memory-rows", "4", "--memory-width", "3"]
TINY += ["--log", "10", "--evaluate", "20", "--fresh", "3"]  # CASES["ntm"]


def started(folder, *arguments):
    command = [sys.executable, "-m", "rnnkernels", "train", "copy", *TINY, "--out", str(folder), "--threads", "1"]
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(store, count):
    """Until `count` lines of metrics are there."""
    end = time.monotonic() + 60
    while len(store.lines()) < count:
        assert time.monotonic() < end, "no metrics"
        time.sleep(0.02)


def test_a_killed_run_loses_at_most_one_interval(tmp_path):
    pytest.importorskip("tqdm")
    store = Store(tmp_path)
    process = started(tmp_path, "--sequences", "1000000", "--checkpoint-sequences", "30")
    try:
        wait_for(store, 30)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    at_kill = max(line["sequences"] for line in lines(tmp_path))
    kept = Training.load(tmp_path).sequences
    assert kept % 30 == 0 and at_kill - 30 <= kept
    config = replace(CASES["ntm"], threads=1)
    whole = train(replace(config, sequences=kept + 50), tmp_path / "whole")
    assert same(whole, train(replace(config, sequences=kept + 50), tmp_path, resume=True))
    assert lines(tmp_path) == lines(tmp_path / "whole")


def test_ctrl_c_at_the_command_line(tmp_path, interruptible):
    pytest.importorskip("tqdm")
    process = started(tmp_path, "--sequences", "1000000")
    try:
        wait_for(Store(tmp_path), 10)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "--resume goes on" in said and "Traceback" not in said
    assert Training.load(tmp_path).sequences >= 70


def test_train_evaluate_plot(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "copy", *TINY, "--sequences", "40"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name == "copy-ntm-0" and sorted(os.listdir(run)) == ["checkpoint.pt", "metrics.jsonl"]
    assert cli.main(["train", "copy", "--resume", "--sequences", "60"]) == 0
    assert same(Training.load(run), train(replace(CASES["ntm"], sequences=60)))
    baseline = ["--paper", "lstm", "--hidden-size", "4", "--stop", "--sequences", "40", "--out", str(tmp_path / "b")]
    assert cli.main(["train", "repeat-copy", "--max-repeats", "2", "--batch", "4", *baseline]) == 0
    config = Training.load(tmp_path / "b").config
    assert config.model == "lstm-baseline" and config.arguments == {"hidden_size": 4, "num_layers": 3} and config.stop
    assert (config.lr, config.batch, config.sizes) == (3e-5, 4, {"max_repeats": 2})
    assert "parameters; run: " in capsys.readouterr().out

    assert cli.main(["evaluate", str(run), "--sequences", "3"]) == 0
    said = capsys.readouterr().out
    assert all(f"length {n}" in said for n in (10, 20, 30, 50, 120)) and "as trained" in said and "right, %" in said
    assert cli.main(["evaluate", str(run), "--sequences", "3", "--test", "length=7", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    scores = Training.load(run).evaluate(3, length=7).as_dict()
    assert found["scores"] == [{"sizes": {"length": 7}, **scores}] and found["learned_from"] == 60

    pytest.importorskip("matplotlib")
    assert cli.main(["plot", str(run), str(tmp_path / "b"), "--out", "pictures", "--test", "length=4"]) == 0
    pictures = [tmp_path / line for line in capsys.readouterr().out.splitlines()]
    names = [p.relative_to(tmp_path).as_posix() for p in pictures]
    assert names == ["pictures/learning.png", "runs/copy-ntm-0/outputs.png", "runs/copy-ntm-0/weightings.png",
                     "b/outputs.png"]  # fmt: skip
    from matplotlib.image import imread

    assert all(np.ptp(imread(p)[..., :3]) == 1 for p in pictures)  # from black to white


def test_no_picture_of_what_cannot_be_drawn_is_needed(tmp_path):
    pytest.importorskip("matplotlib")
    from rnnkernels.training import pictures

    pictures.curves({"nothing yet": []}, tmp_path / "a.png")
    training = Training(Config("dynamic-ngrams", {"length": 9}, arguments=NTM | {"read_heads": 2}))
    pictures.weightings(training, training.task.largest, tmp_path / "b.png")
    pictures.outputs(training, [{}], tmp_path / "c.png")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "arguments,word",
    [
        (["train", "copy", "--lr", "0"], "lr"),
        (["train", "copy", "--optimiser", "dance"], "optimiser"),
        (["train", "copy", "--set", "dance=1"], "ntm"),
        (["train", "copy", "--preset", "dance"], "preset"),
        (["train", "copy", "--min-length", "30"], "max_length"),
        (["train", "copy", "--model", "gru", "--controller", "lstm"], "gru"),
        (["train", "copy", "--resume", "--out", "nowhere"], "folder"),
        (["train", "repeat-copy", "--resume", "--out", "run"], "task"),
        (["train", "copy", "--resume", "--out", "run", "--lr", "1"], "lr"),
        (["train", "copy", *TINY, "--out", "run"], "folder"),
        (["evaluate", "nowhere"], "folder"),
        (["evaluate", "run", "--test", "items=3"], "sizes"),
        (["plot", "run", "nowhere"], "folder"),
        (["plot", "run", "--test", "items=3"], "sizes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_commands_refuse_in_one_line(arguments, word, tmp_path, monkeypatch, capsys):
    for module in ("tqdm", "matplotlib"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    train(replace(CASES["ntm"], sequences=1), "run")
    assert cli.main(arguments) == 1
    said = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "sequences/s" not in line]
    assert [line for line in said if line.strip()] == said[-1:] and said[-1].startswith(f"rnnkernels {arguments[0]}: ")
    assert f" {word}: " in said[-1]


@pytest.mark.parametrize("arguments", [["copy", "--bits", "0"], ["copy", "--max-items", "3"], ["dance"], []], ids=str)
def test_train_knows_its_flags(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["train", *arguments])
    assert end.value.code == 2 and "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("task", TASKS)
def test_help_of_every_task(task, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", task, "--help"])
    said = capsys.readouterr().out
    assert "--memory-rows" in said and "(default: graves2013)" in said and "SUPPRESS" not in said


def test_what_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["train", "copy"]) == 1 and "pip install tqdm" in capsys.readouterr().err
    assert cli.main(["plot", "run"]) == 1 and "pip install matplotlib" in capsys.readouterr().err


# --- reproduce --------------------------------------------------------------------------------------------------------


def options(name, **changes):
    return {**ENTRIES[name].options, "fresh": 4, "tested": 4, **changes}


def test_a_trial_is_solved_at_its_first_good_evaluation():
    easy = options("ntm-copy", evaluate=10, criterion="loss", limit=1000.0)
    outcome = memory.trial(Trial(0, 25, easy))
    assert outcome.solved and outcome.count == 10 and list(outcome.curve["sequences"]) == [10, 20]
    assert {"bits lost", "wrong bits", "bits right, % at length 50"} <= set(outcome.figures)
    outcome = memory.trial(Trial(0, 25, easy | {"until": "solved"}))
    assert outcome.solved and list(outcome.curve["sequences"]) == [10]
    outcome = memory.trial(Trial(0, 25, easy | {"limit": 0.0}))
    assert outcome.solved is False and outcome.count == 25 and outcome.stopped == "cap" and outcome.curve
    with pytest.raises(ValueError, match="until"):
        memory.trial(Trial(0, 1, options("ntm-copy", until="dusk")))


def test_ngrams_are_held_against_the_best_predictor():
    outcome = memory.trial(Trial(0, 2, options("ntm-ngrams")))
    scores = Training(memory.configured(Trial(0, 2, options("ntm-ngrams")))).evaluate(4)
    assert outcome.solved is None and scores.optimal < scores.loss
    assert outcome.figures["bits lost beyond the best possible"] == pytest.approx(scores.loss - scores.optimal, abs=0.5)
    assert DynamicNGrams().length == 200


def test_options_change_the_configuration():
    config = memory.configured(Trial(4, 9, options("ntm-memory-init", memory_init="constant")))
    assert (config.seed, config.sequences, config.optimiser, config.batch) == (4, 9, "adam", 32)
    assert (config.clip_value, config.clip_norm, config.lr) == (0.0, 50.0, 1e-3)
    assert config.arguments["memory_init"] == "constant" and config.arguments["preset"] == "collier2018"
    assert config.arguments["controller"] == "lstm"
    assert "preset" not in memory.configured(Trial(0, 1, options("ntm-copy", paper="lstm"))).arguments


def test_the_page_shows_learning_curves(tmp_path):
    def outcome(seed, losses):
        counts = [1000 * (k + 1) for k in range(len(losses))]
        return Outcome(True, 1, curve={"sequences": counts, "loss": losses, "errors": losses}, seed=seed)

    found = {"a": [outcome(0, [9.0, 7.0, 5.0]), outcome(1, [8.0, 6.0])], "b": [Outcome(True, 1)]}
    table = "\n".join(report._curves(found))
    assert "| bits per sequence | seed | solved at | after 1,000 | after 2,000 | after 3,000 |" in table
    assert "| a | 0 | 1 | 9 | 7 | 5 |" in table and "| a | 1 | 1 | 8 | 6 | - |" in table and "| b |" not in table
    assert report._curves({"b": found["b"]}) == []
    variant = replace(ENTRIES["ntm-copy"].variants[0], name="a")
    runner.keep(tmp_path / "a.json", runner.Run(ENTRIES["ntm-copy"], [variant], 9, 9.0, 1, found))
    assert '"loss": [ 9.0, 7.0, 5.0 ]' in (tmp_path / "a.json").read_text()
    (run,) = runner.load(tmp_path / "a.json")
    assert run["variants"]["a"]["trials"] == json.loads(json.dumps([o.as_dict() for o in found["a"]]))
    many = {"a": [outcome(0, [float(k) for k in range(1, 11)])]}
    assert "| a | 0 | 1 | 1 | 2 | 4 | 8 | 10 |" in "\n".join(report._curves(many))
