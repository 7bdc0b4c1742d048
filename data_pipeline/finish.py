"""The last part of preparing: shards get their place and name, and the manifest says that all is there."""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipeline.durable import to_disk
from data_pipeline.errors import TaskError
from data_pipeline.links import domains_beside
from data_pipeline.manifest import SPLITS, FilterEntry, LinksEntry, SourceEntry, TokenizerEntry
from data_pipeline.quality import QualityFilter
from data_pipeline.shards import SUFFIXES, FileEntry, ShardEntry
from data_pipeline.tokenise import Group, entries_of


def place_tokenizer(made: Path, out: Path) -> TokenizerEntry:
    """Puts the tokenizer into the prepared folder, and describes it."""
    from data_pipeline.tokenizer import Encoder

    path = _copy(made, out / "tokenizer.json")
    encoder = Encoder(path)
    return TokenizerEntry(vocab_size=encoder.vocab_size, end_of_text=encoder.end_of_text, file=FileEntry.of(path))


def place_filter(name: str, made: Path, out: Path) -> FilterEntry:
    """Puts a quality filter into the prepared folder, and describes it."""
    path = _copy(made, out / f"{name}.filter.npz")
    filter_ = QualityFilter.load(path)
    return FilterEntry(file=FileEntry.of(path), auc=filter_.report["auc"], alpha=filter_.alpha)


def place_links(name: str, made: Path, counts: Counter[str], out: Path) -> LinksEntry:
    """Puts the table of the domains of a list of links into the prepared folder, and describes the list."""
    domains = FileEntry.of(_copy(domains_beside(made), domains_beside(out / f"{name}.npy")))
    addresses = len(np.load(made, mmap_mode="r"))
    return LinksEntry(read=counts["read"], dropped=those_of("dropped/", counts), addresses=addresses, domains=domains)


def _copy(made: Path, place: Path) -> Path:
    partial = place.with_name(f".{place.name}.partial")
    shutil.copyfile(made, partial)
    to_disk(partial)
    partial.replace(place)
    return place


def place_source(source: str, groups: Sequence[Group], counts: Counter[str], out: Path) -> SourceEntry:
    """Gives the shards of a source's groups, in order, their place in the folder `out`, and describes the source."""
    splits: dict[str, list[ShardEntry]] = {split: [] for split in SPLITS}
    shutil.rmtree(out / source, ignore_errors=True)
    for group in groups:
        for split, entries in entries_of(group).items():
            for entry in entries:
                name = f"{source}/{split}/{len(splits[split]):05d}"
                _link_shard(group.out / entry.name, out / name)
                splits[split].append(entry.model_copy(update={"name": name}))
    shards = [entry for entries in splits.values() for entry in entries]
    described = SourceEntry(
        read=counts["read"],
        dropped=those_of("dropped/", counts),
        masked=those_of("masked/", counts),
        split=those_of("split/", counts),
        documents=sum(shard.documents for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        splits=splits,
    )
    kept = described.read - sum(described.dropped.values()) + described.split.get("pieces", 0)
    if described.documents != kept:
        raise TaskError(
            f"{out}: {source} has {described.documents:,} documents, and {kept:,} were left; this is a fault"
        )
    return described


def those_of(kind: str, counts: Counter[str]) -> dict[str, int]:
    """Counts whose names begin with `kind`, by the rest of their names."""
    return {name.removeprefix(kind): counts[name] for name in sorted(counts) if name.startswith(kind)}


def _link_shard(made: Path, place: Path) -> None:
    """As a second name of the same file: it can be placed again after a crash, or after a change of the recipe."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for suffix in SUFFIXES:
        source, target = made.with_name(made.name + suffix), place.with_name(place.name + suffix)
        try:
            os.link(source, target)
        except OSError:  # a file system without a second name
            _copy(source, target)
    to_disk(place.parent)
