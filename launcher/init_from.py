"""Beginning a run from the weights of a checkpoint."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from data_pipeline.errors import InputError
from model.config import ModelConfig
from model.gpt import GPT
from training import checkpoint

FREE = {"preset", "document_mask", "end_of_text"}
"""What may differ: weights of either fit the other."""


def check_weights(path: Path, model: ModelConfig, tokenizer_json: Path) -> None:
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
    one, other = (Tokenizer.from_file(str(each)).get_vocab() for each in (folder / "tokenizer.json", tokenizer_json))
    if one != other:
        raise InputError(
            f"train.init_from: {folder} has another vocabulary than {tokenizer_json}; prepare the data with "
            f"tokenizer.path: {folder / 'tokenizer.json'}"
        )


def load_weights(path: Path, network: GPT) -> None:
    """Puts the weights of the checkpoint that `train.init_from` names into a network of the same shape."""
    network.load_state_dict(checkpoint.open_network(checkpoint.find(str(path))).state_dict())


def _network(config: ModelConfig) -> dict[str, Any]:
    """What makes the network, defaults filled in and what has no effect left out."""
    fields = config.model_dump(exclude=FREE)
    fields |= {"d_ff": config.ff_width, "qkv_bias": config.has_qkv_bias}
    idle = set() if config.position == "learned" else {"n_ctx"}
    idle |= set() if config.position == "rotary" else {"rotary_base"}
    idle |= set() if config.attention == "alternating" else {"band", "first_layer"}
    return {key: value for key, value in fields.items() if key not in idle}
