"""datatrove's local executor, made silent: one stage of preparing, task by task, with counts and notes.

A stage's folder holds what datatrove puts there (a completion mark and the statistics of each task), and the
warnings of each task, so that a rerun which skips finished tasks still reports everything.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import multiprocess  # type: ignore[import-untyped]
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.stats import PipelineStats
from filelock import FileLock
from loguru import logger as loguru_logger

log = logging.getLogger("thalweg.prepare")

Counts = Counter[str]


class _Notes(logging.Handler):
    """Keeps the warnings of a task in place of showing them from inside a worker process."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class _Executor(LocalPipelineExecutor):  # type: ignore[misc]
    """Runs a task only while nobody else does: the worker of a killed run may outlive it by a task."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        loguru_logger.disable("datatrove")
        folder = Path(self.logging_dir.path)
        (folder / "locks").mkdir(exist_ok=True)
        self._notes = _Notes()
        propagate, log.propagate = log.propagate, False
        log.addHandler(self._notes)
        try:
            with FileLock(folder / "locks" / f"{rank:05d}"):
                return super()._run_for_rank(rank, local_rank, node_rank)
        finally:
            log.removeHandler(self._notes)
            log.propagate = propagate

    def mark_rank_as_completed(self, rank: int) -> None:
        """Saves the warnings first: a task that is done has them."""
        path = Path(self.logging_dir.path, "notes", f"{rank:05d}.txt")
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(line + "\n" for line in self._notes.lines))
        super().mark_rank_as_completed(rank)


class Stage:
    """One stage: `tasks` runs of a pipeline of datatrove steps."""

    def __init__(self, folder: Path, tasks: int) -> None:
        self.folder, self.tasks = folder, tasks

    def run(self, pipeline: Sequence[PipelineStep | Callable[..., Any]], workers: int) -> None:
        """Runs the tasks that are not done, and logs the warnings of all.

        An exception of a task comes out as it is; tasks that were done stay done.
        """
        loguru_logger.disable("datatrove")
        # Preloading would import the main module before the search path is put right, in the working directory.
        multiprocess.get_context("forkserver").set_forkserver_preload([])
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.tasks:
            workers = max(1, min(workers, self.tasks))
            _Executor(list(pipeline), self.tasks, workers, str(self.folder), start_method="forkserver").run()
        for rank in range(self.tasks):
            for line in (self.folder / "notes" / f"{rank:05d}.txt").read_text().splitlines():
                log.warning(line)

    def forget(self, rank: int) -> None:
        """Lets a task run again."""
        (self.folder / "completions" / f"{rank:05d}").unlink(missing_ok=True)

    def counts(self, rank: int) -> Counts:
        """What the steps of a finished task counted."""
        total: Counts = Counter()
        for step in json.loads((self.folder / "stats" / f"{rank:05d}.json").read_text()):
            for name, value in step["stats"].items():
                total[name] += int(value["total"] if isinstance(value, dict) else value)
        return total
