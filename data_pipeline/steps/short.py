"""Drops documents that are near to empty."""

from collections import Counter

from datatrove.data import Document

from data_pipeline.steps.base import Step
from data_pipeline.steps.config import Short


def make(config: Short) -> Step:
    """The step of a recipe."""

    def short(document: Document, counts: Counter[str]) -> str | None:
        return "short" if len(document.text.strip()) < config.characters else None

    return short
