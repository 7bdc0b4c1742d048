"""Flat tokens without an index: nanoGPT's .bin, with the header of llm.c or without one, and OLMo's .npy."""

from pathlib import Path

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.foreign.token_file import TokenFile, agreed_type, count_tokens, stated_type
from data_pipeline.source_config import TokenFiles

_HEADER = 1024
"""Bytes of the header of llm.c, which modded-nanogpt took over: 256 int32, the first being magic, version, tokens."""
_HEADERS = {20240520: (1, "<u2"), 20240801: (7, "<u4")}
"""By its magic number the version that is read, and the type of number: of GPT-2's vocabulary, and of Llama 3's."""
_NUMPY = b"\x93NUMPY"


def open_nanogpt(path: Path, config: TokenFiles, vocab_size: int) -> TokenFile:
    """A flat .bin, whose first tokens a header would otherwise be taken for.

    Raises InputError for a header of another version or number of tokens, and where `dtype` cannot be.
    """
    with path.open("rb") as file:
        header = np.frombuffer(file.read(_HEADER), np.uint8)
    size = path.stat().st_size
    magic, version, tokens = header[:12].view("<i4").tolist() if len(header) >= 12 else (0, 0, 0)
    if magic not in _HEADERS:
        return _headerless(path, size, config, vocab_size)
    known, type = _HEADERS[magic]
    if version != known:
        raise InputError(f"{path}: has a header {magic} of version {version}, and {known} is read; write it as such")
    dtype = agreed_type(path, np.dtype(type), "its header", config.dtype)
    if size != _HEADER + tokens * dtype.itemsize:
        raise InputError(
            f"{path}: has {size} bytes, its header says {_HEADER + tokens * dtype.itemsize} ({tokens} tokens); "
            "restore it"
        )
    return TokenFile(path, dtype, tokens, vocab_size, first_byte=_HEADER, said_by="its header")


def open_olmo(path: Path, config: TokenFiles, vocab_size: int) -> TokenFile:
    """An .npy as OLMo writes it, which is raw numbers, or one that really is NumPy's.

    Raises InputError for an array that is no tokens or lies column by column, and where `dtype` cannot be.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(_NUMPY)) != _NUMPY:
            return _headerless(path, size, config, vocab_size)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise InputError(f"{path}: is no whole NumPy array ({' '.join(str(error).split())}); restore it") from None
    assert isinstance(array, np.memmap)
    dtype = agreed_type(path, array.dtype, "its NumPy header", config.dtype)
    if not array.flags.c_contiguous:
        raise InputError(f"{path}: holds an array of shape {array.shape} column by column; write it row by row")
    if size != array.offset + array.nbytes:
        raise InputError(f"{path}: has {size} bytes, its NumPy header says {array.offset + array.nbytes}; restore it")
    first = array.offset
    return TokenFile(path, dtype, array.size, vocab_size, first_byte=first, said_by="its NumPy header")


def _headerless(path: Path, size: int, config: TokenFiles, vocab_size: int) -> TokenFile:
    dtype = stated_type(config.dtype)
    return TokenFile(path, dtype, count_tokens(path, size, dtype), vocab_size)
