"""The rule filters of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1) and C4 (Raffel et al. 2020, section 2.2).

The rules are datatrove's, with words and sentences of ours.
"""

from collections import Counter

from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.base_filter import BaseFilter

from data_pipeline.steps.base import Step
from data_pipeline.steps.config import C4, GopherQuality, GopherRepetition
from data_pipeline.steps.words import Words

REASONS = {"gopher_enough_stop_words": "few stop words"}
"""Where datatrove's name says the opposite."""


def make(config: GopherQuality | GopherRepetition | C4) -> Step:
    """The step of a recipe. C4's also takes lines out of a document."""
    rules, name = _filter(config), config.kind

    def rule(document: Document, counts: Counter[str]) -> str | None:
        told = rules.filter(document)
        kept, reason = told if isinstance(told, tuple) else (told, "")
        return None if kept else f"{name}: {REASONS.get(reason, reason.removeprefix('gopher_').replace('_', ' '))}"

    return rule


def _filter(config: GopherQuality | GopherRepetition | C4) -> BaseFilter:
    words = Words()
    match config:
        case GopherQuality():
            return GopherQualityFilter(
                min_doc_words=config.min_words,
                max_doc_words=config.max_words,
                min_stop_words=config.min_stop_words,
                stop_words=config.stop_words,
                language=words,
            )
        case GopherRepetition():
            return GopherRepetitionFilter(language=words)
        case C4():
            return C4QualityFilter(filter_no_terminal_punct=config.terminal_punctuation, language=words)
