"""What all engines have in common: a task runs in the same way wherever it runs."""

import logging
import uuid
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from socket import gethostname
from typing import Protocol

from datatrove.executor import LocalPipelineExecutor
from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.stats import PipelineStats, Stats
from filelock import FileLock
from loguru import logger as loguru_logger

from data_pipeline.durable import write_whole
from data_pipeline.errors import TaskError

log = logging.getLogger("thalweg.prepare")

Pipeline = Sequence[PipelineStep]


class Engine(Protocol):
    """Where the tasks of a stage run."""

    def run(self, pipeline: Pipeline, tasks: int, folder: Path) -> None:
        """Runs those of `tasks` that are not done; the stage's `folder` says which are.

        After an exception of a task no more are begun, and it is raised. Raises TaskError where processes or nodes
        fail.
        """


class Tasks(PipelineExecutor):  # type: ignore[misc]
    """datatrove's way to run a task, made silent, with its warnings kept in the folder of the stage.

    A task that is still running for an earlier call of which the processes were lost sight of, such as jobs of Slurm,
    cannot mark as done what this call runs: whoever calls last owns the folder.
    """

    @property
    def folder(self) -> Path:
        """The folder of the stage."""
        return Path(self.logging_dir.path)

    def own_folder(self) -> None:
        """Makes the folder that of this call."""
        loguru_logger.disable("datatrove")
        self._call = own(self.folder)

    def save_executor_as_json(self, indent: int = 4) -> None:
        """Leaves out a copy for human eyes, as long as the list of all tasks."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        loguru_logger.disable("datatrove")
        if not self.folder.is_dir():
            raise TaskError(f"{self.folder}: is not there on {gethostname()}; it must be on a disk that all share")
        (self.folder / "locks").mkdir(exist_ok=True)
        task, notes = self._for_one_task(), _Notes()
        task._notes = notes
        propagate, log.propagate = log.propagate, False
        log.addHandler(notes)
        try:
            with FileLock(self.folder / "locks" / f"{rank:05d}"):
                return super(Tasks, task)._run_for_rank(rank, local_rank, node_rank)
        finally:
            log.removeHandler(notes)
            log.propagate = propagate

    def _for_one_task(self) -> "Tasks":
        """A copy whose steps count from zero; copying them whole would copy the list of all tasks each time."""
        fresh = copy(self)
        fresh.pipeline = [copy(step) for step in self.pipeline]
        for step in fresh.pipeline:
            step.stats = Stats(step.name)
        return fresh

    def mark_rank_as_completed(self, rank: int) -> None:
        """Saves the warnings first: a task that is done has them."""
        if (self.folder / "call").read_text() != self._call:
            raise TaskError(f"{self.folder}: belongs to a later call; what this one made is left out")
        path = self.folder / "notes" / f"{rank:05d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(line + "\n" for line in self._notes.lines), encoding="utf-8")
        super().mark_rank_as_completed(rank)


def own(folder: Path) -> str:
    """Makes the folder of a stage that of a call, whose word is returned."""
    call = uuid.uuid4().hex
    write_whole(folder / "call", call)
    return call


class ProcessTasks(Tasks, LocalPipelineExecutor):  # type: ignore[misc]
    """Tasks of which an engine hands each to a process."""

    def __init__(self, pipeline: Pipeline, tasks: int, folder: Path) -> None:
        super().__init__(list(pipeline), tasks, logging_dir=str(folder))
        self.own_folder()

    def run_task(self, rank: int) -> None:
        """Runs one, unless it is done."""
        self._run_for_rank(rank)


class _Notes(logging.Handler):
    """Keeps the warnings of a task in place of showing them from inside a worker process."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
