"""Checkpoints to and from folders of Hugging Face transformers, each compared with what it was made of."""

import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor

from data_pipeline.durable import whole_folder
from data_pipeline.errors import InputError
from data_pipeline.tokenizer import END_OF_TEXT, from_path
from launcher.yaml_file import override
from model.config import ModelConfig
from model.exchange import families, folder, parity
from model.exchange.memory import give_back
from training import checkpoint
from training.errors import RunError

log = logging.getLogger("thalweg.exchange")

T = TypeVar("T")

COMPARED_TOKENS = 512
"""The text is cut to so many tokens, or where layers are banded to enough to look beyond the band."""

CHARACTERS = 32
"""So many of the text are read for each of these tokens: always enough, and a small part of a large file."""

LEAST_TOKENS = 16
"""A text of fewer proves nothing."""


def export_checkpoint(name: str, out: Path, text: Path | None, tolerance: float, max_shard_size: str) -> str:
    """Writes a folder of transformers and says what it is.

    Raises InputError where no family of transformers is the network, RunError where the folder computes otherwise.
    """
    _quiet_libraries()
    source, max_shard_bytes = checkpoint.find(name), _size(max_shard_size)
    config = checkpoint.read_model(source)
    family = _asked(source, lambda: families.target(config))
    passage = _passage(text, config)
    if config.document_mask:
        log.info("document_mask is a matter of training: transformers will read a text as one document")
    with whole_folder(out) as partial:
        network = checkpoint.open_network(source)
        tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
        tokens = _tokens(tokenizer, passage, config)
        ours = parity.record_network(network, tokens)
        del network
        give_back()
        parameters, end_of_text = checkpoint.read_weights(source), _end_of_text(tokenizer, source)
        folder.write(partial, config, parameters, end_of_text=end_of_text, max_shard_bytes=max_shard_bytes)
        _write_tokenizer(source / "tokenizer.json", partial, config.n_ctx)
        _check_tokenizer(partial, passage, tokens)
        agreement = _compared(ours, parity.record_folder(partial, tokens), tokens, tolerance)
    return f"{out}: a {family.TYPE} for transformers; {agreement}"


def import_folder(source: Path, out: Path, text: Path | None, tolerance: float) -> str:
    """Writes a checkpoint that holds weights alone and says what it is.

    Raises InputError for what our network cannot represent, RunError where the checkpoint computes otherwise.
    """
    _quiet_libraries()
    config, parameters = _asked(source, lambda: folder.read(source))
    tokenizer = _tokenizer_of(source)
    end_of_text = _end_of_text(tokenizer, source)
    _check_end(source, end_of_text)
    _check_vocabulary(source, tokenizer, config)
    passage = _passage(text, config)
    if config.end_of_text is None:
        config = config.model_copy(update={"end_of_text": end_of_text})
    with whole_folder(out) as partial:
        _asked(
            source, lambda: checkpoint.write_weights_only(partial, config, parameters, tokenizer.to_str(pretty=True))
        )
        tokens = _tokens(tokenizer, passage, config)
        theirs = parity.record_folder(source, tokens)
        ours = parity.record_network(checkpoint.open_network(partial), tokens)
        agreement = _compared(theirs, ours, tokens, tolerance)
    return f"{out}: a checkpoint of weights alone; {agreement}"


def _quiet_libraries() -> None:
    """Keeps the progress bars of transformers, and what DeepSpeed says where transformers imports it, to themselves."""
    from transformers.utils import logging as their_logging

    their_logging.set_verbosity_error()
    their_logging.disable_progress_bar()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _asked(source: Path, answer: Callable[[], T]) -> T:
    """The answer; what the exchange refuses is the user's to mend."""
    try:
        return answer()
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None


def _size(text: str) -> int:
    size = override({}, [f"--max-shard-size={text}"])["--max-shard-size"]
    if not isinstance(size, int) or size <= 0:
        raise InputError(f"--max-shard-size: is {text}; write a size such as 5G or 512Mi")
    return size


def _passage(path: Path | None, config: ModelConfig) -> str:
    """The beginning of the text to compare on: the file's, or English that is on every machine with Python."""
    if path is None:
        from pydoc_data.topics import topics

        return "\n".join(topics[topic] for topic in sorted(topics))[: CHARACTERS * _compared_tokens(config)]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    if not text.strip():
        raise InputError(f"{path}: holds no text; give a file with some hundred words")
    return text[: CHARACTERS * _compared_tokens(config)]


def _compared_tokens(config: ModelConfig) -> int:
    beyond = config.band + COMPARED_TOKENS // 2 if config.attention == "alternating" else 0
    return min(max(COMPARED_TOKENS, beyond), config.n_ctx)


def _tokens(tokenizer: Tokenizer, passage: str, config: ModelConfig) -> Tensor:
    """The token ids 1 T of the passage that both networks are to read."""
    ids = _ids(tokenizer, passage)[: _compared_tokens(config)]
    if len(ids) < min(LEAST_TOKENS, config.n_ctx):
        raise InputError(f"--text: has {len(ids)} tokens, too few to compare on; give some hundred words")
    return torch.tensor([ids])


def _ids(tokenizer: Tokenizer, passage: str) -> list[int]:
    tokenizer.encode_special_tokens = True
    return list(tokenizer.encode(passage, add_special_tokens=False).ids)


def _write_tokenizer(tokenizer_json: Path, out: Path, n_ctx: int) -> None:
    """The tokenizer under the names that AutoTokenizer looks for."""
    description = json.loads(tokenizer_json.read_bytes())
    description["post_processor"] = None  # it would put tokens around each text
    (out / "tokenizer.json").write_text(json.dumps(description, ensure_ascii=False), encoding="utf-8")
    options = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "model_max_length": n_ctx,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")


def _check_tokenizer(out: Path, passage: str, tokens: Tensor) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(out)
    if tokenizer(passage, split_special_tokens=True).input_ids[: tokens.shape[1]] != tokens[0].tolist():
        raise RunError("tokenizer.json: transformers reads it as another tokenizer; nothing was written")


def _tokenizer_of(source: Path) -> Tokenizer:
    try:
        return from_path(source)
    except InputError as error:
        raise InputError(str(error).removeprefix("tokenizer.path: ")) from None


def _end_of_text(tokenizer: Tokenizer, source: Path) -> int:
    id = tokenizer.token_to_id(END_OF_TEXT)
    if id is None:
        raise InputError(f"{source}: has no {END_OF_TEXT} in its tokenizer; add it to the vocabulary")
    return id


def _check_end(source: Path, end_of_text: int) -> None:
    """Raises InputError where a network of theirs ends texts by another token."""
    ends = _asked(source, lambda: folder.read_fields(source))["eos_token_id"]
    if end_of_text not in (ends if isinstance(ends, list) else [ends]):
        raise InputError(
            f"{source}: eos_token_id is {ends}, but {END_OF_TEXT} has id {end_of_text} in its tokenizer; "
            f"thalweg ends texts with {END_OF_TEXT}"
        )


def _check_vocabulary(source: Path, tokenizer: Tokenizer, config: ModelConfig) -> None:
    """Raises InputError where the tokenizer gives ids that the network has no row for."""
    entries = max(tokenizer.get_vocab().values()) + 1
    if entries > config.vocab_size:
        raise InputError(
            f"{source}: its tokenizer has {entries} entries and its network {config.vocab_size}; "
            "resize the embedding with transformers, or take the tokenizer that it was trained with"
        )


def _compared(expected: parity.Recording, found: parity.Recording, tokens: Tensor, tolerance: float) -> str:
    """Says how well they agree. Raises RunError where they do not."""
    difference = expected.differs_from(found)
    if math.isnan(difference) or difference > tolerance:
        raise RunError(
            f"logits differ by {difference:.1e} of their standard deviation, more than {tolerance:.0e}: "
            f"{expected.first_difference(found, tolerance)}; nothing was written. If it is rounding, as where weights "
            "are very large, allow more by --tolerance"
        )
    return f"logits of {tokens.shape[1]} tokens agree to {difference:.1e} of their standard deviation"
