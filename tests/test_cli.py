"""The commands of `python -m rnnkernels`; the demo itself is run by `make demo`."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import CELLS, ISAS

import rnnkernels as rk
from rnnkernels import _C, cli, reference

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "rnnkernels", *arguments], capture_output=True, text=True)


def test_info():
    done = run("info")
    assert done.returncode == 0 and done.stderr == ""
    for fact in (rk.__version__, *ISAS, *CELLS, "last_kernel"):
        assert fact in done.stdout


def test_check():
    done = run("check")
    assert done.returncode == 0, done.stdout + done.stderr
    ops = [*CELLS, "ntm", "ntm_step"]
    rows = [line.split() for line in done.stdout.splitlines() if line.split()[:1] and line.split()[0] in ops]
    assert [row[:2] for row in rows] == [[op, isa] for op in ops for isa in ISAS]
    assert all(row[2:] == ["ok"] * 5 if row[0] in CELLS else ["ok", "ok", "-", "-", "ok"] for row in rows)


def test_check_fails_where_a_kernel_is_wrong(monkeypatch, capsys):
    """The check must be able to fail: a reference that is off by 1e-4 is a kernel that is off by as much."""
    plain, table = reference.CELLS["gru"], [CELLS["gru"], CELLS["rnn_tanh"]]
    monkeypatch.setattr(_C, "cells", lambda: table)
    monkeypatch.setattr(_C, "isas", lambda: {"built": ISAS, "available": ISAS[-1:]})
    monkeypatch.setitem(reference.CELLS, "gru", lambda *args, **kw: tuple(h * (1 + 1e-4) for h in plain(*args, **kw)))
    assert cli.main(["check"]) == 1
    said = capsys.readouterr()
    assert "FAILED" in said.out and "check: gru" in said.err and "check: rnn_tanh" not in said.err


@pytest.mark.parametrize("command", ["info", "check", "bench", "demo", "train", "evaluate", "plot", "reproduce"])
def test_help(command):
    done = run(command, "--help")
    assert done.returncode == 0 and f"python -m rnnkernels {command}" in done.stdout and done.stderr == ""
    assert "default: None" not in done.stdout


def test_version():
    assert run("--version").stdout == f"rnnkernels {rk.__version__}\n"


def test_the_console_script(monkeypatch, capsys):
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["rnnkernels"]
    module, _, function = script.partition(":")
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/rnnkernels", "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        getattr(importlib.import_module(module), function)()
    assert capsys.readouterr().out.startswith("usage: rnnkernels ")


@pytest.mark.parametrize("arguments", [(), ("dance",), ("demo", "--epochs", "0"), ("info", "--loud")], ids=" ".join)
def test_bad_usage(arguments):
    done = run(*arguments)
    assert done.returncode == 2 and "usage:" in done.stderr and "Traceback" not in done.stderr


def test_demo_refuses_a_folder_that_is_not_there(tmp_path):
    done = run("demo", "--out", str(tmp_path / "nowhere" / "demo.png"))
    assert done.returncode == 1 and "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
