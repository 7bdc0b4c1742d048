"""datatrove's local executor, made silent: one stage of preparing, task by task, with counts and notes.

A stage's folder holds what datatrove puts there (a completion mark and the statistics of each task), and the
warnings of each task, so that a rerun which skips finished tasks still reports everything.
"""

import json
import logging
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from copy import copy
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import xxhash
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.stats import PipelineStats, Stats
from filelock import FileLock
from loguru import logger as loguru_logger

from data_pipeline.durable import write_whole

log = logging.getLogger("thalweg.prepare")

Counts = Counter[str]


class _Notes(logging.Handler):
    """Keeps the warnings of a task in place of showing them from inside a worker process."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


_of_this_worker: "_Executor"


def _run_rank(rank: int) -> None:
    _of_this_worker.for_one_task()._run_for_rank(rank)


def _begin_worker(executor: "_Executor") -> None:
    """Hands over the tasks, once, and lets a worker end with the process that it works for, however that ends."""
    global _of_this_worker
    _of_this_worker = executor
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


class _Executor(LocalPipelineExecutor):  # type: ignore[misc]
    """datatrove's tasks in processes that do not outlive a killed run, as those of its own pool and manager do."""

    def run(self) -> None:
        """Runs the tasks that are not done. After an exception no more are begun, and it is raised."""
        loguru_logger.disable("datatrove")
        ranks = self.get_incomplete_ranks()
        if self.workers == 1 or len(ranks) < 2:
            for rank in ranks:
                self.for_one_task()._run_for_rank(rank)
            return
        context = multiprocessing.get_context("forkserver")
        # Preloading would import the main module before the search path is put right, in the working directory.
        context.set_forkserver_preload([])
        with ProcessPoolExecutor(min(self.workers, len(ranks)), context, _begin_worker, (self,)) as pool:
            try:
                for done in as_completed([pool.submit(_run_rank, rank) for rank in ranks]):
                    done.result()
            except BrokenProcessPool:
                raise RuntimeError("a worker process died, perhaps for want of memory: use fewer workers") from None
            except KeyboardInterrupt:
                for worker in multiprocessing.active_children():
                    worker.terminate()
                raise
            finally:
                pool.shutdown(cancel_futures=True)

    def for_one_task(self) -> "_Executor":
        """A copy whose steps count from zero; copying them whole would copy the list of all tasks each time."""
        fresh = copy(self)
        fresh.pipeline = [copy(step) for step in self.pipeline]
        for step in fresh.pipeline:
            step.stats = Stats(step.name)
        return fresh

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
        path.write_text("".join(line + "\n" for line in self._notes.lines), encoding="utf-8")
        super().mark_rank_as_completed(rank)


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

    def run(self, pipeline: Sequence[PipelineStep | Callable[..., Any]], workers: int) -> None:
        """Runs the tasks that are not done, and logs the warnings of all.

        An exception of a task comes out as it is; tasks that were done stay done.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._forget_others()
        _Executor(list(pipeline), self.tasks, workers, str(self.folder)).run()
        for rank in range(self.tasks):
            for line in (self.folder / "notes" / f"{rank:05d}.txt").read_text(encoding="utf-8").splitlines():
                log.warning(line)

    def _forget_others(self) -> None:
        """Lets tasks run again that were done under another key."""
        path = self.folder / "keys.json"
        before: list[str] = json.loads(path.read_text()) if path.exists() else []
        done = [int(mark.name) for mark in (self.folder / "completions").glob("*")]
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
