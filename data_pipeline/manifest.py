"""The manifest of a prepared folder, written last: without it there is no prepared folder."""

import json
from collections.abc import Iterator
from pathlib import Path

import xxhash
from pydantic import BaseModel, Field, ValidationError

from data_pipeline.durable import write_whole
from data_pipeline.errors import InputError
from data_pipeline.shards import FileEntry, ShardEntry

FORMAT_VERSION = 1
SPLITS = ("train", "validation")


class TokenizerEntry(BaseModel):
    """The tokenizer that made the tokens; its file is `tokenizer.json`."""

    vocab_size: int
    end_of_text: int
    file: FileEntry


class SourceEntry(BaseModel):
    """One source: what was read, what was dropped and why, and its shards by split."""

    read: int
    dropped: dict[str, int]
    masked: dict[str, int] = Field(default_factory=dict)
    """Pieces of personal data by kind that markers stand for."""
    split: dict[str, int] = Field(default_factory=dict)
    """Where examples of evaluation sets were cut out: `documents` that became several, and what that made of them."""
    documents: int
    tokens: int
    splits: dict[str, list[ShardEntry]]


class LinksEntry(BaseModel):
    """One list of links: submissions that were read, dropped and why, and the addresses that are left, each once."""

    read: int
    dropped: dict[str, int]
    addresses: int
    domains: FileEntry | None = None
    """The table of their domains; folders of early states of this release have none."""


class FilterEntry(BaseModel):
    """One quality filter: its file, how well it tells the sides apart, and the alpha by which it keeps documents."""

    file: FileEntry
    auc: float
    alpha: float


class Manifest(BaseModel):
    """Everything that a reader of a prepared folder needs to know."""

    format_version: int = FORMAT_VERSION
    recipe_hash: str
    tokenizer: TokenizerEntry
    sources: dict[str, SourceEntry]
    links: dict[str, LinksEntry] = Field(default_factory=dict)
    filters: dict[str, FilterEntry] = Field(default_factory=dict)

    @staticmethod
    def load(folder: Path) -> tuple["Manifest", str]:
        """The manifest of `folder` and the xxh3-128 hash of its bytes.

        Raises InputError where there is none or it cannot be read.
        """
        path = folder / "manifest.json"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            hint = "preparing it was not finished" if folder.is_dir() else "there is no such folder"
            raise InputError(f"{path}: is missing, {hint}: run `thalweg prepare`") from None
        return Manifest.parse(data, str(path)), xxhash.xxh3_128_hexdigest(data)

    @staticmethod
    def parse(data: bytes, where: str) -> "Manifest":
        """What a manifest.json says. Raises InputError, which calls it `where`, if it is none."""
        try:
            version = json.loads(data).get("format_version")
            if version != FORMAT_VERSION:
                raise InputError(f"{where}: has format version {version}, this release reads {FORMAT_VERSION}")
            return Manifest.model_validate_json(data)
        except (ValueError, AttributeError, ValidationError) as error:
            raise InputError(f"{where}: is no manifest ({str(error).splitlines()[0]})") from None

    def save(self, folder: Path) -> None:
        """Writes `manifest.json` so that it is either whole or not there."""
        write_whole(folder / "manifest.json", self.model_dump_json(indent=1) + "\n")

    def shards(self) -> Iterator[ShardEntry]:
        """Every shard of every source and split."""
        for source in self.sources.values():
            for entries in source.splits.values():
                yield from entries

    def files(self) -> dict[str, FileEntry]:
        """Every file of the folder but the manifest, by its name there."""
        shards = {shard.name + suffix: entry for shard in self.shards() for suffix, entry in shard.files.items()}
        filters = {f"{name}.filter.npz": entry.file for name, entry in self.filters.items()}
        domains = {f"{name}.domains.parquet": entry.domains for name, entry in self.links.items() if entry.domains}
        return {"tokenizer.json": self.tokenizer.file} | domains | filters | shards
