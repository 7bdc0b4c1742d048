"""What a rank measures by itself: its device, its machine's memory, disk and limits."""

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

MIB = 2**20
SECONDS = 1.0
"""For which a rate is measured, after a first try that warms things up."""
WRITTEN, BLOCK = 256 * MIB, 16 * MIB
"""Bytes that are written to the run folder at most, and between two fsyncs."""


def matmul_tflops(device: torch.device) -> float:
    """TFLOP/s of square matrix products, in bf16 on a GPU and fp32 on a CPU."""
    size, products, dtype = (8192, 32, torch.bfloat16) if device.type == "cuda" else (1024, 1, torch.float32)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)

    def step() -> None:
        for _ in range(products):
            torch.matmul(left, right, out=out)

    return 2 * size**3 * products / _fastest(step, device) / 1e12


def memory_gb_per_s(device: torch.device) -> float:
    """GB/s read and written while a tensor larger than most caches is copied."""
    size, copies = (1024 * MIB, 16) if device.type == "cuda" else (64 * MIB, 1)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)

    def step() -> None:
        for _ in range(copies):
            target.copy_(source)

    return 2 * size * copies / _fastest(step, device) / 1e9


def _fastest(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of the fastest of many steps: what the device can do while nothing else disturbs it.

    On a GPU a step is a tenth of a second or so, long enough that one with a low clock has no fast one.
    """
    best, end = float("inf"), None
    while end is None or time.perf_counter() < end:
        begun = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if end is None:
            end = time.perf_counter() + SECONDS
        else:
            best = min(best, time.perf_counter() - begun)
    return best


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists: a check leaves nothing behind."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def write_mb_per_s(folder: Path) -> float:
    """MB/s of forced writes to a file in `folder` that has no name, so that nothing stays however this ends.

    Never takes more than a tenth of the free space, nor goes on for long on a slow disk. Raises OSError.
    """
    size = max(MIB, min(WRITTEN, shutil.disk_usage(folder).free // 10))
    block = os.urandom(min(BLOCK, size))
    written, begun = 0, time.perf_counter()
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        while written < size and time.perf_counter() - begun < 2 * SECONDS:
            written += file.write(block)
            os.fsync(file.fileno())
    return written / (time.perf_counter() - begun) / 1e6


def free_gb(folder: Path) -> float:
    """Free space in GB (10^9 bytes)."""
    return shutil.disk_usage(folder).free / 1e9


def shm_free_mib() -> float | None:
    """Free MiB of /dev/shm, through which the ranks of a machine talk; None on a Mac, which has none.

    Raises OSError where it is missing or cannot be written to.
    """
    if sys.platform == "darwin":
        return None
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        file.write(b"\0")
    return shutil.disk_usage("/dev/shm").free / MIB


def open_files() -> int:
    """The soft limit of open files of a process, `ulimit -n`."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
