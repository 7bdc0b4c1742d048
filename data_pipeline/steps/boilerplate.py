"""Drops pages that are near to empty or only menus, forms, lists and notices: whose text is not sentences.

The idea is jusText's (Pomikálek 2011, "Removing Boilerplate and Duplicate Content from Web Corpora", section 3): lines
of running text are long. Stop words, which it looks for as well, would need the language; here a line has to hold the
end of a sentence.
"""

import re
from collections import Counter

from datatrove.data import Document

from data_pipeline.steps.base import Step
from data_pipeline.steps.config import Boilerplate

LEAST = 60
"""Characters of a line of running text, so that text broken at a common width counts, too."""
DENSE = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff]")
"""Han, kana and Hangul, each of which counts as three letters."""
WITHOUT_STOPS = r"[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff]{30}"
"""Thai, Lao, Tibetan, Burmese and Khmer sentences may end in a space alone, which words do not."""
END = re.compile(rf"[.!?…։؟۔।፤።][\"'”’»)\]]*(?:\s|$)|[。！？]|{WITHOUT_STOPS}")


def make(config: Boilerplate) -> Step:
    """The step of a recipe."""

    def boilerplate(document: Document, counts: Counter[str]) -> str | None:
        running, whole = _characters(document.text)
        return "boilerplate" if running < config.characters or running < config.share * whole else None

    return boilerplate


def _characters(text: str) -> tuple[int, int]:
    """Of the lines of running text, and of all."""
    running = whole = 0
    for line in map(str.strip, text.split("\n")):
        length = len(line) if line.isascii() else len(line) + 2 * len(DENSE.findall(line))
        whole += length
        if length >= LEAST and END.search(line):
            running += length
    return running, whole
