"""Texts that the network writes while it is trained, in samples.jsonl.

A round is written with the weights that a checkpoint of that step holds, as `thalweg generate` would write it.
"""

import logging

from tokenizers import Tokenizer

from model.generate import generate
from model.gpt import GPT
from training.callback import Callback, StepResult
from training.run import Run
from training.watching_config import SamplesConfig
from training.whole_network import with_whole_network

log = logging.getLogger("thalweg.samples")

SHOWN = 100
"""Characters of a text in the log."""


class Samples(Callback):
    """Continues each prompt every so many tokens and at the end. Rank 0 writes, the others give their weights."""

    def __init__(self, config: SamplesConfig) -> None:
        self._config = config

    def on_start(self, run: Run) -> None:
        if self._config.every_tokens is None:
            return
        self._tokenizer = Tokenizer.from_str(run.stream.vocabulary.json)
        self._tokenizer.encode_special_tokens = True  # no text is taken for a special token

    def on_step(self, run: Run, result: StepResult) -> None:
        every = self._config.every_tokens
        if every is None:
            return
        before = run.tokens - result.tokens
        if before // every < run.tokens // every or run.finished:
            with run.phase.inside("samples"):
                with_whole_network(run.engine, run.model, lambda network: self._write(run, network), run.phase.move)

    def _write(self, run: Run, network: GPT) -> None:
        config, end_of_text = self._config, run.stream.vocabulary.end_of_text
        network.norm.register_forward_pre_hook(lambda *_: run.phase.move())  # a large network takes long for a token
        try:
            written = generate(
                network,
                [self._tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in config.prompts],
                max_tokens=config.max_tokens,
                end_of_text=end_of_text,
                temperature=config.temperature,
                top_p=config.top_p,
                seeds=[config.seed] * len(config.prompts),
            )
        except ValueError as error:
            log.warning("step %d: no samples: %s", run.progress.step, error)
            return
        for prompt, ids in zip(config.prompts, written, strict=True):
            text = str(self._tokenizer.decode(ids, skip_special_tokens=True))
            run.folder.sample(
                {
                    "step": run.progress.step,
                    "tokens": run.tokens,
                    "prompt": prompt,
                    "text": text,
                    "text_tokens": len(ids),
                    "ended": ids[-1:] == [end_of_text],
                    "temperature": config.temperature,
                    "top_p": config.top_p,
                    "seed": config.seed,
                }
            )
            log.info("step %d  %s", run.progress.step, _shown(prompt, text))


def _shown(prompt: str, text: str) -> str:
    """One line of a prompt and what follows it."""
    whole = f"{prompt!r} -> {text!r}"
    return whole if len(whole) <= SHOWN else f"{whole[:SHOWN]}..."
