"""Runs one measurement in a process of its own and watches what memory it and its children hold."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stream_contenders import anonymous_bytes

SAMPLES_APART = 0.02
"""Seconds between two looks at the memory, which take 1 % of a core or less."""


class BrokenError(Exception):
    """A measurement without which a part of the result cannot be."""


def measure(command: Sequence[str | Path], log: Path, timeout: float) -> dict[str, Any]:
    """What a command tells as JSON, with `peak`: anonymous bytes of it and its children together, at most.

    Failures come back as {"error": ...}; what the command says besides is appended to `log`.
    """
    with log.open("a") as words:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=words, stdin=subprocess.DEVNULL, text=True, start_new_session=True
        )
        try:
            peak = _watch(process, time.monotonic() + timeout)
            if peak is None:
                return {"error": f"did not end within {timeout:.0f} s"}
            told, _ = process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):  # workers that outlive their process, or all of them
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not told:
        return {"error": f"ended with exit code {process.returncode} and told nothing"}
    answer: dict[str, Any] = json.loads(told)
    return answer | {"peak": peak}


def _watch(process: "subprocess.Popen[str]", until: float) -> int | None:
    """The most it held, or None if it went on beyond `until`."""
    peak = 0
    while process.poll() is None:
        if time.monotonic() > until:
            return None
        peak = max(peak, sum(_anonymous(each) for each in _tree(process.pid)))
        time.sleep(SAMPLES_APART)
    return peak


def _anonymous(process: int) -> int:
    try:
        return anonymous_bytes(Path(f"/proc/{process}/status"))
    except (OSError, StopIteration):  # it has ended, or has given its memory back and is about to
        return 0


def _tree(process: int) -> Iterator[int]:
    """A process and all below it."""
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield from _tree(int(child))
