"""One stage of preparing, task by task, with counts and notes.

A stage's folder holds what datatrove puts there (a completion mark and the statistics of each task), and the
warnings of each task, so that a rerun which skips finished tasks still reports everything.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import orjson
import xxhash

from data_pipeline.durable import write_whole
from data_pipeline.engines.base import Engine, Pipeline, own

log = logging.getLogger("thalweg.prepare")

Counts = Counter[str]


class Stage:
    """One stage: runs of a pipeline of datatrove steps, one a key.

    A task's key is the hash of all that decides its outcome. What was done under another key is done again.
    """

    def __init__(self, folder: Path, keys: Sequence[str]) -> None:
        self.folder, self.keys = folder, list(keys)

    @property
    def tasks(self) -> int:
        """Their number."""
        return len(self.keys)

    def run(self, pipeline: Pipeline, engine: Engine) -> None:
        """Runs the tasks that are not done, and logs the warnings of all.

        An exception of a task comes out as it is; tasks that were done stay done.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        own(self.folder)  # first: what still runs for an earlier call marks nothing as done under new keys
        self._forget_others()
        engine.run(pipeline, self.tasks, self.folder)
        for rank in range(self.tasks):
            for line in (self.folder / "notes" / f"{rank:05d}.txt").read_text(encoding="utf-8").splitlines():
                log.warning(line)

    def _forget_others(self) -> None:
        """Lets tasks run again that were done under another key."""
        path = self.folder / "keys.json"
        before: list[str] = json.loads(path.read_text()) if path.exists() else []
        done = [int(mark.name) for mark in (self.folder / "completions").glob("[0-9]*")]
        for rank in done:
            if before[rank : rank + 1] != self.keys[rank : rank + 1] or rank >= self.tasks:
                self.forget(rank)
        if before != self.keys:
            # Last: a crash before leaves the old keys, and what is done again is forgotten then.
            write_whole(path, json.dumps(self.keys))

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


def key_of(*parts: object) -> str:
    """The key of a task: the hash of what decides its outcome, JSON values."""
    return xxhash.xxh3_128_hexdigest(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS))


def hash_of(path: Path) -> str:
    """The hash of a file's contents."""
    with path.open("rb") as file:
        hashed = xxhash.xxh3_128()
        while part := file.read(2**20):
            hashed.update(part)
    return hashed.hexdigest()
