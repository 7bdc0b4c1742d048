"""Where log lines go: stderr, so that stdout holds results alone."""

import logging
import sys


class _ToStderr(logging.Handler):
    """Looks stderr up at each line: a progress bar stands in for it while it is shown, to keep lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")
        sys.stderr.flush()


def log_to_stderr(quiet: bool = False) -> None:
    """Plain lines with the time of day; `quiet` leaves only warnings, for all ranks but the first."""
    handler = _ToStderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("thalweg")
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
