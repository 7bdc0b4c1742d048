"""Wikipedia and its like: the articles of a MediaWiki XML dump."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote
from xml.etree.ElementTree import Element, ParseError, iterparse

from datatrove.data import Document

from data_pipeline.config import FileSource
from data_pipeline.readers.base import Drop, Item
from data_pipeline.readers.dump_pieces import Piece, PieceOfDump
from data_pipeline.readers.files import damage_of, open_file
from data_pipeline.readers.templates import is_disambiguation
from data_pipeline.readers.wikitext import Wikitext

log = logging.getLogger("thalweg.prepare")

_NO_MORE_ELEMENTS = 3
"""Expat's code for an end of file inside the document."""


def read(path: Path, source: FileSource, piece: Piece | None = None) -> Iterator[Item]:
    """One item a page. A dump whose closing tag alone is missing is whole; one that ends inside a page is damaged.

    The `offset` of a page is its number in the file; of one of a piece the offset of its bzip2 stream, as in the index
    that Wikimedia has beside a dump.
    """
    site = _Site()
    if piece is None:
        with open_file(path) as stream:
            for number, page in enumerate(_pages(stream, path, site)):
                yield _article(page, number, site)
        return
    with path.open("rb") as raw, damage_of(raw):
        dump = PieceOfDump(raw, piece)
        for page in _pages(dump, path, site):
            yield _article(page, dump.stream, site)


class _Site:
    """What the head of the dump says about its wiki."""

    def __init__(self) -> None:
        self.base, self.wikitext = "", Wikitext()

    def learn(self, info: Element) -> None:
        self.base = (info.findtext("{*}base") or "").rpartition("/")[0]
        names = {each.get("key"): each.text or "" for each in info.iterfind("{*}namespaces/{*}namespace")}
        self.wikitext = Wikitext(hidden={names.get(key, "") for key in ("6", "14")})

    def url(self, title: str) -> str | None:
        return f"{self.base}/{quote(title.replace(' ', '_'), safe='/:()')}" if self.base else None


def _pages(stream: BinaryIO | PieceOfDump, path: Path, site: _Site) -> Iterator[Element]:
    """The pages in order; each is cleared when the next one is asked for, so that memory stays flat."""
    inside = 0
    root: Element | None = None
    try:
        for event, element in iterparse(stream, ("start", "end")):
            if root is None:
                root = element
            name = element.tag.rpartition("}")[2]
            if name == "siteinfo" and event == "end":
                site.learn(element)
            elif name == "page":
                inside += 1 if event == "start" else -1
                if not inside:
                    yield element
                    root.clear()
    except ParseError as error:
        if inside or root is None or error.code != _NO_MORE_ELEMENTS:
            raise
        log.warning("%s: has no </mediawiki> at its end; it ends after a whole page, so all its pages were read", path)


def _article(page: Element, offset: int, site: _Site) -> Item:
    title = page.findtext("{*}title") or ""
    if (page.findtext("{*}ns") or "0") != "0":
        return Drop("not_an_article")
    if page.find("{*}redirect") is not None:
        return Drop("redirect")
    source = page.findtext("{*}revision/{*}text") or ""
    if source.lstrip()[:9].lower() == "#redirect":
        return Drop("redirect")
    if is_disambiguation(source):
        return Drop("disambiguation")
    text = site.wikitext.plain(source)
    return Document(
        text=f"{title}\n\n{text}" if text else "",
        id=page.findtext("{*}id") or "",
        metadata={"offset": offset, "url": site.url(title)},
    )
