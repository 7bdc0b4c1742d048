"""Where log lines go: stderr, so that stdout holds results alone."""

import errno
import logging
import os
import sys
from typing import Any, TextIO


class _ToStderr(logging.Handler):
    """Looks stderr up at each line: a progress bar stands in for it while it is shown, to keep lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")
        sys.stderr.flush()


class Enduring:
    """A stream of which a terminal that goes away is no failure: what is written then is lost, and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As that of the stream."""
        try:
            return self._stream.write(text)
        except OSError as error:
            write_nowhere(error, self._stream.fileno())
            return len(text)

    def flush(self) -> None:
        """As that of the stream."""
        try:
            self._stream.flush()
        except OSError as error:
            write_nowhere(error, self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def write_nowhere(error: OSError, descriptor: int) -> None:
    """Spares the next writer the error of a terminal or a pipe that has gone. Raises any other error again."""
    if error.errno not in (errno.EIO, errno.EPIPE):
        raise error
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def log_to_stderr(quiet: bool = False) -> None:
    """Plain lines with the time of day; `quiet` leaves only warnings, for all ranks but the first."""
    handler = _ToStderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("thalweg")
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
