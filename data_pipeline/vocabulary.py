"""The vocabulary that all sources of a run share."""

import json
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import InputError


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as it is written, and what the stream needs to know of it."""

    size: int
    """One more than the largest id."""
    end_of_text: int
    json: str
    """The whole tokenizer.json."""
    path: Path
    """Where it is from, for messages."""

    @staticmethod
    def open(path: Path) -> "Vocabulary":
        """Of a tokenizer.json, or a folder that holds one or GPT-2's two files. Raises InputError."""
        from data_pipeline.tokenizer import END_OF_TEXT, from_path

        tokenizer = from_path(path)
        end_of_text = tokenizer.token_to_id(END_OF_TEXT)
        assert end_of_text is not None, "from_path adds it"
        return Vocabulary(max(tokenizer.get_vocab().values()) + 1, end_of_text, tokenizer.to_str(), path)

    def refuse_other(self, other: "Vocabulary", key: str) -> None:
        """Raises InputError where `other`, which `key` names, gives other ids to the same text."""
        from tokenizers import Tokenizer

        if self.json == other.json:
            return
        # Written by the same library, so that forms of different age compare.
        mine, theirs = (json.loads(Tokenizer.from_str(each.json).to_str())["model"] for each in (self, other))
        same = (self.size, self.end_of_text) == (other.size, other.end_of_text)
        if not same or any(mine.get(part) != theirs.get(part) for part in ("type", "vocab", "merges")):
            raise InputError(
                f"{key}: {other.path} is another vocabulary than that of {self.path}; "
                "sources of one run must be of one tokenizer"
            )
