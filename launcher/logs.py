"""Where log lines go: stderr, so that stdout holds results alone."""

import logging
import sys


def log_to_stderr(quiet: bool = False) -> None:
    """Plain lines with the time of day; `quiet` leaves only warnings, for all ranks but the first."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("thalweg")
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
