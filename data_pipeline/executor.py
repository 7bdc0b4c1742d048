"""One stage of preparing, task by task, with counts and notes.

A stage's folder holds what datatrove puts there (a completion mark and the statistics of each task), and the
warnings of each task, so that a rerun which skips finished tasks still reports everything.
"""

import json
import logging
from collections import Counter
from pathlib import Path

from data_pipeline.engines.base import Engine, Pipeline

log = logging.getLogger("thalweg.prepare")

Counts = Counter[str]


class Stage:
    """One stage: `tasks` runs of a pipeline of datatrove steps."""

    def __init__(self, folder: Path, tasks: int) -> None:
        self.folder, self.tasks = folder, tasks

    def run(self, pipeline: Pipeline, engine: Engine) -> None:
        """Runs the tasks that are not done, and logs the warnings of all.

        An exception of a task comes out as it is; tasks that were done stay done.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        engine.run(pipeline, self.tasks, self.folder)
        for rank in range(self.tasks):
            for line in (self.folder / "notes" / f"{rank:05d}.txt").read_text(encoding="utf-8").splitlines():
                log.warning(line)

    def done(self, rank: int) -> bool:
        """Whether a task is finished."""
        return (self.folder / "completions" / f"{rank:05d}").exists()

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
