"""The table of docs/planning.md, and the constants, are those of the benchmark."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_has_the_errors_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import planner

    runs, page = planner.published(), (ROOT / "docs" / "planning.md").read_text()
    sys.modules.pop("planner")
    assert "\n".join(planner.short(runs)) in page
    errors = [each.error(planner.CONSTANTS) for each in runs]
    assert planner.summary(errors).replace("%", " %") in page
    assert sorted(map(abs, errors))[len(errors) // 2] < planner.MEDIAN and max(map(abs, errors)) < planner.WORST
