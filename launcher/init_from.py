"""Beginning a run from the weights of a checkpoint."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from data_pipeline.errors import InputError
from data_pipeline.vocabulary import Vocabulary
from launcher.config import RunConfig
from model.config import ModelConfig
from model.gpt import GPT
from training import checkpoint

FREE = {"preset", "document_mask", "end_of_text"}
"""What may differ: weights of either fit the other."""


def check_weights(path: Path, model: ModelConfig, vocabulary: Vocabulary) -> None:
    """Looks at the checkpoint that `train.init_from` names.

    Raises InputError, with the keys of `model:` that differ, where its weights are of another network, and where they
    were trained on the ids of another tokenizer than the run's.
    """
    folder = checkpoint.find(str(path))
    saved, now = _network(checkpoint.read_model(folder)), _network(model)
    both = [key for key in now if key in saved]
    differing = [f"model.{key} ({saved[key]}, here {now[key]})" for key in both if saved[key] != now[key]]
    if differing:
        raise InputError(f"train.init_from: {folder} is of another network: {'; '.join(differing)}; make them agree")
    saved_vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    if saved_vocabulary != Tokenizer.from_str(vocabulary.json).get_vocab():
        raise InputError(
            f"train.init_from: {folder} has another vocabulary than {vocabulary.path}; prepare the data with "
            f"tokenizer.path: {folder / 'tokenizer.json'}"
        )


def pinned(config: RunConfig) -> RunConfig:
    """With the folder that RUN_DIR@latest names now, so that all ranks begin from one and the run can be done again."""
    if config.train.init_from is None:
        return config
    folder = checkpoint.find(str(config.train.init_from)).resolve()
    return config.model_copy(update={"train": config.train.model_copy(update={"init_from": folder})})


@torch.no_grad()
def load_weights(path: Path, network: GPT) -> None:
    """Puts the weights of a checkpoint into a network of the same shape, one at a time."""
    checkpoint.check_network(path)
    parameters = dict(network.named_parameters())
    for name, value in checkpoint.read_weights(path):
        parameters.pop(name).copy_(value)
    assert not parameters, f"{path} has no {', '.join(parameters)}, which its configuration promises"


def _network(config: ModelConfig) -> dict[str, Any]:
    """What makes the network, defaults filled in and what has no effect left out."""
    fields = config.model_dump(exclude=FREE)
    fields |= {"d_ff": config.ff_width, "qkv_bias": config.has_qkv_bias}
    idle = set() if config.position == "learned" else {"n_ctx"}
    idle |= set() if config.position == "rotary" else {"rotary_base"}
    idle |= set() if config.attention == "alternating" else {"band", "first_layer"}
    return {key: value for key, value in fields.items() if key not in idle}
