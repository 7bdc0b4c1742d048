"""Links that submissions of Reddit name, from dumps as Pushshift publishes them (JSON lines), or tables in CSV."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from datatrove.data import Document

from data_pipeline.config import RedditLinks
from data_pipeline.readers.archives import is_archive, members
from data_pipeline.readers.base import Drop, Item
from data_pipeline.readers.files import open_file
from data_pipeline.readers.tables import json_rows

csv.field_size_limit(2**24)


def read(path: Path, links: RedditLinks) -> Iterator[Item]:
    """One item a submission; the text of a document is its link, and `karma` in its metadata the submission's score."""
    for number, row in enumerate(_rows(path)):
        if not isinstance(row, dict):
            yield Drop("broken_row")
            continue
        url, score = _url(row), _score(row)
        reason = _why_not(row, url, score, links)
        metadata = {"offset": number, "url": url, "karma": score}
        yield Drop(reason) if reason else Document(text=url, id=str(row.get("id", "")), metadata=metadata)


def _rows(path: Path) -> Iterator[Any]:
    if is_archive(path):
        with open_file(path) as stream:
            for _, _, data in members(stream, (".csv",)):
                yield from _csv_rows(io.BytesIO(data))
    elif ".csv" in path.suffixes[-2:]:
        with open_file(path) as stream:
            yield from _csv_rows(stream)
    else:
        yield from json_rows(path)


def _csv_rows(content: BinaryIO) -> Iterator[dict[str, str] | None]:
    """Rows by the names in the first one, None for one that has more or fewer columns."""
    lines = io.TextIOWrapper(content, encoding="utf-8-sig", errors="replace", newline="")
    rows = csv.reader(lines)
    names: list[str] | None = None
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            row = []
        if names is None:
            names = row
        else:
            yield dict(zip(names, row, strict=True)) if len(row) == len(names) else None


def _url(row: dict[str, Any]) -> str | None:
    """The link, of a crosspost that of what it repeats. Some dumps write & as HTML does."""
    parents = row.get("crosspost_parent_list")
    if isinstance(parents, list) and parents and isinstance(parents[0], dict):
        row = parents[0]
    url = row.get("url")
    is_link = isinstance(url, str) and url.startswith(("http://", "https://")) and not _is(row.get("is_self"))
    return str(url).replace("&amp;", "&") if is_link else None


def _score(row: dict[str, Any]) -> int | None:
    try:
        score = int(float(row["score"]))
        return score if abs(score) < 2**53 else None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _is(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "1")


def _why_not(row: dict[str, Any], url: str | None, score: int | None, links: RedditLinks) -> str | None:
    if url is None:
        return "no_link"
    if score is None:
        return "no_score"
    if score < links.karma:
        return "little_karma"
    if row.get("removed_by_category"):
        return "removed"
    if _is(row.get("over_18")) and not links.adult:
        return "adult"
    return "left_out" if _is_of(url, links.without) else None


def _is_of(url: str, domains: list[str]) -> bool:
    try:
        host = (urlsplit(url).hostname or "").lower()
    except ValueError:
        return False
    return any(host == each or host.endswith(f".{each}") for each in domains)
