"""Books as plain text: one file, or one member of a tar archive, is one document."""

import re
from collections.abc import Iterator
from pathlib import Path

from datatrove.data import Document
from resiliparse.parse.encoding import detect_encoding

from data_pipeline.config import FileSource
from data_pipeline.readers.archives import is_archive, members
from data_pipeline.readers.base import Drop, Item
from data_pipeline.readers.encodings import by_mark, decode
from data_pipeline.readers.files import open_file
from data_pipeline.readers.paragraphs import join_lines

SUFFIXES = (".txt", ".md")
"""Members of an archive with other suffixes (lists of contents, pictures) are not books."""

_START = re.compile(
    r"^\*{3} ?START OF (?:THE|THIS) PROJECT GUTENBERG(?:[^\n]*\n){0,2}?[^\n]*?\*{3}[^\n]*\n"
    r"|^\*{3} ?START OF[^\n]*PROJECT GUTENBERG[^\n]*\n"
    r"|^\*END\*? ?THE SMALL PRINT!?[^\n]*\n"
    r"|^\*{3} ?END\*? ?THE SMALL PRINT[^\n]*\n",
    re.MULTILINE | re.IGNORECASE,
)
_END = re.compile(
    r"^[ \t]*(?:\*{3} ?END OF (?:THE|THIS) PROJECT GUTENBERG"
    r"|End of (?:the |this )?Project Gutenberg(?:'s|’s)?(?: E-?(?:text|book))?\b"
    r"|(?:Ende|Fin|Fine|Fim|Einde) (?:\w{1,6} )?(?:Project|Projekt|Projet|Progetto|Projecto|Projeto) Gutenberg"
    r"|\*{3}START: FULL LICENSE)",
    re.MULTILINE | re.IGNORECASE,
)
_PRODUCED_BY = re.compile(
    r"\A(?:\s*(?:(?:This )?E-?(?:text|book) (?:was )?)?(?:Produced|Transcribed|Prepared|Scanned) by\b(?:[^\n]+\n)+)",
    re.IGNORECASE,
)
_NOTES = re.compile(
    r"\[Transcribers?['’]?s?['’]? notes?\b[^\[\]]{0,5000}\]"
    r"|^[ \t]*Transcribers?['’]?s?['’]? notes?\b(?:[^\n]|\n(?![ \t]*\n[ \t]*\n)){0,3000}"
    r"|^[ \t]*\[Illustration(?::[^\[\]]{0,500})?\][ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
_HEAD = 60_000
"""Characters at either end of a book among which the marks of its envelope are looked for."""


def read(path: Path, source: FileSource) -> Iterator[Item]:
    """One item a book."""
    join = source.join_lines is not False
    with open_file(path) as stream:
        if not is_archive(path):
            yield _book(stream.read(), "", 0, join)
            return
        for name, offset, data in members(stream, SUFFIXES):
            yield _book(data, name, offset, join)


def _book(data: bytes, id: str, offset: int, join: bool) -> Item:
    # Strictly at first: text in another encoding never passes for UTF-8, but for UTF-8 with few faults it does.
    text = decode(data, [by_mark(data), "utf-8"], most_bad=0) or decode(data, _look_alikes(data))
    if text is None and data:
        return Drop("undecodable")
    text = without_envelope((text or "").replace("\r\n", "\n").replace("\r", "\n"))
    return Document(
        text=join_lines(text.strip()) if join else text.strip(), id=id, metadata={"offset": offset, "url": None}
    )


def _look_alikes(data: bytes) -> Iterator[str | None]:
    """What the bytes look like, where enough of them are not ASCII to show it; else the West is the safe guess."""
    beyond_ascii = len(data) - len(data.decode("ascii", "ignore"))
    if data.decode("utf-8", "replace").count("\ufffd") * 20 < beyond_ascii:
        yield "utf-8"
    if beyond_ascii > len(data) / 100:
        yield detect_encoding(data)
    yield "cp1252"


def without_envelope(text: str) -> str:
    """The book without what Project Gutenberg puts around it, and without its transcribers' notes."""
    starts = list(_START.finditer(text, 0, _HEAD))
    if starts:
        text = _PRODUCED_BY.sub("", text[starts[-1].end() :].lstrip("\n"))
    end = _END.search(text, max(len(text) - _HEAD, 0))
    return _NOTES.sub("", text[: end.start()] if end else text)
