"""The step that keeps documents by a quality filter."""

from pathlib import Path

import numpy as np
import pytest
from datatrove.data import Document

from data_pipeline.config import FileSource
from data_pipeline.errors import InputError
from data_pipeline.quality import QualityFilter, draw
from data_pipeline.quality_fit import fit
from data_pipeline.reading import Task
from data_pipeline.steps.apply import ApplySteps
from filters import texts

STEP = {"kind": "quality", "filter": "good"}


@pytest.fixture(scope="module")
def filters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filters")
    fit(texts("good", 400), texts("bad", 400), features=2**12, alpha=2.0).save(folder / "good.npz")
    return folder


def applied(given: list[str], filters: Path, step: dict = STEP) -> tuple[dict[str, float], int]:
    """Score of each text that is kept, and how many were dropped."""
    config = FileSource.model_validate({"kind": "wet", "paths": ["a.wet"], "steps": [step]})
    block = ApplySteps([Task("crawl", config, ())], filters, filters, [filters / "samples.json"])
    kept = {each.text: each.metadata["quality"] for each in block.run([Document(text, id="1") for text in given])}
    return kept, int(block.stats["dropped/quality"].total)


def test_what_is_kept_is_the_same_in_any_order_and_split(filters: Path) -> None:
    given = texts("good", 200, seed=5) + texts("bad", 200, seed=5)
    kept, dropped = applied(given, filters)
    assert len(kept) + dropped == 400 and 0 < dropped < 400
    assert applied(given[::-1], filters)[0] == kept
    assert applied(given[:77], filters)[0] | applied(given[77:], filters)[0] == kept


def test_the_noted_score_and_the_text_alone_decide(filters: Path) -> None:
    given = texts("good", 200, seed=6) + texts("bad", 200, seed=6)
    kept, _ = applied(given, filters)
    judge = QualityFilter.load(filters / "good.npz")
    scores = np.round([judge.score(text) for text in given], 4)
    threshold = 2 - (1 - np.array([draw(text, "keep", 0) for text in given])) ** -0.5
    assert kept == {text: score for text, score, least in zip(given, scores, threshold, strict=True) if score > least}
    good = sum(text in kept for text in given[:200])
    assert good > 1.5 * (len(kept) - good) > 0


def test_a_filter_that_is_not_there_is_named(filters: Path) -> None:
    with pytest.raises(InputError, match=r"other\.npz: cannot be read"):
        applied(["a"], filters, STEP | {"filter": "other"})
