"""A life of a job where its own machine fails it. Lives on a real Slurm are in tests/cluster."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.config import load_run
from launcher.slurm import job
from launcher.slurm.submission import Submission
from processes import events, write_run


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], job.Life]:
    """Makes one that is a restart of its job; what it asks Slurm for stands in `asked`."""
    config = load_run(write_run(tmp_path), [f"run_dir={tmp_path / 'run'}"])
    monkeypatch.setattr(job, "hostnames", lambda nodes: ["node1"])
    monkeypatch.setattr(job, "job_record", lambda number: {"Restarts": number})
    monkeypatch.setattr(job, "back_to_the_queue", lambda number, left_out: (tmp_path / "asked").write_text(number))
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node1")
    monkeypatch.setattr(job.signal, "signal", lambda number, handler: None)

    def make(restarts: int) -> job.Life:
        monkeypatch.setenv("SLURM_JOB_ID", str(restarts))  # so that job_record tells as many restarts
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        told = Submission(str(config.folder), 1.0, "t", "s", "c", "python", (1, 1), 1, 300, True, 3, False)
        return job.Life(told, config)

    return make


def test_what_goes_wrong_in_a_life_is_its_failure_and_not_the_runs_end(
    life: Callable[[int], job.Life], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: job.Life) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job.Life, "_train", fails)
    for then in ("again", "again", "ended"):
        (tmp_path / "asked").unlink(missing_ok=True)
        assert life(0).live() == 1
        told = events(tmp_path / "run")[-1]
        assert told["event"] == "life_end" and told["then"] == then and "No space left" in told["reason"]
        assert (tmp_path / "asked").exists() == (then == "again")


def test_a_disk_that_is_away_is_waited_for_and_a_run_that_is_done_is_not_done_again(
    life: Callable[[int], job.Life], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, away = job.read_lines, [True, True]

    def sometimes(path: Path, last: int | None = None) -> list[dict]:
        if last is None and away:
            away.pop()
            raise OSError(116, "Stale file handle")
        return read(path, last)

    def fails(*told: object) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(job, "read_lines", sometimes)
    monkeypatch.setattr(job, "LOOKS", 0.0)
    monkeypatch.setattr(job.Life, "_train", lambda self: job.Verdict("finished", "the run is done"))
    monkeypatch.setattr(job.Life, "_waiting", fails)
    monkeypatch.setattr(job, "slurm", fails)
    one = life(0)
    one._submission = replace(one._submission, requeue=False)
    assert one.live() == 1 and not away
    assert [each["then"] for each in events(tmp_path / "run") if each["event"] == "life_end"] == ["finished"]


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_life_that_cannot_write_its_story_goes_on_and_not_for_ever(
    life: Callable[[int], job.Life], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: int
) -> None:
    def full(*arguments: object, **details: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job, "note", full)
    monkeypatch.setattr(job.Life, "_train", full)
    assert life(restarts).live() == 1
    assert (tmp_path / "asked").exists() == (restarts == 1)
