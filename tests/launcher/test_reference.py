from pathlib import Path

from launcher.reference import render

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def test_the_reference_page_is_that_of_the_models() -> None:
    assert PAGE.read_text() == render(), "run `make reference`"


def test_every_field_is_explained() -> None:
    rows = [line.split("|") for line in render().splitlines() if line.startswith("| ") and "---" not in line]
    assert not [row[1] for row in rows if not row[-2].strip()]
