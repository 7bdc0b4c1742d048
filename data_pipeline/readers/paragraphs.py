"""Hard line breaks joined into paragraphs, as in the plain text of Project Gutenberg; verse and tables stay.

A line of prose was broken because the next word did not fit any more; a line of verse, of a table or of an address
ends before. A paragraph is joined where that explains nearly all of its breaks.
"""

import re
from itertools import pairwise

import numpy as np

_BREAK = re.compile(r"(\n(?:[ \t]*\n)+)")
_COLUMNS = ("   ", "\t", "......", "____", "====")
_FIRST_LETTER = re.compile(r"[\W\d_]*([^\W\d_])")
_DASH = ("-", "—", "–")
_NARROWEST, _WIDEST = 55, 100
"""Characters. Narrower lines are verse or newspaper columns, wider ones are whole paragraphs."""
_SLACK = 0.88
"""Share of the width that lines reach which were broken by hand, or broken again after changes."""


def join_lines(text: str) -> str:
    """The text with each paragraph of prose in one line; all of it as it is where lines have no common width."""
    parts = _BREAK.split(text)
    paragraphs = [part.split("\n") for part in parts[::2]]
    lengths = [len(line.rstrip()) for lines in paragraphs if len(lines) > 2 for line in lines[:-1]]
    width = float(np.percentile(lengths, 90)) if lengths else 0.0
    if not _NARROWEST <= width <= _WIDEST:
        return text
    parts[::2] = [_joined(lines) if _is_prose(lines, width) else "\n".join(lines) for lines in paragraphs]
    return "".join(parts)


def _is_prose(lines: list[str], width: float) -> bool:
    indents = [len(line) - len(line.lstrip()) for line in lines[1:]]
    if not indents or max(indents) - min(indents) > 1 or _has_columns(lines):
        return False
    broken = [
        len(line.rstrip()) + 1 + len((following.split(maxsplit=1) or [""])[0]) >= width * _SLACK
        for line, following in pairwise(lines)
    ]
    low = [not found[1].isupper() for line in lines[1:] if (found := _FIRST_LETTER.match(line))]
    if not any(low):
        # As in verse; in prose it is chance.
        return all(broken) and len(low) < 4
    # Lines of verse mostly begin with a capital, lines of prose mostly do not.
    return sum(broken) >= len(broken) * (0.5 if sum(low) * 3 > len(low) else 0.8)


def _has_columns(lines: list[str]) -> bool:
    inner = "\n".join(map(str.strip, lines))
    return any(mark in inner for mark in _COLUMNS)


def _joined(lines: list[str]) -> str:
    joined = lines[0].strip()
    for line in lines[1:]:
        line = line.strip()
        # A dash holds together what stands on both of its sides, unless it has spaces around it.
        is_held = (joined.endswith(_DASH) and not joined[:-1].rstrip("-").endswith(" ")) or line.startswith(("--", "—"))
        joined += line if is_held and not line.startswith(("-- ", "— ")) else f" {line}"
    return joined
