"""Makes small prepared folders whose tokens say where they come from."""

from pathlib import Path

import numpy as np

from data_pipeline.config import DataConfig
from data_pipeline.manifest import Manifest, SourceEntry, TokenizerEntry
from data_pipeline.opening import open_stream
from data_pipeline.phases import Schedule
from data_pipeline.shard_writer import ShardWriter
from data_pipeline.shards import FileEntry
from data_pipeline.stream import Stream


def write_folder(
    folder: Path, shards: dict[str, list[int]], vocab_size: int = 50257, validation: int = 0, tokenizer: str = "{}"
) -> Manifest:
    """A folder with the given number of tokens in each shard of each source, numbered through from a random start."""
    sources = {}
    for index, (name, sizes) in enumerate(shards.items()):
        rng = np.random.default_rng(index)
        splits = {"train": sizes, "validation": [validation] if validation else []}
        entries = {
            split: [
                write_shard(folder, f"{name}/{split}/{at:05d}", size, vocab_size, rng) for at, size in enumerate(each)
            ]
            for split, each in splits.items()
        }
        both = [*entries["train"], *entries["validation"]]
        documents, tokens = sum(each.documents for each in both), sum(each.tokens for each in both)
        sources[name] = SourceEntry(read=documents, dropped={}, documents=documents, tokens=tokens, splits=entries)
    (folder / "tokenizer.json").write_text(tokenizer)
    entry = TokenizerEntry(
        vocab_size=vocab_size, end_of_text=vocab_size - 1, file=FileEntry.of(folder / "tokenizer.json")
    )
    manifest = Manifest(recipe_hash="test", tokenizer=entry, sources=sources)
    manifest.save(folder)
    return manifest


def write_shard(folder: Path, name: str, size: int, vocab_size: int, rng: np.random.Generator):
    writer = ShardWriter(folder / name, vocab_size, vocab_size - 1)
    while writer.tokens < size:
        length = min(int(rng.integers(1, 60)), size - writer.tokens) - 1
        origin = {"id": f"{name}/{writer.tokens}", "file": "made up", "offset": writer.tokens, "url": None}
        writer.add(rng.integers(0, vocab_size - 1, length), origin)
    return writer.close(name)


def open_tokens(folder: Path) -> set[str]:
    """The files of tokens below `folder` that this process holds open."""
    paths = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.exists()]
    return {path for path in paths if path.startswith(f"{folder}/") and path.endswith(".tokens")}


def shares_at(schedule: Schedule, position: int) -> dict[str, float]:
    """The share of each source that is asked for at a position."""
    gained = schedule.target(position + 1) - schedule.target(position)
    return dict(zip(schedule.names, gained.tolist(), strict=True))


def stream_of_folder(folder: Path, mixture: dict[str, float] | None, seed: int = 1, n_ctx: int = 16, **data) -> Stream:
    """The training stream of a prepared folder; `data` are other keys of the `data:` section."""
    return open_stream(DataConfig(path=folder, mixture=mixture, **data), seed, n_ctx)
