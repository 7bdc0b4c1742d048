"""Traces of some steps by torch.profiler: of those that were asked for beforehand, or of the next ones at SIGUSR2.

A rank that gets the signal traces its own steps and tells nobody: ranks need not agree, since nothing of it is
a collective. Where a trace is written the other ranks wait at their next collective.
"""

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from training.callback import Callback, StepResult
from training.run import Run
from training.watching_config import ProfileConfig

log = logging.getLogger("thalweg.train")

SIGNAL = signal.SIGUSR2
"""Launchers block it in their ranks, so that one that comes before `on_start` waits instead of ending the process."""

COSTLIEST = 40
"""Operators in the table beside a trace."""


class Profiler(Callback):
    """Traces whole steps, from the end of one to the end of another. The last in the list of callbacks."""

    def __init__(self, config: ProfileConfig) -> None:
        self._config = config
        self._asked = False
        self._running: _Trace | None = None
        self._has_begun = self._listens = False

    def on_start(self, run: Run) -> None:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._listens = True
            signal.signal(SIGNAL, self._ask)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})
        self._begin_if_due(run)

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = True

    def on_step(self, run: Run, result: StepResult) -> None:
        self._move_on(run)

    def on_rollback(self, run: Run) -> None:
        self._move_on(run)

    def _move_on(self, run: Run) -> None:
        if self._running is not None:
            self._running.end_step()
            if self._running.left == 0:
                self._write(run)
        self._begin_if_due(run)

    def on_end(self, run: Run) -> None:
        if self._running is not None:
            self._write(run)
        if self._config.first_step is not None and not self._has_begun and run.engine.rank == 0:
            log.warning(
                "profile.from: no step from %d on was done by this process, which ended at step %d",
                self._config.first_step,
                run.progress.step,
            )

    def on_close(self, run: Run) -> None:
        if self._running is not None:
            self._running.stop()
        if self._listens:  # one that comes too late is to end nothing either
            signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})

    def _begin_if_due(self, run: Run) -> None:
        if run.finished:
            return
        step, chosen = run.progress.step + 1, self._config
        if self._running is None:
            left = chosen.steps if self._asked else 0
            if chosen.first_step is not None and (chosen.ranks == "all" or run.engine.rank == 0):
                behind = step - chosen.first_step
                left = max(left, chosen.steps - behind if behind >= 0 else 0)
            if left > 0:
                self._asked, self._has_begun = False, True
                self._running = _Trace(step, left, on_gpu=run.engine.device.type == "cuda")
        if self._running is not None:
            self._running.begin_step(step)

    def _write(self, run: Run) -> None:
        trace, self._running = self._running, None
        assert trace is not None
        trace.stop()
        path = run.folder.path / "profiles" / f"step-{trace.first:07d}-rank-{run.engine.rank:05d}.json.gz"
        # Ranks but the first show warnings only, and whoever asked them wants to know.
        say = log.info if run.engine.rank == 0 else log.warning
        try:
            trace.write(path)
        except OSError as error:
            log.warning("profile: %s cannot be written (%s); the run goes on without it", path, error)
            return
        say("profile: %s has steps %d to %d, %s the costliest operators", path, trace.first, trace.last, trace.table)
        run.folder.event("profile", run.progress.step, run.tokens, path=path.name, first=trace.first, last=trace.last)


class _Trace:
    """Some steps while they are traced."""

    def __init__(self, first: int, steps: int, *, on_gpu: bool) -> None:
        self.first, self.last, self.left = first, first - 1, steps
        self.table = ""
        self._order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        self._profile = profile(activities=activities, record_shapes=True)
        self._profile.start()
        self._step: record_function | None = None

    def begin_step(self, step: int) -> None:
        """Gives what follows the name of the step."""
        self._step = record_function(f"step {step}")
        self._step.__enter__()

    def end_step(self) -> None:
        """One step less is left."""
        self._leave()
        self.last, self.left = self.last + 1, self.left - 1

    def _leave(self) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
        self._step = None

    def stop(self) -> None:
        """Ends it."""
        self._leave()
        self._profile.stop()

    def write(self, path: Path) -> None:
        """The trace as JSON, for chrome://tracing or Perfetto, and beside it a table of operators, as text."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name.removesuffix('.json.gz')}.partial.json.gz")
        self._profile.export_chrome_trace(str(partial))
        partial.replace(path)
        table = path.with_name(path.name.removesuffix(".json.gz") + ".txt")
        table.write_text(self._profile.key_averages().table(sort_by=self._order, row_limit=COSTLIEST) + "\n")
        self.table = os.fspath(table.name)
