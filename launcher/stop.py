"""Asks a run to save and end, by its folder alone, and takes its jobs out of Slurm's queue."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import InputError
from launcher.slurm import queue
from launcher.slurm.submission import FOLDER, read_submission
from launcher.status import judge, status_of
from training.errors import RunError
from training.fence import Sign, newest_life
from training.run_folder import note, read_lines
from training.stop_request import StopRequest

POLL = 0.5
"""Seconds between two looks at a run that is to end."""


@dataclass(frozen=True)
class Stopped:
    """What was done."""

    life: Sign | None
    """The one that was asked to save and end; None where none was writing: there will be no other."""
    jobs: list[str]
    """Ids of the jobs that were taken out of the queue."""


def stop(run_dir: Path) -> Stopped:
    """Asks the life that writes into a run folder to save and end, and takes jobs out of the queue that wait.

    Where no life writes yet, a job that is just starting is ended, too, and a launcher that waits to start again ends.
    Raises InputError where there is nothing to stop.
    """
    status, sign = status_of(run_dir), newest_life(run_dir)
    if sign is not None and sign.is_alive:
        StopRequest.of_this_user(sign.token).write(run_dir)
        return Stopped(sign, _dequeued(run_dir, only_waiting=True))
    if _launcher_waits(run_dir):
        StopRequest.of_this_user("").write(run_dir)
        return Stopped(None, [])
    if jobs := _dequeued(run_dir):
        request = StopRequest.of_this_user("")
        note(run_dir, "stop", by=request.by, asked=request.time)
        return Stopped(None, jobs)
    why = f": {status.last_life}" if status.last_life else ""
    if _is_submitted(run_dir) and not _is_slurm_here():
        why += "; if it waits in a queue, stop it where Slurm's commands are"
    raise InputError(f"{run_dir}: is not running, there is nothing to stop; it is {status.state}{why}")


def _launcher_waits(run_dir: Path) -> bool:
    """Whether one is to start the run again, and no life has begun since it said so."""
    last = read_lines(run_dir / "events.jsonl")[-1:]
    return bool(last) and last[0]["event"] == "life_end" and last[0]["then"] == "again" and "job" not in last[0]


def _dequeued(run_dir: Path, *, only_waiting: bool = False) -> list[str]:
    """The ids of the run's jobs that were taken out of the queue; none where it was not submitted, or not from here."""
    if not (_is_submitted(run_dir) and _is_slurm_here()):
        return []
    name = read_submission(run_dir).name
    jobs = queue.queued(name, f"{name}-prepare", only_waiting=only_waiting)
    if jobs:
        queue.cancel(jobs)
    return jobs


def _is_submitted(run_dir: Path) -> bool:
    return (run_dir / FOLDER / "submission.json").is_file()


def _is_slurm_here() -> bool:
    return shutil.which("squeue") is not None


def wait(run_dir: Path, asked: Sign) -> str:
    """Waits until that life has ended, and says how. Raises RunError where it failed or shows no sign of life."""
    while (sign := newest_life(run_dir)) is not None and sign.token == asked.token and sign.is_alive:
        time.sleep(POLL)
    events = read_lines(run_dir / "events.jsonl")
    if sign is not None and sign.token != asked.token:  # the next one has begun
        events, sign = [line for line in events if line["time"] < sign.told["time"]], None
    state, why = judge(events, sign)
    told = f"{run_dir}: {state}, at step {events[-1]['step'] if events else 0}: {why}"
    if state in ("ended", "stopped"):
        return told
    raise RunError(told)
