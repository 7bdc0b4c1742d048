"""Slurm: an array of jobs for each stage. The call stays, and waits for them.

Besides what is in the folder of every stage:

    executor.pik, ranks_to_run.json    the pipeline, once for all tasks, and which of them the array runs (datatrove's)
    slurm_logs/<job>_<element>.out     what the jobs print
    errors/00003.pickle                what a task raised
"""

import logging
import math
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import xxhash
from datatrove.executor import SlurmPipelineExecutor
from datatrove.utils.stats import PipelineStats

from data_pipeline.engines.base import Pipeline, Tasks
from data_pipeline.errors import InputError, TaskError

log = logging.getLogger("thalweg.prepare")

MOST_JOBS = 1000
"""Of an array, where Slurm allows more: sites limit the jobs that a user may have in the queue. A job runs several
tasks, one after the other, where there are more."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between two looks at the queue."""
REPORT_EVERY = 60.0
"""Seconds between two lines about what is done."""


@dataclass(frozen=True)
class Slurm:
    """Jobs with `options` of sbatch that begin with lines of shell (`setup`) and run `python` (words of a command).

    At most `workers` run at a time. Slurm runs the job of a lost node again. Tasks of other jobs that ended without a
    word, killed or at their time limit, are submitted again as long as that brings anything to an end.
    """

    options: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    python: tuple[str, ...] = (sys.executable,)
    workers: int | None = None

    def run(self, pipeline: Pipeline, tasks: int, folder: Path) -> None:
        """As `Engine` has it. Jobs leave the queue when this is interrupted, or asked to end by a signal.

        Raises InputError where there is no Slurm.
        """
        stage = _Array(pipeline, tasks, folder, self)
        name = stage.job_name
        before = tasks + 1
        while left := stage.incomplete():
            _check_installed()
            if len(left) == before:
                raise stage.failure(left)
            if before <= tasks:
                log.warning("%s ended without a word: submitted again", _tasks(len(left)))
            before = len(left)
            with _cancelling(name):
                _clear(name)
                stage.submit(left)
                stage.wait()
            stage.raise_error()


class _Array(Tasks, SlurmPipelineExecutor):  # type: ignore[misc]
    """datatrove's array of jobs, without its job for a sum of statistics, and started without a search in PATH."""

    def __init__(self, pipeline: Pipeline, tasks: int, folder: Path, asked: Slurm) -> None:
        super().__init__(
            list(pipeline),
            tasks,
            time="",
            partition="",
            workers=asked.workers or -1,
            job_name=f"prepare-{folder.name}-{xxhash.xxh3_64_hexdigest(str(folder).encode())[:8]}",
            max_array_size=-1,  # never more than one array: `submit` sees to it
            logging_dir=str(folder),
            with_srun=False,
        )
        self._asked = asked
        self.own_folder()

    def incomplete(self) -> list[int]:
        """The tasks that are not done."""
        _look_anew(self.folder / "completions")
        return self.get_incomplete_ranks()  # type: ignore[no-any-return]

    def submit(self, ranks: list[int]) -> None:
        """Submits one array for these tasks."""
        shutil.rmtree(self.folder / "errors", ignore_errors=True)
        (self.folder / "errors").mkdir()
        self.tasks_per_job = math.ceil(len(ranks) / _array_limit())
        try:
            self.launch_job()
        except subprocess.CalledProcessError:
            raise TaskError("sbatch refused the jobs, for the reason above; see site.yaml") from None
        log.info("job %s: %d tasks of %s", self.job_id, len(ranks), self.folder.name)

    def launch_merge_stats(self) -> None:
        """Leaves out that job: nobody reads the sum."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """Those that are not the user's to choose."""
        given = super().get_sbatch_args(max_array)
        return {name: given[name] for name in ("job-name", "array", "requeue")} | {
            "nodes": 1,
            "ntasks": 1,
            # A % stands for something there.
            "output": f"{self.slurm_logs_folder.replace('%', '%%')}/%A_%a.out",
            "open-mode": "append",
        }

    def get_launch_file_contents(self, sbatch_args: dict[str, Any], run_script: str) -> str:
        """The script: datatrove's looks for its program in PATH, and quotes nothing."""
        named = [f"--{name}={shlex.quote(str(value))}" if value else f"--{name}" for name, value in sbatch_args.items()]
        options = [f"#SBATCH {option}" for option in (*named, *self._asked.options)]
        program = ["-P", "-m", "datatrove.tools.launch_pickled_pipeline", str(self.folder / "executor.pik")]
        command = f"exec {shlex.join([*self._asked.python, *program])}"
        return "\n".join(["#!/bin/bash -l", *options, *self._asked.setup, command, ""])

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        try:
            return super()._run_for_rank(rank, local_rank, node_rank)
        except Exception as error:
            partial = self.folder / "errors" / f".{rank:05d}.partial"
            partial.write_bytes(_pickled(error))
            partial.replace(partial.with_name(f"{rank:05d}.pickle"))
            raise

    def wait(self) -> None:
        """Returns when no job is left. After a first error no more are begun."""
        pause, reported, is_stopped = FIRST_PAUSE, time.monotonic(), False
        while (states := _states(self.job_name)) != []:
            if not is_stopped and self._errors():
                subprocess.run(["scancel", "--state=PENDING", f"--name={self.job_name}"], check=False)
                is_stopped = True
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                done = self.tasks - len(self.incomplete())
                jobs = "squeue does not answer" if states is None else f"{states.count('R')} jobs run"
                log.info("%s: %d of %d tasks done, %s", self.folder.name, done, self.tasks, jobs)
            time.sleep(pause)
            pause = min(1.2 * pause, LONGEST_PAUSE)

    def _errors(self) -> list[Path]:
        return sorted((self.folder / "errors").glob("*.pickle"))

    def raise_error(self) -> None:
        """Raises what the first of the tasks that failed raised, if any did."""
        _look_anew(self.folder / "errors")
        for path in self._errors():
            error = pickle.loads(path.read_bytes())
            error.add_note(f"in task {int(path.stem)} of {self.folder}; what it printed is in {self.slurm_logs_folder}")
            raise error

    def failure(self, left: list[int]) -> TaskError:
        """What can be said of tasks that end without a word."""
        printed = sorted(Path(self.slurm_logs_folder).glob(f"{self.job_id}_*.out"))
        what = f"{self.folder}: {_tasks(len(left))} ended without a word"
        if not printed:
            return TaskError(
                f"{what}, and their jobs printed nothing: do the nodes see this folder? It must be on a disk that all "
                f"of them share (`scontrol show job {self.job_id}` may know more)"
            )
        last = printed[0].read_text(errors="replace").splitlines()[-10:]
        return TaskError("\n".join([f"{what}; the last lines of {printed[0]}:", *last]))


def _pickled(error: Exception) -> bytes:
    """An exception as it can be raised elsewhere."""
    try:
        made = pickle.dumps(error)
        pickle.loads(made)
    except Exception:
        return pickle.dumps(TaskError(f"{type(error).__name__}: {error}"))
    return made


def _look_anew(folder: Path) -> None:
    """Has this machine see a folder of NFS as it is, which it does where a name is made by itself."""
    folder.mkdir(exist_ok=True)
    look = folder / ".look"
    look.touch()
    look.unlink()


def _check_installed() -> None:
    if any(shutil.which(program) is None for program in ("sbatch", "squeue", "scancel", "scontrol")):
        raise InputError("--executor slurm: sbatch is not on this machine; run this on a login node of the cluster")


def _array_limit() -> int:
    """The most jobs that an array may have."""
    told = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False).stdout
    sizes = [int(line.split("=")[1]) for line in told.splitlines() if line.startswith("MaxArraySize")]
    return max(1, min(MOST_JOBS, *sizes)) if sizes else MOST_JOBS


def _states(name: str) -> list[str] | None:
    """Slurm's short words for the states of what is left in the queue of a name; None where it does not answer."""
    command = ["squeue", "--noheader", f"--name={name}", "--format=%t"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if told.returncode else told.stdout.split()


def _clear(name: str) -> None:
    """Ends the jobs of an earlier call that was killed."""
    if not _states(name):
        return
    log.info("jobs of an earlier call are taken out of the queue")
    _cancel(name)
    while _states(name) != []:
        time.sleep(FIRST_PAUSE)


def _cancel(name: str) -> None:
    subprocess.run(["scancel", f"--name={name}"], check=False)


@contextmanager
def _cancelling(name: str) -> Iterator[None]:
    """Takes the jobs of a name out of the queue when what is done inside comes to no end of its own."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    asking = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN]
    before = {each: signal.signal(each, leave) for each in asking} if is_main else {}
    try:
        yield
    except BaseException:
        if _states(name) != []:
            _cancel(name)
            log.info("the jobs were taken out of the queue; the same command goes on")
        raise
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count:,} tasks"
