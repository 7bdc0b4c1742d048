"""Text from a checkpoint."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from data_pipeline.errors import InputError
from data_pipeline.tokenizer import END_OF_TEXT
from model.beam import beam_search
from model.generate import generate
from model.gpt import GPT
from training import checkpoint
from training.errors import RunError

ROWS_AT_ONCE = 16
"""Texts of a batch; the memory for their keys and values grows with it."""


@dataclass(frozen=True)
class Sampling:
    """Texts are drawn; sample i of each prompt with seed + i."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    samples: int = 1


@dataclass(frozen=True)
class Beams:
    """The likeliest text found by beam search."""

    width: int
    length_penalty: float = 0.6


@dataclass(frozen=True)
class Text:
    """What was written after a prompt."""

    prompt: str
    prompt_tokens: int
    seed: int | None
    """None where nothing was drawn."""
    text: str
    """Without the prompt and without the end-of-text."""
    tokens: int
    """Of the text, its end-of-text included."""
    ended: bool
    """Whether by end-of-text rather than after so many tokens."""


def method(beams: int | None, length_penalty: float | None, **drawing: float | None) -> Sampling | Beams:
    """How to write, from the options of the command line; None are those not given.

    Raises InputError for options that do not go together.
    """
    given = {name: value for name, value in drawing.items() if value is not None}
    for name, value in (given | {"length_penalty": length_penalty or 0.0}).items():
        if math.isnan(value):
            raise InputError(f"{_option(name)}: is not a number; give one")
    if beams is None:
        if length_penalty is not None:
            raise InputError("--length-penalty: is for a beam search; give --beams, too, or leave it out")
        return Sampling(**given)  # type: ignore[arg-type]
    if given:
        named = ", ".join(map(_option, given))
        raise InputError(f"--beams: draws nothing, and {named} is for drawing; leave one of them out")
    return Beams(beams) if length_penalty is None else Beams(beams, length_penalty)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def write(name: str, prompts: list[str], max_tokens: int, how: Sampling | Beams) -> list[Text]:
    """What the network of a checkpoint adds to each prompt, sample by sample; on a GPU where there is one.

    Raises InputError for a checkpoint that writes no text, RunError for one whose logits are no numbers.
    """
    folder = checkpoint.find(name)
    network = checkpoint.open_network(folder)
    if not network.config.causal:
        raise InputError(
            f"{folder}: is of objective denoise, which restores masked tokens and cannot go on from a text; "
            "name a checkpoint of objective next_token"
        )
    tokenizer, end_of_text = _tokenizer(folder)
    seeds = [how.seed + i for i in range(how.samples)] if isinstance(how, Sampling) else [None]
    asked = [(prompt, seed) for prompt in prompts for seed in seeds]
    encoded = [_encode(tokenizer, prompt) for prompt, _ in asked]
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if isinstance(how, Beams):
            written = [_searched(network, ids, max_tokens, end_of_text, how) for ids in encoded]
        else:
            written = _sampled(network, encoded, max_tokens, end_of_text, how)
    except ValueError as error:
        raise RunError(f"{folder}: {error}") from None
    return [
        Text(
            prompt=prompt,
            prompt_tokens=len(ids),
            seed=seed,
            text=str(tokenizer.decode(continuation, skip_special_tokens=True)),
            tokens=len(continuation),
            ended=continuation[-1:] == [end_of_text],
        )
        for (prompt, seed), ids, continuation in zip(asked, encoded, written, strict=True)
    ]


def printed(texts: list[Text]) -> str:
    """Prompt and text; each under a line of its own where there are several."""
    if len(texts) == 1:
        return texts[0].prompt + texts[0].text
    parts = []
    for number, text in enumerate(texts, start=1):
        seed = "" if text.seed is None else f", seed {text.seed}"
        parts.append(f"--- {number} of {len(texts)}{seed}\n{text.prompt}{text.text}")
    return "\n".join(parts)


def _tokenizer(folder: Path) -> tuple[Tokenizer, int]:
    """A checkpoint's tokenizer, which takes no text for a special token, and its end-of-text."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    if end_of_text is None:
        raise InputError(f"{folder / 'tokenizer.json'}: has no {END_OF_TEXT}; add it to the vocabulary")
    return tokenizer, end_of_text


def _encode(tokenizer: Tokenizer, prompt: str) -> list[int]:
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise InputError(f"--prompt: {prompt!r} is not UTF-8; give it as such") from None
    return list(tokenizer.encode(prompt, add_special_tokens=False).ids)


def _searched(network: GPT, prompt: list[int], max_tokens: int, end_of_text: int, how: Beams) -> list[int]:
    return beam_search(
        network,
        prompt,
        max_tokens=max_tokens,
        end_of_text=end_of_text,
        width=how.width,
        length_penalty=how.length_penalty,
    )


def _sampled(
    network: GPT, prompts: list[list[int]], max_tokens: int, end_of_text: int, how: Sampling
) -> list[list[int]]:
    """Continuations of prompts, in which each stands once for each of its samples."""
    written: list[list[int]] = []
    for start in range(0, len(prompts), ROWS_AT_ONCE):
        rows = range(start, min(start + ROWS_AT_ONCE, len(prompts)))
        written += generate(
            network,
            [prompts[row] for row in rows],
            max_tokens=max_tokens,
            end_of_text=end_of_text,
            temperature=how.temperature,
            top_k=how.top_k,
            top_p=how.top_p,
            seeds=[how.seed + row % how.samples for row in rows],
        )
    return written
