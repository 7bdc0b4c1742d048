"""From bytes to text where the encoding is declared wrongly, or not at all."""

import re
from collections.abc import Iterable

_ESCAPED = re.compile("[\udc80-\udcff]")
MOST_BAD = 1 / 1000
"""Share of undecodable characters up to which an encoding is believed, as browsers show such pages."""


def decode(data: bytes, encodings: Iterable[str | None], most_bad: float = MOST_BAD) -> str | None:
    """The text by the first of `encodings` that fits, or None. Unknown and missing ones are passed over.

    One fits if at most the share `most_bad` of the characters cannot be decoded; these are replaced.
    """
    for encoding in encodings:
        if not encoding:
            continue
        try:
            text = data.decode(encoding, errors="surrogateescape")
        except (LookupError, ValueError):
            continue
        bad = _undecoded(text)
        # A UTF-16 page read as a one-byte encoding decodes without an error, into text full of zeros.
        if bad <= len(text) * most_bad and text.count("\0") <= len(text) * MOST_BAD:
            return (data.decode(encoding, errors="replace") if bad else text).removeprefix("\ufeff")
    return None


def _undecoded(text: str) -> int:
    return 0 if text.isascii() else len(_ESCAPED.findall(text))


def by_mark(data: bytes) -> str | None:
    """The encoding that a byte order mark declares."""
    if data.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return None
