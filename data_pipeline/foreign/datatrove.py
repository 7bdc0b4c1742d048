"""datatrove's .ds: flat tokens; beside it .ds.index with the documents' ends and .ds.metadata with type and number."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import InputError
from data_pipeline.foreign.token_file import TokenFile, agreed_type, count_tokens, stated_type
from data_pipeline.source_config import TokenFiles

_TYPES: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


class _Metadata(NamedTuple):
    dtype: np.dtype[Any]
    tokens: int


def open_datatrove(path: Path, config: TokenFiles, vocab_size: int) -> TokenFile:
    """A .ds. Without an index it is read the same, and has no documents; without metadata `dtype` is believed.

    Raises InputError where the three files, or they and `dtype`, contradict each other.
    """
    metadata = _metadata(Path(f"{path}.metadata"))
    if metadata is None:
        dtype = stated_type(config.dtype)
    else:
        dtype = agreed_type(path, metadata.dtype, "its .metadata", config.dtype)
    tokens = count_tokens(path, path.stat().st_size, dtype)
    if metadata is not None and metadata.tokens != tokens:
        raise InputError(
            f"{path}: has {tokens} tokens of {dtype.name}, its .metadata says {metadata.tokens}; restore it"
        )
    index = Path(f"{path}.index")
    if not index.is_file():
        return TokenFile(path, dtype, tokens, vocab_size)
    _check(path, _ends(index), tokens, dtype)
    return TokenFile(
        path, dtype, tokens, vocab_size, said_by="its .index", index=index, ends=lambda: _unchanged(index, tokens)
    )


def _metadata(path: Path) -> _Metadata | None:
    """What stands in `TOKENIZER|BYTES`, `TOKENS` and a third line for people; None where early releases left it out."""
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        size, tokens = lines[0].rpartition("|")[2], int(lines[1])
        return _Metadata(_TYPES[int(size)], tokens) if "|" in lines[0] else None
    except (IndexError, ValueError, KeyError):
        raise InputError(
            f"{path}: does not begin with TOKENIZER|BYTES, of 2 or 4 bytes, and a number of tokens; restore it, or "
            "remove it and state the dtype"
        ) from None


def _ends(index: Path) -> npt.NDArray[np.uint64]:
    """The ends [D], mapped; np.memmap itself refuses a file without bytes, which is that of no document."""
    size = index.stat().st_size
    if size % 8:
        raise InputError(f"{index}: has {size} bytes, which are no whole number of uint64; restore it")
    return np.memmap(index, "<u8", "r") if size else np.empty(0, "<u8")


def _check(path: Path, ends: npt.NDArray[np.uint64], tokens: int, dtype: np.dtype[Any]) -> None:
    last = int(ends[-1]) if len(ends) else 0
    if last != tokens:
        raise InputError(
            f"{path}: has {tokens} tokens of {dtype.name}, its .index ends at {last}; state the dtype that it was "
            "written with, or restore it"
        )
    if (ends[1:] < ends[:-1]).any():
        raise InputError(f"{path}.index: has ends that go back; restore it")


def _unchanged(index: Path, tokens: int) -> npt.NDArray[np.uint64]:
    try:
        ends = _ends(index)
    except OSError as error:
        raise InputError(f"{index}: cannot be read ({error.strerror}); restore it") from None
    if (int(ends[-1]) if len(ends) else 0) != tokens:
        raise InputError(f"{index}: was changed while the run was reading it; restore it and resume")
    return ends
