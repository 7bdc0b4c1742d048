"""Giving memory back between two networks, so that one of them at a time is what a machine must hold."""

import ctypes
import gc


def give_back() -> None:
    """Returns what nobody uses any more to the system.

    Models of transformers refer to themselves, and wait for the collector. glibc keeps freed memory that lies below
    a block in use: half a gigabyte stayed beside the next network until it was told to trim.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
