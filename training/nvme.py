"""What offloading to a disk needs: libaio, and DeepSpeed's module for it, which is compiled at its first use."""

import logging
import os
import shutil
from pathlib import Path

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


def remove_swapped(zero: ZeroConfig) -> None:
    """Removes what DeepSpeed left below `nvme_path`, once no process reads it any more."""
    if zero.nvme_path is not None:
        shutil.rmtree(Path(zero.nvme_path) / "zero_stage_3", ignore_errors=True)
