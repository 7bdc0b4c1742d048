"""Keeps the pages that a list of links names, or the others."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from datatrove.data import Document

from data_pipeline.links import LinkList
from data_pipeline.steps.base import Step
from data_pipeline.steps.config import Linked


def make(config: Linked, lists: Path) -> Step:
    """The step of a recipe; `lists` is the folder with the lists by name."""
    reason_of = by_address(config, lists)

    def linked(document: Document, counts: Counter[str]) -> str | None:
        return reason_of(document.metadata.get("url"))

    return linked


def by_address(config: Linked, lists: Path) -> Callable[[str | None], str | None]:
    """From the address of a page, or None, to the reason why it is dropped, or None."""
    links, keeps_linked = LinkList(lists / f"{config.links}.npy"), config.keep == "linked"

    def reason_of(url: str | None) -> str | None:
        is_linked = url is not None and url in links
        return None if is_linked == keeps_linked else "linked" if is_linked else "not_linked"

    return reason_of
