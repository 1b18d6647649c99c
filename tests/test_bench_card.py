"""The bench of a GPU (bench/card.py) without one: what it makes of trouble, which rows it runs, where results go."""

import json
import math
import re
import shutil
import subprocess

import pytest
import torch

from bench import card, results
from bench.cases import square
from rnnkernels import cli

TINY = card.Row("gru", square(3, 2, 4), "float32", "training")


def test_a_result_far_from_the_reference_is_a_row_like_others(tmp_path, monkeypatch):
    plain = card.of_loop

    def astray(*args):
        call = plain(*args)
        return lambda: [t * math.nan for t in call()]

    monkeypatch.setattr(card, "of_loop", astray)
    monkeypatch.setattr(card, "FAR", {"float32": 0.0})
    out = tmp_path / "out"
    card.run(torch.device("cpu"), [TINY], out=out, short=True)
    (file,) = out.iterdir()
    row = json.loads(file.read_text(), parse_constant=pytest.fail)["rows"][str(TINY)]
    assert row["far"]["eager loop"].endswith("is nan from the reference") and "rnnkernels" in row["far"]
    assert row["times"]["eager loop"]["error"] is None and row["times"]["eager loop"]["median"] > 0
    assert " far |" in card.section(file)
    measured = []
    monkeypatch.setattr(card, "measure", lambda *a, **k: measured.append(a))
    assert card.run(torch.device("cpu"), [TINY], out=out) == 0 and not measured  # a rerun goes on after it


def test_ours_far_from_the_reference_is_wrong_unless_peers_are_as_far():
    def of(ours, peer):
        return {"times": {"rnnkernels": {"error": ours}, "cuDNN": {"error": peer}}, "far": {"rnnkernels": ""}}

    assert not card.wrong(of(0.1, 0.08)) and card.wrong(of(0.1, 0.01)) and card.wrong(of(None, 0.01))
    assert card.wrong({"times": {"cuDNN": {"error": 0.1}}, "far": {}})
    assert not card.wrong({"times": {"rnnkernels": {"error": 1e-6}, "cuDNN": {"error": 1e-9}}, "far": {}})


def test_who_cannot_run_is_said_to_be_refused(tmp_path, monkeypatch, capsys):
    def no_room(*args):
        raise ValueError("no room\nat all")

    monkeypatch.setattr(card, "of_module", no_room)
    assert card.run(torch.device("cpu"), [TINY], out=tmp_path, short=True) == 1
    (file,) = tmp_path.iterdir()
    row = json.loads(file.read_text())["rows"][str(TINY)]
    assert row["refused"] == {"cuDNN": "no room", "rnnkernels": "no room"} and list(row["times"]) == ["eager loop"]
    assert f"| {TINY} | - |" in card.section(file) and "not timed" in capsys.readouterr().out


def test_a_lost_context_ends_the_run_after_its_row(tmp_path, monkeypatch):
    lost = {"kernel": {}, "times": {}, "refused": {"rnnkernels tick": "CUDA error: an illegal access"}, "far": {}}
    monkeypatch.setattr(card, "measure", lambda *a, **k: lost)
    with pytest.raises(card.ContextLost, match="rnnkernels tick: CUDA error"):
        card.run(torch.device("cpu"), [TINY, card.Row("lstm", square(3, 2, 4), "float32", "training")], out=tmp_path)
    assert list(json.loads(next(tmp_path.iterdir()).read_text())["rows"]) == [str(TINY)]


def test_rows_by_several_patterns():
    every = list(card.rows())
    chosen = card.chosen(every, ["lstm B256 float16", "ntm"])
    assert {row.cell for row in chosen} == {"lstm", "ntm"}
    assert {(row.dtype, row.case.B) for row in chosen if row.cell == "lstm"} == {("float16", 256)}
    assert len([row for row in chosen if row.cell == "ntm"]) == 2 * len(card.ntm.ROWS)
    assert card.chosen(every, []) == every
    short = list(card.short_rows())
    assert len(short) < 100 and {row.dtype for row in short} == set(card.DTYPES)
    assert {row.cell for row in short[:16]} == {"lstm", "gru", "ntm"}


def test_the_bench_begins_no_row_after_its_seconds(tmp_path, capsys):
    assert card.run(torch.device("cpu"), [TINY], out=tmp_path, seconds=-1.0) == 0
    assert "1 of 1 rows left" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_the_options_reach_the_bench(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(cli.check, "without_card", lambda device: None)
    monkeypatch.setattr(card, "run", lambda device, rows, *rest: seen.update(rows=rows, rest=rest) or 0)
    words = ["-k", "lstm B32", "ntm", "-k", "gru", "--short", "--seconds", "9", "--out", str(tmp_path)]
    assert cli.main(["bench", "--device", "cuda", *words]) == 0
    assert {row.cell for row in seen["rows"]} == {"lstm", "gru", "ntm"} and seen["rest"] == (False, tmp_path, True, 9.0)
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda c, **k: commands.append(c) or subprocess.CompletedProcess(c, 0))
    assert cli.main(["bench", "-k", "lstm B32", "ntm", "--short"]) == 0
    assert commands[0][1:] == ["-m", "bench", "--quick", "-k", "(lstm and B32) or (ntm)"]


def test_a_revision_without_git(tmp_path, monkeypatch):
    """No git on the machine, or a copy of the tree without it, even inside another repository."""
    assert re.fullmatch(r"[0-9a-f]{12}\+?|sources [0-9a-f]{12}", results.revision())
    for name in ("csrc", "rnnkernels"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "a.cpp").write_text(name)
    monkeypatch.setattr(results, "FOLDER", tmp_path / "tree/bench/results")
    (tmp_path / "tree/bench/results").mkdir(parents=True)
    if git := shutil.which("git"):
        subprocess.run([git, "init", "--quiet", tmp_path], check=True)
    found = results.revision()
    assert re.fullmatch("sources [0-9a-f]{12}", found)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing here"))
    assert results.revision() == found
    (tmp_path / "tree/csrc/a.cpp").write_text("another")
    assert results.revision() != found
