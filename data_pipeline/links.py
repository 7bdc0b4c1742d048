"""Lists of links, by which pages are known that people found worth reading: GPT-3's WebText (section 2.2).

A list is a sorted file of 64-bit hashes of addresses, which all processes of a machine map. Beside it lies a table of
the domains that its links are of, with their karma.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from data_pipeline.durable import whole_file

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
    """Writes the keys of task i's links, which are documents' texts, into the i-th of `paths`, and their domains."""

    name = "links"
    type = "WRITER"

    def __init__(self, paths: list[Path]) -> None:
        super().__init__()
        self._paths = paths

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Counts `links`, and `dropped/no_address` for what is none; yields nothing."""
        keys, domains = set[int](), Counter[str]()
        submissions = Counter[str]()
        for document in data:
            if (key := key_of(document.text)) is None:
                self.stat_update("dropped/no_address")
            else:
                self.stat_update("links")
                keys.add(key)
                if domain := domain_of(document.text):
                    domains[domain] += document.metadata.get("karma") or 0
                    submissions[domain] += 1
        _save_table(domains_beside(self._paths[rank]), _table(domains, submissions))
        save(self._paths[rank], np.array(sorted(keys), np.uint64))
        yield from ()


def merge(paths: Sequence[Path], out: Path) -> int:
    """Puts the keys of several files into one, sorted and each once, and the domains; how many keys there are."""
    tables = pa.concat_tables([pq.read_table(domains_beside(path)) for path in paths])
    summed = tables.group_by(["key", "domain"]).aggregate([("karma", "sum"), ("submissions", "sum")])
    _save_table(domains_beside(out), summed.select([0, 1, 2, 3]).rename_columns(_COLUMNS))
    keys = np.unique(np.concatenate([np.load(path) for path in paths]))
    save(out, keys)
    return len(keys)


def save(path: Path, keys: Keys) -> None:
    """Appears under its name when it is whole."""
    with whole_file(path) as file:
        np.save(file, keys)


def domain_of(url: str) -> str | None:
    """The domain that somebody registered: example.co.uk of www.example.co.uk; None of numbers and of what is none."""
    from courlan import extract_domain

    try:
        return extract_domain(url)
    except ValueError:
        return None


def domains_beside(path: Path) -> Path:
    """Where the table of domains lies that belongs to a list."""
    return path.with_suffix(".domains.parquet")


_COLUMNS = ["key", "domain", "karma", "submissions"]


def _key(domain: str) -> int:
    return xxhash.xxh3_64_intdigest(domain.encode())


def _table(karma: Counter[str], submissions: Counter[str]) -> pa.Table:
    names = list(submissions)
    columns = [
        pa.array([_key(each) for each in names], pa.uint64()),
        pa.array(names, pa.string()),
        *(pa.array([counter[each] for each in names], pa.int64()) for counter in (karma, submissions)),
    ]
    return pa.table(columns, _COLUMNS)


def _save_table(path: Path, table: pa.Table) -> None:
    with whole_file(path) as file:
        pq.write_table(table.sort_by([("key", "ascending"), ("domain", "ascending")]), file)


def largest_domains(path: Path, most: int = 20) -> list[tuple[str, int, int]]:
    """The domains of a list with the most karma: name, karma and submissions."""
    table = pq.read_table(domains_beside(path), columns=_COLUMNS[1:])
    largest = table.sort_by([("karma", "descending"), ("domain", "ascending")]).slice(0, most)
    return [(row["domain"], row["karma"], row["submissions"]) for row in largest.to_pylist()]


class DomainTable:
    """A table to look into; 16 bytes a domain."""

    def __init__(self, path: Path) -> None:
        table = pq.read_table(path, columns=["key", "karma"])
        self._keys, self._karma = table["key"].to_numpy(), table["karma"].to_numpy()

    def karma(self, url: str) -> int:
        """Of all submissions that link to the domain of an address; 0 where there is none."""
        domain = domain_of(url)
        key = np.uint64(_key(domain)) if domain else None
        at = int(np.searchsorted(self._keys, key)) if key is not None else len(self._keys)
        return int(self._karma[at]) if at < len(self._keys) and self._keys[at] == key else 0


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
