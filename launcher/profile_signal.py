"""SIGUSR2, which asks for a profile: kept waiting until a rank can take it, and passed on by the launcher."""

import contextlib
import os
import signal
import threading

import psutil

SIGNAL = signal.SIGUSR2


def hold_back() -> None:
    """Blocks the signal in this process and all that it starts: by itself it would end them.

    A rank that is ready for it lets it through (training.profiler). Before any thread is started.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})


def pass_on(*, to_all: bool) -> None:
    """Sends what the launcher gets, once held back, to its ranks or to the first of them; in a thread, for good."""
    threading.Thread(target=_pass_on, args=(to_all,), name="profile-signal", daemon=True).start()


def _pass_on(to_all: bool) -> None:
    while True:
        signal.sigwait({SIGNAL})
        for rank in psutil.Process().children():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                local = rank.environ().get("LOCAL_RANK")
                if local == "0" or (to_all and local is not None):
                    os.kill(rank.pid, SIGNAL)
