"""Processes of this machine."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from data_pipeline.engines.base import Pipeline, ProcessTasks
from data_pipeline.errors import TaskError


@dataclass(frozen=True)
class Local:
    """So many tasks at a time, in processes that do not outlive a killed call, as those of datatrove's pool do."""

    workers: int = os.cpu_count() or 1

    def run(self, pipeline: Pipeline, tasks: int, folder: Path) -> None:
        """As `Engine` has it."""
        stage = ProcessTasks(pipeline, tasks, folder)
        ranks = stage.get_incomplete_ranks()
        if self.workers == 1 or len(ranks) < 2:
            for rank in ranks:
                stage.run_task(rank)
            return
        context = multiprocessing.get_context("forkserver")
        # Preloading would import the main module before the search path is put right, in the working directory.
        context.set_forkserver_preload([])
        with ProcessPoolExecutor(min(self.workers, len(ranks)), context, _begin_worker, (stage,)) as pool:
            try:
                for done in as_completed([pool.submit(_run_task, rank) for rank in ranks]):
                    done.result()
            except BrokenProcessPool:
                raise TaskError("a worker process died, perhaps for want of memory: use fewer workers") from None
            except KeyboardInterrupt:
                for worker in multiprocessing.active_children():
                    worker.terminate()
                raise
            finally:
                pool.shutdown(cancel_futures=True)


_of_this_worker: ProcessTasks


def _run_task(rank: int) -> None:
    _of_this_worker.run_task(rank)


def _begin_worker(stage: ProcessTasks) -> None:
    """Hands over the tasks, once, and lets a worker end with the process that it works for, however that ends."""
    global _of_this_worker
    _of_this_worker = stage
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
