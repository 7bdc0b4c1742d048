"""What a network learns from a sequence: to predict each next token, or to restore masked ones.

Both are a function of the window of n_ctx + 1 tokens alone, and of seed and position for the masks, so that any
number of processes masks the same tokens.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.config import ModelConfig

MASKED_SHARE = 0.15
REPLACED_BY_MASK, REPLACED_BY_RANDOM = 0.8, 0.1
"""The rest stays as it is (Devlin et al. 2019, section 3.1)."""


class Task(NamedTuple):
    """What `GPT.forward` takes of a batch."""

    inputs: Tensor
    """B T token ids."""
    targets: Tensor
    """B K token ids to predict."""
    places: Tensor | None
    """B K positions of the inputs at which they are predicted; None for all of them, K = T."""


def task(config: ModelConfig, tokens: Tensor, seed: int, positions: Iterable[int]) -> Task:
    """The task in windows of tokens B T+1; `positions`, one a sequence, tell its place in the order of data."""
    if config.objective == "next_token":
        return Task(tokens[:, :-1], tokens[:, 1:], None)
    rows = [_masked(config, row, seed, position) for row, position in zip(tokens[:, :-1], positions, strict=True)]
    return Task(*(torch.stack(each) for each in zip(*rows, strict=True)))


def masked_count(length: int) -> int:
    """Masked tokens of a sequence: the same of all, so that every sequence weighs the same."""
    return max(1, round(MASKED_SHARE * length))


def _masked(config: ModelConfig, row: Tensor, seed: int, position: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs T, targets K and places K of one sequence.

    Separators of documents are not masked, nor put in the place of others, since they tell where documents end.
    Raw words of a counter-based generator: what NumPy makes of them may change from release to release.
    """
    length, count = len(row), masked_count(len(row))
    words = np.random.Philox(key=seed, counter=[0, 0, 0, position]).random_raw(length + 2 * count)
    separators = (row == config.end_of_text if config.end_of_text is not None else torch.zeros_like(row)).numpy()
    drawn = np.lexsort((words[:length], separators))[:count]
    places = torch.from_numpy(np.sort(drawn))
    chance = torch.from_numpy(words[length : length + count] / 2.0**64)
    other = torch.from_numpy((words[length + count :] % np.uint64(config.vocab_size)).astype(np.int64))
    targets = row[places]
    shown = torch.where(chance < REPLACED_BY_MASK + REPLACED_BY_RANDOM, other, targets)
    masked = (chance < REPLACED_BY_MASK) | (shown == config.end_of_text if config.end_of_text is not None else False)
    shown = torch.where(masked, config.mask_id, shown)
    return row.scatter(0, places, shown), targets, places
