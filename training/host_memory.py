"""Host memory that costs a step little: huge pages, and what is freed is kept for the next step."""

import ctypes
import os
import platform

# Numbers of malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8

LARGEST = 2**25
"""Bytes: a larger block goes back to the kernel as soon as it is freed. It is what glibc comes to by itself at most."""

KEPT = 2**30
"""Bytes: the end of the heap goes back to the kernel where more than that is free."""

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""torch's variable for tensors of 2 MiB and more in huge pages, where the system has them."""


def keep_freed() -> None:
    """Of use before torch is imported and threads are started. Variables that tune memory are left in charge.

    glibc gives most of what a step has freed back to the kernel by itself, which clears each page when the next step
    asks for it again: several percent of a step on a CPU. Here it keeps up to 1 GiB, in one heap for all threads, since
    those of others than the main one, as backward has one, go back whole. Without huge pages nothing of this is done:
    glibc before 2.38 does not find what it has kept again for blocks that are aligned to less.
    """
    is_tuned = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if os.environ.setdefault(HUGE_PAGES, "1") != "1" or is_tuned or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_MMAP_THRESHOLD, LARGEST)
    mallopt(M_TRIM_THRESHOLD, KEPT)
