"""A minute of the hostile fuzz, and whether it sees what it is for. An hour: `python -m tests.fuzz --seconds 3600`."""

import pytest

from tests.fuzz import TARGETS
from tests.fuzz.__main__ import main
from tests.fuzz.harness import Draw, fuzz, targets

PLANTED = {
    "crash": "died of SIGSEGV",
    "abort": "died of SIGABRT",
    "leaves": "died of exit status 0",
    "hangs": "did not end within",
    "wrong_exception": "raised KeyError: 'h0'",
    "unclear_message": "unclear message: x INTERNAL ASSERT FAILED",
    "several_lines": "several lines",
    "uninitialised": "depends on memory that was never written",
    "changes_argument": "changed its argument 0",
    "returns_argument": "result 0 is memory of an input",
    "returns_twice": "result 1 is memory of another result",
    "remembers": "result 0 differs from call to call",
}


@pytest.fixture(scope="module")
def planted():
    return fuzz(["planted"], seed=0, seconds=600, cases=1, seconds_of_a_case=10)


def test_every_planted_fault_is_found(planted):
    messages = {found.target: found.message for found in planted.found}
    assert messages.keys() == PLANTED.keys()
    for name, message in PLANTED.items():
        assert message in messages[name]


def test_what_is_right_is_no_fault(planted):
    assert planted.cases == dict.fromkeys([*PLANTED, "right", "speaks"], 1)


@pytest.mark.parametrize("name", ["uninitialised", "right"])
def test_a_case_can_be_run_again(planted, name, capsys):
    expected = [found.message for found in planted.found if found.target == name] or ["nothing wrong"]
    status = main(["--modules", "planted", "--only", name, "--seed", "0", "--case", "0"])
    assert status == (name != "right") and capsys.readouterr().out.splitlines() == expected


def test_a_case_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/weeks of work").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["--only", "checkpoints", "--seed", "0", "--case", "0"]) == 0
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "weeks of work"]


def test_one_seed_draws_the_same_cases():
    first, again, other = (Draw(f"{seed}/layer/5").getrandbits(64) for seed in (3, 3, 4))
    assert first == again != other


def test_a_minute_of_everything():
    report = fuzz(TARGETS, seed=0, seconds=600, cases=40)
    print(report)
    assert set(report.cases) == set(targets(TARGETS)) and min(report.cases.values()) > 0
    assert not report.found, "\n".join(map(str, [*report.found[:20], f"{len(report.found)} faults"]))
