"""How a job talks to Slurm, against programs that answer as Slurm 22.05 does."""

import os
from pathlib import Path

import pytest

from launcher.slurm import commands
from launcher.slurm.commands import back_to_the_queue
from training.errors import RunError

SCONTROL = """#!/bin/sh
echo "$@" >> asked
test "$(wc -l < asked)" -lt "$BACK_AT" && here=DOWN || here=UP
test "$1" != ping || { echo "Slurmctld(primary) at ctl is $here"; exit; }
test $here = UP || { echo "Unexpected message received for job 7" >&2; exit 1; }
test ! -e refuses || { echo "Requested operation is presently disabled for job 7" >&2; exit 1; }
"""


@pytest.fixture(autouse=True)
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes what it is asked; the controller is away until the sixth question."""
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("BACK_AT", "6")
    monkeypatch.setattr(commands, "PAUSE", 0.0)
    monkeypatch.chdir(tmp_path)


def test_a_controller_that_is_away_when_a_life_ends_is_waited_for() -> None:
    back_to_the_queue("7", [])
    assert Path("asked").read_text().splitlines() == ["requeue 7", "ping"] * 3 + ["requeue 7"]


def test_what_a_controller_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACK_AT", "0")
    Path("refuses").touch()
    with pytest.raises(RunError, match="scontrol requeue 7: Requested operation is presently disabled for job 7"):
        back_to_the_queue("7", [])
    assert Path("asked").read_text().splitlines() == ["requeue 7", "ping", "requeue 7"]


def test_a_controller_that_does_not_come_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACK_AT", "99999")
    monkeypatch.setattr(commands, "AWAY", 0.1)
    with pytest.raises(RunError, match="Unexpected message received"):
        back_to_the_queue("7", [])
