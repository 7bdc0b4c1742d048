"""Links that submissions of Reddit name, from dumps of JSON lines as Pushshift publishes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from datatrove.data import Document

from data_pipeline.config import RedditLinks
from data_pipeline.readers.base import Drop, Item
from data_pipeline.readers.tables import json_rows


def read(path: Path, links: RedditLinks) -> Iterator[Item]:
    """One item a submission; the text of a document is its link."""
    for number, row in enumerate(json_rows(path)):
        if not isinstance(row, dict):
            yield Drop("broken_row")
            continue
        reason = _why_not(row, links)
        metadata = {"offset": number, "url": row.get("url")}
        yield Drop(reason) if reason else Document(text=row["url"], id=str(row.get("id", "")), metadata=metadata)


def _why_not(row: dict[str, Any], links: RedditLinks) -> str | None:
    url = row.get("url")
    if row.get("is_self") or not isinstance(url, str) or not url.startswith(("http://", "https://")):
        return "no_link"
    score = row.get("score")
    if not isinstance(score, int) or score < links.karma:
        return "little_karma"
    if row.get("over_18") and not links.adult:
        return "adult"
    return "left_out" if _is_of(url, links.without) else None


def _is_of(url: str, domains: list[str]) -> bool:
    try:
        host = (urlsplit(url).hostname or "").lower()
    except ValueError:
        return False
    return any(host == each or host.endswith(f".{each}") for each in domains)
