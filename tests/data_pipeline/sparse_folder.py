"""A prepared folder of any size that takes no room: every token is 0, in files that are holes."""

import os
from pathlib import Path

import google_crc32c
import numpy as np
import xxhash

from data_pipeline.manifest import Manifest, SourceEntry, TokenizerEntry
from data_pipeline.mapped_tokens import BLOCK
from data_pipeline.shards import FileEntry, ShardEntry

VOCAB_SIZE = 50257


def write_sparse_folder(
    folder: Path, sources: int = 4, shards: int = 10_000, tokens: int = 10**12, vocab_size: int = VOCAB_SIZE
) -> Manifest:
    """`tokens` in as many `shards` of equal size, dealt to sources named s0, s1, ... in turn.

    Of each shard only the tokens and their checksums are there. The manifest describes the other files as well, so
    that it is as long as one of a folder this large. A hash is given for the checksums, none for the tokens.
    """
    size = 2 if vocab_size <= 2**16 else 4
    bounds = [tokens * at // shards for at in range(shards + 1)]
    of_length = {count: _Zeros(count * size) for count in set(np.diff(bounds).tolist())}
    entries: list[list[ShardEntry]] = [[] for _ in range(sources)]
    for each in range(sources):
        (folder / f"s{each}/train").mkdir(parents=True)
    for at in range(shards):
        source, count = at % sources, bounds[at + 1] - bounds[at]
        name, zeros = f"s{source}/train/{at // sources:05d}", of_length[count]
        (folder / f"{name}.crc").write_bytes(zeros.checksums)
        with (folder / f"{name}.tokens").open("wb") as file:
            os.truncate(file.fileno(), count * size)
        entries[source].append(ShardEntry(name=name, documents=1, tokens=count, max_token=0, files=zeros.files))
    (folder / "tokenizer.json").write_text("{}")
    tokenizer = FileEntry.of(folder / "tokenizer.json")
    manifest = Manifest(
        recipe_hash="sparse",
        tokenizer=TokenizerEntry(vocab_size=vocab_size, end_of_text=vocab_size - 1, file=tokenizer),
        sources={f"s{at}": _source(each) for at, each in enumerate(entries)},
    )
    manifest.save(folder)
    return manifest


class _Zeros:
    """What the files of a shard of so many zero bytes are."""

    def __init__(self, size: int) -> None:
        whole, rest = divmod(size, BLOCK)
        blocks = [google_crc32c.value(bytes(BLOCK))] * whole + [google_crc32c.value(bytes(rest))] * (rest > 0)
        self.checksums = np.array(blocks, dtype="<u4").tobytes()
        unknown = "0" * 16
        self.files = {
            ".tokens": FileEntry(bytes=size, xxh3=unknown),
            ".offsets": FileEntry(bytes=8, xxh3=unknown),
            ".origins.parquet": FileEntry(bytes=1000, xxh3=unknown),
            ".crc": FileEntry(bytes=len(self.checksums), xxh3=xxhash.xxh3_64_hexdigest(self.checksums)),
        }


def _source(entries: list[ShardEntry]) -> SourceEntry:
    tokens = sum(each.tokens for each in entries)
    splits = {"train": entries, "validation": []}
    return SourceEntry(read=len(entries), dropped={}, documents=len(entries), tokens=tokens, splits=splits)
