"""Keeps documents by a quality filter, with GPT-3's rule."""

from collections import Counter
from pathlib import Path

from datatrove.data import Document

from data_pipeline.quality import QualityFilter
from data_pipeline.steps.base import Step
from data_pipeline.steps.config import Quality

BINS = 20
"""Of the histogram of scores."""


def make(config: Quality, filters: Path) -> Step:
    """The step of a recipe; `filters` is the folder with the filters by name.

    Notes `quality` (0 to 1, four places) in the document's metadata; by that number it is kept or not. Counts
    `score/kept/S` and `score/dropped/S` for scores from S on.
    """
    judge = QualityFilter.load(filters / f"{config.filter}.npz")

    def quality(document: Document, counts: Counter[str]) -> str | None:
        document.metadata["quality"] = score = round(judge.score(document.text), 4)
        kept = judge.keeps(score, document.text)
        counts[f"score/{'kept' if kept else 'dropped'}/{min(int(score * BINS), BINS - 1) / BINS}"] += 1
        return None if kept else "quality"

    return quality
