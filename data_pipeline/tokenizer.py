"""The tokenizer: loaded, fetched or trained, and an encoder that takes every text as text.

Special tokens are never made from text: a literal `<|endoftext|>` in a document is encoded as its characters.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data_pipeline.config import TrainTokenizer
from data_pipeline.errors import InputError

log = logging.getLogger("thalweg.prepare")

END_OF_TEXT = "<|endoftext|>"

Ids = npt.NDArray[np.uint32]


def from_path(path: Path) -> Tokenizer:
    """A tokenizer.json, or a folder that holds one or GPT-2's two files. Raises InputError."""
    if not path.exists():
        raise InputError(f"tokenizer.path: {path} is not there; give a tokenizer.json or a folder that holds one")
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if file.exists():
            return _checked(Tokenizer.from_file(str(file)))
        vocabulary = _first(path, "vocab.json", "encoder.json")
        merges = _first(path, "merges.txt", "vocab.bpe")
        return _checked(_byte_level(models.BPE.from_file(str(vocabulary), str(merges))))
    except InputError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(f"tokenizer.path: {file} is no tokenizer ({' '.join(str(error).split())})") from None


def from_hub(name: str) -> Tokenizer:
    """A tokenizer of the Hugging Face Hub. Raises InputError."""
    try:
        return _checked(Tokenizer.from_pretrained(name))
    except InputError:
        raise
    except Exception as error:  # tokenizers raises plain Exception, and each network layer its own
        reason = " ".join(str(error).split())[:300]
        hint = "check the name and the network, or download it and give tokenizer.path"
        raise InputError(f"tokenizer.hub: {name} cannot be fetched ({reason}); {hint}") from None


def train(texts: Iterable[str], config: TrainTokenizer) -> Tokenizer:
    """A byte-level BPE learned from `texts`; as in GPT-2 end-of-text is the last id."""
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _checked(tokenizer)


def files_of(path: Path) -> list[Path]:
    """The files that `from_path` reads, as far as they are there."""
    names = ("tokenizer.json", "vocab.json", "encoder.json", "merges.txt", "vocab.bpe")
    return [path / name for name in names if (path / name).is_file()] if path.is_dir() else [path]


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _first(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"tokenizer.path: {folder} has neither tokenizer.json nor {' nor '.join(names)}")


def _checked(tokenizer: Tokenizer) -> Tokenizer:
    """With end-of-text among its special tokens, and nothing that adds or cuts tokens."""
    tokenizer.add_special_tokens([END_OF_TEXT])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class Encoder:
    """Encodes texts by gigatoken where that gives the ids of `tokenizers`, else by `tokenizers`."""

    def __init__(self, tokenizer: Path | str) -> None:
        """`tokenizer` is the path of a tokenizer.json, or what stands in one."""
        self._reference, self._fast = _loaded(tokenizer if isinstance(tokenizer, str) else tokenizer.read_text("utf-8"))
        # Not the number of entries: ids may have gaps.
        self.vocab_size = max(self._reference.get_vocab().values()) + 1
        end_of_text = self._reference.token_to_id(END_OF_TEXT)
        if end_of_text is None:
            where = tokenizer if isinstance(tokenizer, Path) else "the tokenizer"
            raise InputError(f"{where}: has no {END_OF_TEXT}; take a tokenizer that has it")
        self.end_of_text: int = end_of_text

    def prove(self, texts: Sequence[str], ids: Sequence[str]) -> None:
        """Compares both on a sample of documents named by `ids`; from a difference on takes the slow one."""
        if self._fast is None:
            return
        for id, fast, slow in zip(ids, self.encode(texts), self._encode_slowly(texts), strict=True):
            if not np.array_equal(fast, slow):
                log.warning("gigatoken differs from tokenizers on document %s; encoding by tokenizers, more slowly", id)
                self._fast = None
                return

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, without end-of-text."""
        if self._fast is None:
            return self._encode_slowly(texts)
        import awkward  # type: ignore[import-untyped]

        encoded = self._fast.encode_batch(list(texts))
        flat = awkward.to_numpy(awkward.flatten(encoded))
        return np.split(flat, np.cumsum(awkward.to_numpy(awkward.num(encoded)))[:-1])

    def _encode_slowly(self, texts: Sequence[str]) -> list[Ids]:
        encoded = self._reference.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(each.ids, dtype=np.uint32) for each in encoded]


@lru_cache(maxsize=1)
def _loaded(text: str) -> tuple[Tokenizer, Any]:
    """The reference and gigatoken's, once a process: each loading takes a while, and leaves memory in pieces."""
    description = json.loads(text)
    # A post-processor would put tokens around each text.
    description["post_processor"] = None
    reference = Tokenizer.from_str(json.dumps(description))
    reference.encode_special_tokens = True
    return reference, _gigatoken(description)


def _gigatoken(description: dict[str, Any]) -> Any:
    """The tokenizer of gigatoken for this description, or None where there is none."""
    if any(not token["special"] for token in description["added_tokens"]):
        return None  # these do count in texts, and gigatoken is loaded without added tokens
    try:
        import gigatoken

        return gigatoken.Tokenizer.from_json(json.dumps(description | {"added_tokens": []}))
    except Exception as error:  # a panic or a format that it does not know: each is a reason for the slow one
        log.warning("gigatoken cannot be used (%s); encoding by tokenizers, more slowly", error)
        return None
