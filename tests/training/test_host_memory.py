"""Memory that is freed and taken again, by the page faults of a process of its own."""

import platform
import subprocess
import sys

import pytest

from processes import environment
from training.host_memory import KEPT

TAKES = """
import os, resource, sys, threading
from training.host_memory import HUGE_PAGES, keep_freed

os.environ[HUGE_PAGES] = "1"
if sys.argv[1] == "keeps":
    keep_freed()
import torch

def take():
    for _ in range(int(sys.argv[2])):
        torch.ones(2**22)  # 16 MiB, as logits of a small network are

thread = threading.Thread(target=take)
thread.start()
thread.join()
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_minflt, used.ru_maxrss)
"""

TUNED = """
from training import host_memory

host_memory.ctypes = None  # whatever is called fails
host_memory.keep_freed()
print("untouched")
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
def test_freed_memory_is_not_cleared_by_the_kernel_again() -> None:
    (begun, _), (cleared, least), (kept, most) = used("gives back", 0), used("gives back", 100), used("keeps", 100)
    assert kept - begun < 0.3 * (cleared - begun) and most - least < KEPT / 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
@pytest.mark.parametrize("variable", ["MALLOC_TOP_PAD_", "THP_MEM_ALLOC_ENABLE"])
def test_who_tunes_memory_is_left_in_charge(variable: str) -> None:
    command = [sys.executable, "-P", "-c", TUNED]
    done = subprocess.run(command, env=environment() | {variable: "0"}, capture_output=True, text=True, check=True)
    assert done.stdout == "untouched\n"


def used(how: str, times: int) -> tuple[int, int]:
    """Page faults, and the most kB that were held."""
    command = [sys.executable, "-P", "-c", TAKES, how, str(times)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    faults, held = map(int, done.stdout.split())
    return faults, held
