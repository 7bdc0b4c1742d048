"""Keeps the pages that a list of links names."""

from collections import Counter
from pathlib import Path

from datatrove.data import Document

from data_pipeline.links import LinkList
from data_pipeline.steps.base import Step
from data_pipeline.steps.config import Linked


def make(config: Linked, lists: Path) -> Step:
    """The step of a recipe; `lists` is the folder with the lists by name."""
    links = LinkList(lists / f"{config.links}.npy")

    def linked(document: Document, counts: Counter[str]) -> str | None:
        url = document.metadata.get("url")
        return None if url is not None and url in links else "not_linked"

    return linked
