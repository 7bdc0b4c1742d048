"""Opens the token shards of other systems as they are."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson
import xxhash

from data_pipeline.errors import InputError
from data_pipeline.foreign.datatrove import open_datatrove
from data_pipeline.foreign.files import find
from data_pipeline.foreign.flat import open_nanogpt, open_olmo
from data_pipeline.foreign.mds import open_mds
from data_pipeline.foreign.mds_files import without_hash
from data_pipeline.foreign.megatron import open_megatron
from data_pipeline.foreign.token_file import TokenFile, sampled_hash
from data_pipeline.shard import Shard
from data_pipeline.source_config import ForeignSource, MdsFolder, TokenFiles

FILES_AT_ONCE = 32

T = TypeVar("T")
U = TypeVar("U")

_OPENERS: dict[str, Callable[[Path, TokenFiles, int], TokenFile]] = {
    "megatron": open_megatron,
    "nanogpt": open_nanogpt,
    "olmo": open_olmo,
    "datatrove": open_datatrove,
}


@dataclass(frozen=True)
class Foreign:
    """Shards in an order that is the same on every machine, and a hash that says which data they are."""

    shards: list[Shard]
    identity: str
    """Of names relative to what was given, sizes, types, the contents of indices, and samples of the tokens."""


def open_foreign(name: str, config: ForeignSource, vocab_size: int) -> Foreign:
    """Opens the source `name` by its sizes and indices; of the tokens 32 KiB a file are read, for the identity.

    But for MDS whose samples differ in size: unless plain bytes are all that does, each shard is read to count them.
    Raises InputError where nothing is found, or what is found cannot be read or contradicts itself.
    """
    try:
        if isinstance(config, MdsFolder):
            shards, index = open_mds(name, config, vocab_size)
            # A shard with a hash in the index is held to it whenever it is read.
            sampled = without_hash(config.path, index, (Path(shard.name) for shard in shards))
            parts = {"column": config.column, "dtype": config.dtype, "index": xxhash.xxh3_128_hexdigest(index)}
            return Foreign(list(shards), _hash(config.kind, [parts, list(_at_once(sampled_hash, sampled))]))
        found = find(name, config)
        opener = _OPENERS[config.kind]
        files = list(_at_once(lambda each: opener(each.path, config, vocab_size), found))
        named = [(each.name, *file.identity) for each, file in zip(found, files, strict=True)]
        return Foreign(list(files), _hash(config.kind, named))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); restore it") from None


def _at_once(work: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """The results in order; many at a time, since on a network's disk each read waits for an answer."""
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        yield from pool.map(work, items)


def _hash(kind: str, parts: Any) -> str:
    return xxhash.xxh3_128_hexdigest(orjson.dumps([kind, parts], option=orjson.OPT_SORT_KEYS))
