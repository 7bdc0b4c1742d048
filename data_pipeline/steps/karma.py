"""Keeps pages the likelier, the more karma the links to their domain have."""

from collections import Counter
from pathlib import Path

import xxhash
from datatrove.data import Document

from data_pipeline.links import DomainTable
from data_pipeline.steps.base import Step
from data_pipeline.steps.config import Karma

SEED = int.from_bytes(b"karma")
"""Of the hash of a text that stands for a die, so that no other die falls the same way."""


def make(config: Karma, lists: Path) -> Step:
    """The step of a recipe; `lists` is the folder with the tables by name. Notes `karma` in the metadata."""
    table = DomainTable(lists / f"{config.links}.domains.parquet")

    def karma(document: Document, counts: Counter[str]) -> str | None:
        url = document.metadata.get("url")
        document.metadata["karma"] = found = table.karma(url) if url is not None else 0
        kept = config.share + (1 - config.share) * min(max(found, 0) / config.least, 1)
        die = xxhash.xxh3_64_intdigest(document.text.encode(), seed=SEED) / 2**64
        return None if die < kept else "little_karma"

    return karma
