"""Lists of links, by which pages are known that people found worth reading: GPT-3's WebText (section 2.2).

A list is a sorted file of 64-bit hashes of addresses, which all processes of a machine map.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

Keys = NDArray[np.uint64]


def key_of(url: str) -> int | None:
    """Hash of an address as it is usually written; None of what is none.

    The scheme, `www.`, the fragment, a slash at the end and what only tracks visitors make no difference.
    """
    from courlan import normalize_url  # a tenth of a second that most preparations need not

    try:
        plain = normalize_url(url.strip(), trailing_slash=False)
    except ValueError:
        return None
    scheme, separator, rest = plain.partition("://")
    if not separator or scheme not in ("http", "https"):
        return None
    return xxhash.xxh3_64_intdigest(rest.partition("#")[0].removeprefix("www.").rstrip("/").encode())


class CollectLinks(PipelineStep):  # type: ignore[misc]
    """Writes the keys of task i's links, which are documents' texts, into the i-th of `paths`."""

    name = "links"
    type = "WRITER"

    def __init__(self, paths: list[Path]) -> None:
        super().__init__()
        self._paths = paths

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Counts `links`, and `dropped/no_address` for what is none; yields nothing."""
        keys = set[int]()
        for document in data:
            if (key := key_of(document.text)) is None:
                self.stat_update("dropped/no_address")
            else:
                self.stat_update("links")
                keys.add(key)
        save(self._paths[rank], np.array(sorted(keys), np.uint64))
        yield from ()


def merge(paths: Sequence[Path], out: Path) -> int:
    """Puts the keys of several files into one, sorted and each once; how many there are."""
    keys = np.unique(np.concatenate([np.load(path) for path in paths]))
    save(out, keys)
    return len(keys)


def save(path: Path, keys: Keys) -> None:
    """Appears under its name when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.save(file, keys)
    partial.replace(path)


class LinkList:
    """A list to look into."""

    def __init__(self, path: Path) -> None:
        self._keys: Keys = np.load(path, mmap_mode="r")

    def __contains__(self, url: str) -> bool:
        key = key_of(url)
        if key is None:
            return False
        at = int(np.searchsorted(self._keys, np.uint64(key)))
        return at < len(self._keys) and int(self._keys[at]) == key
