"""Keeps documents by a quality filter, with GPT-3's rule."""

from collections import Counter
from pathlib import Path

from datatrove.data import Document

from data_pipeline.quality import QualityFilter
from data_pipeline.steps.base import Step
from data_pipeline.steps.config import Quality


def make(config: Quality, filters: Path) -> Step:
    """The step of a recipe; `filters` is the folder with the filters by name.

    Notes `quality` (0 to 1, four places) in the document's metadata; by that number it is kept or not.
    """
    judge = QualityFilter.load(filters / f"{config.filter}.npz")

    def quality(document: Document, counts: Counter[str]) -> str | None:
        document.metadata["quality"] = score = round(judge.score(document.text), 4)
        return None if judge.keeps(score, document.text) else "quality"

    return quality
