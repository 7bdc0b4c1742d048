"""When a run that failed is started again."""

import signal
from pathlib import Path

import pytest

from launcher.hosts.attempts import Attempts
from launcher.hosts.outcome import Failure, Outcome
from training.run_folder import note, read_lines
from training.stop_request import StopRequest

FAILED = Outcome([Failure(1, -signal.SIGKILL, 1.0)])


def test_so_many_times_in_a_row_without_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr("launcher.hosts.attempts.latest", lambda run_dir: steps[-1] if steps else None)
    attempts = Attempts(tmp_path, 2)
    assert attempts.another(FAILED) and attempts.another(FAILED)
    steps.append(10)
    assert attempts.another(FAILED) and attempts.in_vain == 0
    assert attempts.another(FAILED) and attempts.another(FAILED) and not attempts.another(FAILED)
    told = read_lines(tmp_path / "events.jsonl")
    assert [each["then"] for each in told] == ["again"] * 5 and "rank 1 ended with SIGKILL" in told[0]["reason"]
    assert not Attempts(tmp_path, 0).another(FAILED)


def test_never_where_the_end_was_asked_for(tmp_path: Path) -> None:
    note(tmp_path, "stop", by="me@here")  # of another time
    attempts = Attempts(tmp_path, 3)
    assert not attempts.another(Outcome(FAILED.failures, [signal.SIGTERM]))
    assert not attempts.another(Outcome(signals=[signal.SIGHUP], lost={"b": "the connection was lost"}))
    assert attempts.another(FAILED) and not attempts.is_stopped()
    note(tmp_path, "stop", by="me@here")
    assert attempts.is_stopped() and not attempts.another(FAILED)


def test_what_a_life_was_asked_that_died_before_it_could_obey_holds_for_all(tmp_path: Path) -> None:
    StopRequest.of_this_user("of an earlier time").write(tmp_path)
    attempts = Attempts(tmp_path, 3)
    assert attempts.another(FAILED)
    StopRequest.of_this_user("life").write(tmp_path)
    assert not attempts.another(FAILED) and attempts.is_stopped()
    assert [each["event"] for each in read_lines(tmp_path / "events.jsonl")] == ["life_end", "stop"]
    assert not (tmp_path / "stop.json").exists()
