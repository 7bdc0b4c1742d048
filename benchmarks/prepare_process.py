"""Runs a preparation in a process of its own, on one core, and watches what it uses."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
SAMPLES_APART = 0.05
"""Seconds between two looks at the memory."""
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Used:
    """By a process and all that it started."""

    wall: float
    """Seconds, with those of starting Python and of imports."""
    cpu: float
    """Seconds of user and system."""
    peak: int
    """Bytes: the largest sum of proportional set sizes, in which a page that n processes share counts 1/n in each."""


def run(command: Sequence[str | Path], log: Path) -> Used:
    """Runs a Python program on the last of this machine's cores. Its words go into `log`."""
    core = {max(os.sched_getaffinity(0))}
    paths = os.pathsep.join(filter(None, [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH")]))
    with log.open("w") as words:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-P", *command], stdin=subprocess.DEVNULL, stdout=words, stderr=words,
            env=os.environ | ONE_THREAD | {"PYTHONPATH": paths}, preexec_fn=lambda: os.sched_setaffinity(0, core),
        )  # fmt: skip
        try:
            peak = 0
            while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
                peak = max(peak, _proportional(process.pid))
                time.sleep(SAMPLES_APART)
        except BaseException:
            process.kill()
            process.wait()
            raise
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {process.returncode}\n{log.read_text()[-3000:]}")
    return Used(wall, ended[2].ru_utime + ended[2].ru_stime, peak)


def _proportional(pid: int) -> int:
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for each in [parent, *parent.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += each.memory_full_info().pss
    return total
