"""Where commands print their tables."""

import sys

from rich.console import Console


def console() -> Console:
    """As wide as the terminal, or wide enough for every table where none is there."""
    return Console(width=None if sys.stdout.isatty() else 160)
