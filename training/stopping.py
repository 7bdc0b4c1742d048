"""Obeys `thalweg stop`: rank 0 looks for the request, and all ranks save and leave as if they had got a signal.

A request that comes before the first step leaves no rank where it stands, as a signal does: all leave together, behind
the step that is under way.
"""

import logging
import math
import threading
from contextlib import suppress

from training import stop_request
from training.callback import Callback
from training.errors import RunError
from training.run import Run
from training.run_folder import read_lines
from training.stop_request import StopRequest

log = logging.getLogger("thalweg.train")

BEGINNINGS = ("start", "resume")
POLL = 1.0
"""Seconds between two looks. Disks of a network may show a file a minute late."""


class Stopping(Callback):
    """Of use on rank 0 only."""

    def __init__(self) -> None:
        self._since = math.inf
        self._request: StopRequest | None = None
        self._told = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def on_start(self, run: Run) -> None:
        if run.engine.rank == 0:
            self._since = _started_again_since(run)
            self._thread = threading.Thread(target=self._watch, args=(run,), name="stop-request", daemon=True)
            self._thread.start()

    def _watch(self, run: Run) -> None:
        void = stop_request.read(run.folder.path)
        if void is not None and not self._is_for(run, void):
            log.info("a request of %s to stop is void: it was for a life before this one", void.by)
            _remove(run)
        while not self._look(run) and not self._closed.wait(POLL):
            pass

    def _look(self, run: Run) -> bool:
        """Whether this life is asked to end."""
        request = stop_request.read(run.folder.path)
        if self._request is None and request is not None and self._is_for(run, request):
            self._request = run.signals.stop_request = request
            log.info("`thalweg stop` of %s: saves and ends", request.by)
        return self._request is not None

    def _is_for(self, run: Run, request: StopRequest) -> bool:
        """Of this life, or of the run while its launcher was starting this one."""
        is_ours = run.folder.staging is not None and run.folder.staging.name == request.life
        return is_ours or request.time >= self._since

    def on_end(self, run: Run) -> None:
        self._tell(run)

    def on_close(self, run: Run) -> None:
        """One that came while the run was ending for another reason counts, too: nobody is to start it again."""
        if self._thread is None:
            return
        self._closed.set()
        self._thread.join()
        if self._look(run):
            with suppress(RunError, OSError):
                self._tell(run)
            _remove(run)

    def _tell(self, run: Run) -> None:
        if self._request is not None and not self._told:
            self._told = True
            asked = {"by": self._request.by, "asked": self._request.time}
            run.folder.event("stop", run.progress.step, run.tokens, **asked)


def _started_again_since(run: Run) -> float:
    """When a launcher noted that it starts again, with this life; infinite where none did."""
    told = [line for line in read_lines(run.folder.path / "events.jsonl") if line["event"] in ("life_end", *BEGINNINGS)]
    before = told[-2] if len(told) > 1 and told[-1]["event"] in BEGINNINGS else told[-1] if told else {}
    is_launchers = before.get("event") == "life_end" and before["then"] == "again" and "job" not in before
    return float(before["time"]) if is_launchers else math.inf


def _remove(run: Run) -> None:
    with suppress(RunError, OSError):
        run.folder.check()
        stop_request.path_of(run.folder.path).unlink(missing_ok=True)
