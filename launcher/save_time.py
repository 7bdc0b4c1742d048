"""How long a run's checkpoints have taken, from which the patience of whoever waits for one follows."""

import os
from pathlib import Path

from training.run_folder import read_lines

SHUTDOWN_SECONDS = 30
"""Torch's own default between SIGTERM and SIGKILL."""
MARGIN = 3
RECENT = 10
"""So many checkpoints tell how long one takes: a slow one of long ago must not shorten all lives after it."""


def longest_save(run_dir: Path) -> float | None:
    """Seconds that the slowest of the last checkpoints took; None where there was none."""
    lines = read_lines(run_dir / "events.jsonl")
    return max([line["seconds"] for line in lines if line["event"] == "checkpoint"][-RECENT:], default=None)


def shutdown_timeout(run_dir: Path) -> int:
    """Seconds that processes have to end once asked to: three times the slowest save, at least torch's own."""
    least = int(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS))
    return max(least, round(MARGIN * (longest_save(run_dir) or 0)))
