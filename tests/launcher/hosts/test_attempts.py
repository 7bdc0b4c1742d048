"""When a run that failed is started again."""

import signal
from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from launcher.hosts.attempts import Attempts
from launcher.hosts.outcome import Failure, Outcome
from launcher.status import status_of
from launcher.stop import Stopped, stop
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


def test_a_launcher_that_gives_up_says_so(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, 3)
    attempts.give_up("nothing was started again", is_failure=True)
    assert not (tmp_path / "events.jsonl").exists()
    assert attempts.another(FAILED)
    note(tmp_path, "resume")
    attempts.give_up("rank 1 ended", is_failure=True)  # which has told of itself
    assert attempts.another(FAILED) and status_of(tmp_path).state == "waiting"
    attempts.give_up("b: does not answer", is_failure=True)
    status = status_of(tmp_path)
    assert (status.state, status.last_life) == ("failed", "b: does not answer")
    assert attempts.another(FAILED)
    attempts.give_up("SIGTERM: asked to end", is_failure=False)
    assert status_of(tmp_path).state == "stopped"


def test_what_is_asked_while_a_launcher_waits_reaches_it(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, 3)
    assert attempts.another(FAILED)
    assert stop(tmp_path) == Stopped(None, [])
    assert attempts.is_stopped() and attempts.is_stopped() and status_of(tmp_path).state == "stopped"
    with pytest.raises(InputError, match="there is nothing to stop"):
        stop(tmp_path)


def test_what_a_life_was_asked_that_died_before_it_could_obey_holds_for_all(tmp_path: Path) -> None:
    StopRequest.of_this_user("of an earlier time").write(tmp_path)
    attempts = Attempts(tmp_path, 3)
    assert attempts.another(FAILED)
    StopRequest.of_this_user("life").write(tmp_path)
    assert not attempts.another(FAILED) and attempts.is_stopped()
    assert [each["event"] for each in read_lines(tmp_path / "events.jsonl")] == ["life_end", "stop"]
    assert not (tmp_path / "stop.json").exists()
