"""bench/gpu_trial.sh without a GPU: that it goes on whatever happens, and what it leaves behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.gpu import trial
from bench.gpu.trial import Step

ROOT = Path(__file__).resolve().parent.parent


def says(text, rc=0, seconds=0.0):
    return [sys.executable, "-c", f"import time; print({text!r}); time.sleep({seconds}); raise SystemExit({rc})"]


def step(name, command, most=60.0, least=0.0, before=""):
    return Step(name, "for a test", most, least, lambda device, out, seconds: command, before)


def account(out):
    return json.loads((out / "trial.json").read_text())["steps"]


def run(out, *steps, words=()):
    return trial.main(["--device", "cpu", "--out", str(out), *words], steps)


def raises(device, out, seconds):
    raise OSError("no such tool")


def test_a_step_that_fails_does_not_stop_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "END", 1.0)
    steps = (
        step("wrong", says("ouch", 3)),
        step("hangs", says("waiting", 0, 60), most=1.5),
        step("absent", ["/no/such/program"]),
        Step("raises", "", 9, 0, raises),
        step("toolless", "no tool here"),
        step("idle", None),
        step("after wrong", says("never"), before="wrong"),
        step("right", says("fine"), before="idle"),
    )
    assert run(tmp_path, *steps) == 1
    ended = account(tmp_path)
    assert {name: s["state"] for name, s in ended.items()} == {
        **dict.fromkeys(("wrong", "hangs", "absent", "raises"), "failed"),
        **dict.fromkeys(("toolless", "after wrong"), "skipped"),
        "idle": "nothing to do",
        "right": "ok",
    }
    assert ended["wrong"]["rc"] == 3 and ended["wrong"]["last"] == ["ouch"]
    assert ended["hangs"]["rc"] == 124 and ended["hangs"]["seconds"] < 20 and ended["hangs"]["last"] == ["waiting"]
    log = (tmp_path / "log.txt").read_text()
    assert "ouch" in log and "fine" in log and "never" not in log


def test_what_is_left_goes_to_later_steps_or_they_are_skipped(tmp_path):
    seen = {}

    def command(name):
        return lambda device, out, seconds: seen.update({name: seconds}) or says(name)

    steps = [Step(n, "", 50, least, command(n)) for n, least in (("first", 0), ("second", 20), ("third", 30))]
    assert run(tmp_path, *steps, words=["--seconds", "60"]) == 0
    assert seen["first"] <= 60 - 20 - 30 and seen["second"] >= 20
    assert account(tmp_path)["third"]["state"] == "ok"
    assert run(tmp_path / "short", *steps, words=["--seconds", "30"]) == 0
    late = account(tmp_path / "short")
    assert late["third"]["state"] == "skipped" and "s were left" in late["third"]["why"]


def test_only(tmp_path, capsys):
    steps = [step(name, says(name)) for name in ("one", "two", "three")]
    assert run(tmp_path, *steps, words=["--only", "two"]) == 0 and list(account(tmp_path)) == ["two"]
    assert run(tmp_path, *steps, words=["--only", "three", "--only", "one"]) == 0  # what is known stays
    assert set(account(tmp_path)) == {"one", "two", "three"}
    with pytest.raises(SystemExit):
        run(tmp_path, *steps, words=["--only", "four"])
    assert "--only: expected of one, two, three, got four" in capsys.readouterr().err


def test_what_is_known_outlives_a_kill(tmp_path):
    program = f"""import sys; from pathlib import Path; from bench.gpu import trial
def step(name, text, seconds):
    command = [sys.executable, "-c", f"import time; print({{text!r}}); time.sleep({{seconds}})"]
    return trial.Step(name, "", 90, 0, lambda *_: command)
words = ["--device", "cpu", "--out", {str(tmp_path)!r}]
trial.main(words, [step("first", "done", 0), step("second", "at it", 60)])"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for kill in (signal.SIGTERM, signal.SIGKILL):
        running = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 100
        while not (tmp_path / "log.txt").exists() or "at it" not in (tmp_path / "log.txt").read_text():
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        running.send_signal(kill)
        running.wait(20)
        ended = account(tmp_path)
        assert ended["first"]["state"] == "ok" and ended["first"]["last"] == ["done"]
        assert ended["second"]["state"] == ("failed" if kill == signal.SIGTERM else "running")
        (tmp_path / "log.txt").unlink()


def test_a_step_ends_with_all_it_started(tmp_path):
    child = f"import subprocess, sys; print(subprocess.Popen({says('', 0, 60)!r}).pid, flush=True); sys.exit(0)"
    assert run(tmp_path, step("starts", [sys.executable, "-c", child])) == 0
    pid = int(account(tmp_path)["starts"]["last"][0])
    state = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        if not state.exists() or state.read_text().split(")")[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} still runs")


def test_few_files_of_some_size_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "LOG_BYTES", 1000)
    monkeypatch.setattr(trial, "FILE_BYTES", 5000)
    steps = [step(f"loud {i}", says("x" * 99 + "\n" * 50 + "y" * 3000)) for i in range(12)]
    write = f"open({str(tmp_path / 'walks.ncu-rep')!r}, 'w').write('x' * 6000)"
    steps.append(step("large", [sys.executable, "-c", write]))
    monkeypatch.setattr(trial, "FILE_BYTES", 5000)
    assert run(tmp_path, *steps) == 0
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) <= 8 and all(re.fullmatch(r"[A-Za-z0-9._-]+", p.name) and p.parent == tmp_path for p in files)
    assert "walks.ncu-rep" not in {p.name for p in files} and "is not kept" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "log.txt").stat().st_size < 12 * 1500


def test_the_whole_fits_its_minutes():
    """Even if every step took all it may: and none is left without."""
    for seconds, most in ((trial.BUILT, 360), (trial.TO_BUILD, 590)):
        assert seconds + trial.END < most
    assert sum(s.least for s in trial.STEPS) + trial.END * len(trial.STEPS) < trial.BUILT
    assert all(s.least <= s.most for s in trial.STEPS)
    assert {s.before for s in trial.STEPS} <= {"", *(s.name for s in trial.STEPS)}


def test_the_help_names_every_step(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        trial.main(["--help"])
    said = capsys.readouterr().out
    assert all(step.name in said and step.does in said for step in trial.STEPS)
    monkeypatch.delenv("OUT", raising=False)
    with pytest.raises(SystemExit):
        trial.main(["--device", "cpu"])
    assert "--out: expected a folder, or one in $OUT" in capsys.readouterr().err


def test_the_script(tmp_path):
    environment = os.environ | {"GPU_PYTHON": sys.executable, "OUT": str(tmp_path / "out")}
    command = [ROOT / "bench/gpu_trial.sh", "--device", "cpu", "--only", "times", "profile"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: s["state"] for name, s in account(tmp_path / "out").items()} == {"times": "ok", "profile": "ok"}
    (table,) = [p for p in (tmp_path / "out").glob("*.json") if p.name != "trial.json"]
    assert len(json.loads(table.read_text())["rows"]) == 3


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here")
def test_what_is_in_cuda_compiles(tmp_path):
    trial.main(["--device", "cpu", "--only", "sync", "layouts", "--out", str(tmp_path)])
    assert {name: s["state"] for name, s in account(tmp_path).items()} == {"sync": "ok", "layouts": "ok"}


def test_results_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trial, "CARDS", tmp_path / "cards")
    assert trial.main(["--keep", str(tmp_path)]) == 1 and "expected trial.json" in capsys.readouterr().err
    (tmp_path / "trial.json").write_text('{"steps": {}}')
    (tmp_path / "some-gpu.json").write_text('{"rows": {}}')
    (tmp_path / "layouts.txt").write_text("1 2\n")
    assert trial.main(["--keep", str(tmp_path)]) == 0
    kept = {p.name for p in (tmp_path / "cards").iterdir()}
    assert kept == {"some-gpu.json", "some-gpu-trial.json", "some-gpu-layouts.txt"}
