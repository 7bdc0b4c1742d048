"""Asks a run to save and end, by its folder alone."""

import time
from pathlib import Path

from data_pipeline.errors import InputError
from launcher.status import judge, status_of
from training.errors import RunError
from training.fence import Sign, newest_life
from training.run_folder import read_lines
from training.stop_request import StopRequest

POLL = 0.5
"""Seconds between two looks at a run that is to end."""


def stop(run_dir: Path) -> Sign:
    """Asks the life that writes into a run folder to save and end; returns which one it is.

    Raises InputError where none does.
    """
    status, sign = status_of(run_dir), newest_life(run_dir)
    if sign is None or not sign.is_alive:
        why = f": {status.last_life}" if status.last_life else ""
        raise InputError(f"{run_dir}: is not running, there is nothing to stop; it is {status.state}{why}")
    StopRequest.of_this_user(sign.token).write(run_dir)
    return sign


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
