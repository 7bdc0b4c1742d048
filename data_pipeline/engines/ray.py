"""Ray: the cluster of RAY_ADDRESS, or one of this machine that begins and ends with this process."""

import logging
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from data_pipeline.engines.base import Pipeline, ProcessTasks
from data_pipeline.errors import InputError, TaskError

AHEAD = 1000
"""Tasks that wait in Ray's own queue, by which a cluster that grows sees how much there is to do."""


@dataclass(frozen=True)
class Ray:
    """A task on each CPU of the cluster, or at most `workers` at a time.

    Ray runs a task again whose process or node dies, three times. What fails by itself is not tried again.
    """

    workers: int | None = None

    def run(self, pipeline: Pipeline, tasks: int, folder: Path) -> None:
        """As `Engine` has it. Raises InputError where Ray is not installed."""
        stage = ProcessTasks(pipeline, tasks, folder)
        ranks = stage.get_incomplete_ranks()
        if not ranks:
            return
        ray = _started(self.workers)
        run_task = ray.remote(num_cpus=1, max_retries=3)(ProcessTasks.run_task)
        shared, left = ray.put(stage), iter(ranks)
        at_once, running = self.workers or AHEAD, list[Any]()
        try:
            while running := running + [run_task.remote(shared, rank) for rank in islice(left, at_once - len(running))]:
                done, running = ray.wait(running)
                _results(ray, done)
        except BaseException:
            for task in running:
                ray.cancel(task, force=True)
            raise


def _results(ray: Any, tasks: list[Any]) -> None:
    """Raises what one of the tasks raised, as it did."""
    try:
        ray.get(tasks)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        if not isinstance(cause, ray.exceptions.RayError):
            raise cause from None
        raise TaskError(f"Ray lost a task: {str(cause).splitlines()[0]}") from None


def _started(workers: int | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise InputError("--executor ray: Ray is not installed; pip install 'thalweg[ray]'") from None
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        own: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
        except ConnectionError as error:
            raise InputError(f"RAY_ADDRESS: nothing answers at {address}: {error}") from None
    return ray
