"""What offloading to a disk needs: libaio, DeepSpeed's module for it, compiled at its first use, and room there."""

import fcntl
import glob
import logging
import os
import platform
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO

from data_pipeline.errors import InputError
from training.zero_config import ZeroConfig

log = logging.getLogger("thalweg.train")

INSTALL = "install libaio with its headers and g++ (Debian, Ubuntu: apt-get install libaio-dev g++)"


def prepare_nvme(zero: ZeroConfig) -> None:
    """Loads the module, compiling it where that was not done yet, and makes the folder.

    Raises InputError where something is missing, before DeepSpeed fails in the middle of building its optimizer.
    """
    from deepspeed.ops.op_builder import AsyncIOBuilder
    from torch.utils.cpp_extension import _get_build_directory

    assert zero.nvme_path is not None
    try:
        zero.nvme_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"zero.nvme_path: {error}; name a folder of a local disk that this user may write") from None
    _find_ninja()
    if shutil.which(os.environ.get("CXX", "g++")) is None or not AsyncIOBuilder().is_compatible(verbose=False):
        raise InputError(f"zero: nvme needs libaio and a C++ compiler: {INSTALL}, or offload to cpu")
    folder = Path(_get_build_directory(AsyncIOBuilder.NAME, verbose=False))
    if not (folder / f"{AsyncIOBuilder.NAME}.so").exists():
        # A process that was killed while it compiled leaves its lock, for which torch waits without a word.
        log.info("nvme: its module is compiled into %s, some minutes; if nothing happens, remove `lock` there", folder)
    try:
        AsyncIOBuilder().load(verbose=False)
    except (RuntimeError, ImportError, OSError) as error:
        what = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise InputError(f"zero: DeepSpeed's module for nvme cannot be compiled ({what[0]}); {INSTALL}") from None


def _find_ninja() -> None:
    """The build tool comes with DeepSpeed, beside the interpreter; that folder need not be on the path."""
    if shutil.which("ninja") is None:
        import ninja

        os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, os.environ.get("PATH", "")])


_locks: dict[Path, IO[str]] = {}
"""This process's, held until it ends, however that comes about."""


def with_own_folder(zero: ZeroConfig) -> ZeroConfig:
    """With a folder below `nvme_path` that belongs to this process alone, whatever other lives of the run do there.

    What processes that are gone have left is removed. A lock beside a folder tells whether its owner still runs.
    """
    assert zero.nvme_path is not None
    host = platform.node()  # a disk that machines share may know of the locks of each machine alone
    for path in zero.nvme_path.glob(f"{glob.escape(host)}-*.lock"):
        with suppress(OSError), path.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
    own = zero.nvme_path / f"{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        _lock(own)
        own.mkdir()
    except OSError as error:
        raise InputError(
            f"zero.nvme_path: {error}; name a folder of a local disk, in which this user may write and lock files"
        ) from None
    return zero.model_copy(update={"nvme_path": own})


def _lock(own: Path) -> None:
    """Takes the lock beside a folder to be; nobody sees it before it is held."""
    prepared = own.with_name(f".{own.name}")
    lock = prepared.open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    _locks[prepared.rename(own.with_name(f"{own.name}.lock"))] = lock


def remove_swapped() -> None:
    """Removes what this process has on an nvme, which it needs no more."""
    for path in _locks:
        _remove(path)


def _remove(lock: Path) -> None:
    """Removes a folder, and then the lock beside it: who is interrupted leaves the rest to others."""
    folder = lock.with_name(lock.name.removesuffix(".lock"))
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        lock.unlink(missing_ok=True)
