"""Words and sentences by regular expressions, for datatrove's filters.

datatrove's own English tokenizer is spaCy's, which takes many times as long. Of use where words stand apart: not for
Chinese, Japanese or Thai.
"""

import re

from datatrove.utils.word_tokenizers import WordTokenizer

WORD = re.compile(r"\w+(?:['’.-]\w+)*|[^\w\s]")
"""Words with what joins their parts, and each sign by itself, as spaCy has them."""
SENTENCE = re.compile(r"\S.*?(?:[.!?…。！？]+[\"'”’»)\]]*(?=\s|$)|$)", re.DOTALL)


class Words(WordTokenizer):  # type: ignore[misc]
    """Stands where datatrove takes the name of a language."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words and signs of a text."""
        return WORD.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        """Its sentences."""
        return SENTENCE.findall(text)

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Begin and end of each sentence."""
        return [match.span() for match in SENTENCE.finditer(text)]
