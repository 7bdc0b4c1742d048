"""ARC files, versions 1 and 2: the Internet Archive's format before WARC, which Heritrix wrote until 2009.

Burner and Kahle 1996, "Arc File Format". A record is a line (address, IP, date, type, in version 2 also status,
checksum, location, offset and file, and the length) and so many bytes. warcio reads it too, but ends at a bad record.
"""

from pathlib import Path

from data_pipeline.readers.files import Damaged
from data_pipeline.readers.records import Format
from data_pipeline.readers.window import Window, open_window

_LONGEST_LINE = 2**13
_ADDRESS, _IP, _DATE = rb"([a-zA-Z][a-zA-Z0-9+.-]{0,20}:[^\r\n]{1,6000}?)", rb"[0-9a-fA-F.:]{1,45}", rb"\d{8,17}"
# A type may hold spaces (text/html; charset=utf-8); those of version 2 lie between it and the length.
_LINE = rb"%b %b %b (?:[^\r\n]{0,1500}? )?(\d{1,12})[ \t]*\r?\n" % (_ADDRESS, _IP, _DATE)


def is_arc(path: Path) -> bool:
    """By its name, or by the record at its beginning that describes it."""
    if ".arc" in path.suffixes[-2:]:
        return True
    try:
        with open_window(path) as window:
            window.fill(9)
            return window.buffer.startswith(b"filedesc:")
    except Damaged:
        return False


def _headers(window: Window) -> dict[str, str]:
    window.fill(_LONGEST_LINE)
    line = ARC.first_line.match(window.buffer)
    if line is None:
        if b"\n" not in window.buffer[:_LONGEST_LINE] and len(window.buffer) < _LONGEST_LINE:
            window.raise_damage()
            raise EOFError("ends inside a record's first line")
        return {}
    url, length = line[1].decode("utf-8", "replace"), line[2].decode()  # before the window moves under the match
    window.skip(line.end())
    kind = "warcinfo" if url.startswith("filedesc:") else "response"
    return {"warc-type": kind, "warc-target-uri": url, "content-length": length}


ARC = Format(_LINE, _LONGEST_LINE, _headers)
