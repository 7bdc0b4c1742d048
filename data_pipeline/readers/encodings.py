"""From bytes to text where the encoding is declared wrongly, or not at all."""

from collections.abc import Iterable

_MOST_BAD = 1 / 1000
"""Share of undecodable characters up to which an encoding is believed, as browsers show such pages."""


def decode(data: bytes, encodings: Iterable[str | None]) -> str | None:
    """The text by the first of `encodings` that fits, or None. Unknown and missing ones are passed over."""
    for encoding in encodings:
        if not encoding:
            continue
        try:
            text = data.decode(encoding, errors="replace")
        except (LookupError, ValueError):
            continue
        # A UTF-16 page read as a one-byte encoding decodes without an error, into text full of zeros.
        if text.count("\ufffd") + text.count("\0") <= len(text) * _MOST_BAD:
            return text.removeprefix("\ufeff")
    return None


def by_mark(data: bytes) -> str | None:
    """The encoding that a byte order mark declares."""
    if data.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return None
