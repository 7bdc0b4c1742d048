"""Lines of prose are joined, lines of verse and tables are not."""

import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora import read_all
from data_pipeline.config import FileSource
from data_pipeline.readers.paragraphs import join_lines

WORDS = st.lists(st.text("abcdefgé'", min_size=1, max_size=9), min_size=160, max_size=200).map(" ".join)
PROSE = [
    "It was so cold that the river had stopped, and those who lived along it came out to walk on it as if it had been "
    "a street; nobody knew when that had happened before--perhaps never--and the well-known old ferryman, who had "
    "nothing to do, sat on his boat. Then He who had sold them all their bread for so many years said it was time.",
    "Nobody believed him, since the ice was as thick as a man's arm is long and the sky had no cloud in it; but in the "
    "night the wind turned, and in the morning there was water again where they had walked, and he rowed them over it.",
]
VERSE = """  The river that had stopped to rest
  Lay still beneath the snow, and long
  We walked upon its frozen breast,
    And no one thought it wrong."""
LONG_VERSE = """See how eagerly the lobsters and the turtles all advance together!
They are waiting on the shingle in the cold and windy weather,
Many of them far too old to dance, and many far too young for it,
Asking for a tune that nobody has ever yet been sung for it,
Waiting on the shingle in the cold and very windy weather."""
TABLE = "Chapter I      The river as it was seen by all     1\nChapter II     The thaw that nobody had expected  12"
ADDRESS = "Your affectionate brother,\nRobert"


def wrapped(paragraph: str, width: int) -> str:
    return textwrap.fill(paragraph, width, break_on_hyphens=True)


@settings(max_examples=30)
@given(st.lists(WORDS, min_size=1, max_size=5), st.integers(60, 90))
def test_wrapped_lines_come_back_as_they_were(paragraphs: list[str], width: int) -> None:
    assert join_lines("\n\n".join(wrapped(each, width) for each in paragraphs)) == "\n\n".join(paragraphs)


@pytest.mark.parametrize("width", [60, 66, 72, 79])
def test_prose_is_joined_and_what_is_short_by_intention_stays(width: int) -> None:
    quoted = textwrap.indent(wrapped(PROSE[1], width - 8), "    ")
    kept = [VERSE, TABLE, ADDRESS, LONG_VERSE]
    book = [wrapped(PROSE[0], width), *kept, wrapped(PROSE[1], width), quoted]
    filling = [wrapped(PROSE[1], width)] * 3
    assert join_lines("\n\n\n".join(book + filling)).split("\n\n\n") == [PROSE[0], *kept, *[PROSE[1]] * 5]


@pytest.mark.parametrize(
    "whole", ["\n\n".join(PROSE), "\n\n".join([VERSE] * 9), "東京は夜の\n七時です。\n" * 9, "", "one\ntwo"]
)
def test_text_without_a_common_width_stays_as_it_is(whole: str) -> None:
    assert join_lines(whole) == whole


def test_the_recipe_may_leave_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(wrapped(each, 70) for each in PROSE))
    source = {"kind": "books", "paths": [path]}
    for options, text in (({}, "\n\n".join(PROSE)), ({"join_lines": False}, path.read_text())):
        [book], _ = read_all(path, FileSource.model_validate(source | options))
        assert book.text == text
    with pytest.raises(ValueError, match="join_lines is of kind books"):
        FileSource.model_validate({"kind": "wet", "paths": [path], "join_lines": True})
