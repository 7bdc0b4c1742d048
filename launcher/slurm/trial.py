"""`thalweg submit --verify-resume`: how a cluster interrupts a run, and whether it then goes on as if nothing had been.

The beginning of the run is done twice, in RUN_DIR-verify-resume: `straight`, and `killed`, whose lives have Slurm
interrupt them in turn as before a time limit (SIGUSR1 to the batch script) and as at the end of a preemption (requeued
at once). The job of the second one compares both.
"""

import json
import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from data_pipeline.durable import write_whole
from data_pipeline.errors import InputError
from launcher.config import RunConfig, load_run
from launcher.slurm import queue
from launcher.slurm.commands import slurm
from launcher.slurm.site import Site
from launcher.slurm.submission import Submission
from launcher.slurm.submit import Jobs, Wish
from launcher.verify_resume import Choice, Layout, Trial, compare, printed
from training.checkpoint import latest
from training.errors import RunError
from training.run_folder import note, read_lines

INTERRUPTS = 2
POLL = 0.2
TAIL = 64 * 1024
"""Bytes that hold the last line of metrics."""

log = logging.getLogger("thalweg.job")


def trial_jobs(
    run: Path, assignments: list[str], config: RunConfig, site: Site, wish: Wish, steps: int
) -> tuple[Path, Jobs, Jobs]:
    """The folder of both runs, and the jobs of each.

    Raises InputError where the folder is there already, or the data is not.
    """
    folder = config.folder.absolute().with_name(f"{config.folder.name}-verify-resume")
    if folder.exists():
        raise InputError(f"{folder}: is there already; remove it to try again")
    if wish.prepare:
        raise InputError("--prepare: does not go with --verify-resume; prepare the data first")
    trial = Trial(run, assignments, config, steps, folder)
    at = tuple(Choice(steps, INTERRUPTS, config.seed).at)
    wish = replace(wish, nodes=(wish.nodes[1], wish.nodes[1]))  # on other numbers of nodes sums have another order
    straight = Jobs(load_run(run, [*trial.assignments, f"run_dir={folder / 'straight'}"]), site, wish)
    disturbed = Jobs(
        load_run(run, [*trial.assignments, f"run_dir={folder / 'killed'}"]), site, replace(wish, interrupts=at)
    )
    return folder, straight, disturbed


def submit_trial(straight: Jobs, disturbed: Jobs) -> list[tuple[str, str]]:
    """Submits both runs; kind and id of each job. Raises RunError where Slurm refuses one: then neither is queued."""
    done = straight.submit()
    try:
        return [*done, *disturbed.submit(after=done[-1][1])]
    except RunError:
        with suppress(RunError):  # what went wrong first is told
            queue.cancel([job for _, job in done])
        raise


def interrupt_in_time(submission: Submission, job: str) -> None:
    """Has Slurm interrupt this life at its step, in a thread; the lives behind the last one are left alone."""
    run_dir = Path(submission.run_dir)
    life = sum(each["event"] == "life" for each in read_lines(run_dir / "events.jsonl"))
    if life > len(submission.interrupts):
        return
    how = "requeue" if submission.requeue and life % 2 == 0 else "signal"
    step = submission.interrupts[life - 1]
    threading.Thread(target=_interrupt, args=(run_dir, job, step, how), daemon=True).start()


def _interrupt(run_dir: Path, job: str, step: int, how: str) -> None:
    # Only what goes on from a checkpoint shows anything.
    while latest(run_dir) is None or _last_step(run_dir) < step:
        time.sleep(POLL)
    note(run_dir, "interrupt", job=job, how=how)
    commands = {
        "signal": ["scancel", "--batch", "--signal=USR1", job],
        "requeue": ["scontrol", "requeue", job],
    }
    with suppress(RunError):  # it has just ended
        slurm(*commands[how])


def _last_step(run_dir: Path) -> int:
    lines = read_lines(run_dir / "metrics.jsonl", TAIL)
    return int(lines[-1]["step"]) if lines else 0


def holds(config: RunConfig) -> bool:
    """Whether the interrupted run is the undisturbed one; what was compared is written beside both."""
    folder, layout = config.folder.parent, Layout(0, config.zero.stage)
    steps = max((each["step"] for each in read_lines(folder / "straight" / "metrics.jsonl")), default=0)
    verdict = compare(folder, steps, layout, layout, config.train.precision)
    tried = verdict.holds and any(verdict.resumed_at)
    write_whole(folder / "verdict.json", json.dumps(verdict.as_json() | {"tried": tried}, indent=1) + "\n")
    log.info("%s", printed(verdict))
    return tried
