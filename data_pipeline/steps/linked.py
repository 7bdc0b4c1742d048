"""Keeps the pages that a list of links names, or the others."""

from collections import Counter
from pathlib import Path

from datatrove.data import Document

from data_pipeline.links import LinkList
from data_pipeline.steps.base import Step
from data_pipeline.steps.config import Linked


def make(config: Linked, lists: Path) -> Step:
    """The step of a recipe; `lists` is the folder with the lists by name."""
    keeps_linked = config.keep == "linked"
    links = LinkList(lists / f"{config.links}.npy")

    def linked(document: Document, counts: Counter[str]) -> str | None:
        url = document.metadata.get("url")
        is_linked = url is not None and url in links
        return None if is_linked == keeps_linked else "linked" if is_linked else "not_linked"

    return linked
