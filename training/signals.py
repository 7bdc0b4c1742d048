"""Signals that ask a run to save and end: SIGTERM, SIGUSR1 (as Slurm sends before a time limit), SIGINT, and SIGHUP.

A handler only notes the signal. The loop asks for it between batches, validation between its forwards, and waiting for
data ends with it, so that all ranks leave together at the end of a step, with a checkpoint. While there is nothing to
save, up to the end of the first step and what is compiled in it, the first one has the process leave where it stands.

A second SIGINT ends the process at once, also where the main thread waits inside of a collective, in which no handler
of Python's runs: a thread hears of signals by the file that the interpreter writes their numbers to.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from training.errors import AskedToEnd
from training.stop_request import StopRequest


def asking() -> list[signal.Signals]:
    """Those that ask this process: SIGHUP, of a terminal that is gone, asks none that nohup has started."""
    known = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP]
    return [each for each in known if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Has `handler` hear of the signals that ask, and whoever did before afterwards. In the main thread only."""
    before = {number: signal.signal(number, handler) for number in asking()}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


class Signals:
    """What this process was sent."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.stop_request: StopRequest | None = None
        self._leaves_at_once = True

    def asked(self) -> bool:
        """Whether this process was asked to end."""
        return bool(self.number)

    @property
    def number(self) -> int:
        """The signal that asks for the end, SIGTERM for `thalweg stop`; 0 where nothing does."""
        return self.received or (signal.SIGTERM if self.stop_request else 0)

    def handle(self) -> None:
        """From now on the signals are noted. Of use in the main thread only."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=_end_at_second_interrupt, args=(reading,), name="signals", daemon=True).start()
        for number in asking():
            signal.signal(number, self._receive)

    def only_note(self) -> None:
        """From now on a signal breaks into nothing."""
        self._leaves_at_once = False

    def only_note_on_all_ranks(self, meet: Callable[[], object]) -> None:
        """The same, from the first call on. Behind `meet`, which waits for all ranks, none leaves at once any more.

        Raises AskedToEnd where another one has left before that and this one was asked to, too.
        """
        if not self._leaves_at_once:
            return
        self.only_note()
        try:
            meet()
        except RuntimeError:
            self._leaves_at_once = True
            if self.asked():
                raise self._nothing_to_save() from None
            raise

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_first, self.received = self.received is None, self.received or signal.Signals(number)
        if is_first and self._leaves_at_once:  # a second one must not break into the leaving
            raise self._nothing_to_save()

    def _nothing_to_save(self) -> AskedToEnd:
        assert self.received is not None
        return AskedToEnd(f"{self.received.name}: asked to end before there was anything to save")


def _end_at_second_interrupt(reading: int) -> None:
    interrupts = 0
    while interrupts < 2:
        interrupts += os.read(reading, 1) == bytes([signal.SIGINT])
    sys.stderr.write("interrupted twice: leaving at once, nothing more is saved\n")
    sys.stderr.flush()
    os._exit(128 + signal.SIGINT)
