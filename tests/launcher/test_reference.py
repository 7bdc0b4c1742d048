from pathlib import Path

from launcher import parameter_table
from launcher.reference import render

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "configuration.md"


def test_the_reference_page_is_that_of_the_models() -> None:
    assert PAGE.read_text() == render(), "run `make reference`"


def test_the_parameter_page_is_that_of_the_networks() -> None:
    """Every preset, GPT-3's 175 billion included, is built on the meta device for it."""
    assert (DOCS / "parameters.md").read_text() == parameter_table.render(), "run `make reference`"


def test_every_field_is_explained() -> None:
    rows = [line.split("|") for line in render().splitlines() if line.startswith("| ") and "---" not in line]
    assert not [row[1] for row in rows if not row[-2].strip()]
