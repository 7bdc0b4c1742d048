"""A rank whose launcher is gone ends itself: nobody would ever end it otherwise."""

import os
import threading
import time

from training.nvme import remove_swapped

LAUNCHER = "THALWEG_LAUNCHER_PID"
"""Set by the launcher for its ranks."""


def end_with_launcher() -> None:
    """Watches, in a thread, whether the launcher that started this rank still runs; does nothing without one."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is not None:
        threading.Thread(target=_watch, args=(int(launcher),), name="launcher-watch", daemon=True).start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(0.2)
    # Nothing can be saved any more: the other ranks are ending, too.
    remove_swapped()
    os._exit(1)
