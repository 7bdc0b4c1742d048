"""Beginning a run from the weights of a checkpoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from data_pipeline.errors import InputError
from data_pipeline.vocabulary import Vocabulary
from launcher.config import RunConfig
from model.config import ModelConfig
from model.gpt import GPT
from training import checkpoint
from training.state_files import StateFiles

FREE = frozenset({"preset", "document_mask", "end_of_text"})
"""What may differ: weights of either fit the other."""

EMBEDDING = "token_embedding.weight"


def check_weights(path: Path, model: ModelConfig, vocabulary: Vocabulary) -> None:
    """Looks at the checkpoint that `train.init_from` names.

    Raises InputError, with the keys of `model:` that differ, where its weights are of another network, and where they
    were trained on the ids of another tokenizer than the run's.
    """
    folder = checkpoint.find(str(path))
    refuse_other_network("train.init_from", folder, model)
    refuse_other_vocabulary("train.init_from", folder, vocabulary)


def refuse_other_network(
    what: str, folder: Path, model: ModelConfig, free: frozenset[str] = FREE, *, same_rows: bool = False
) -> None:
    """Raises InputError where the weights of a checkpoint do not fit the network of a run, `free` keys left out.

    It names the keys that differ, the first tensor that does not fit, and the mend. The vocabulary may be padded in
    another way, unless the embedding must have the `same_rows`.
    """
    saved = checkpoint.read_model(folder)
    differing = _differing(saved, model, free, same_rows)
    misfit = _misfit(StateFiles(folder / "weights").shapes, saved, model, same_rows)
    if not differing and misfit is None:
        return
    keys = [f"model.{key} ({before}, here {now})" for key, (before, now) in differing.items()]
    mend = "make them agree"
    if set(differing) == {"n_ctx"}:
        mend = (
            f"make them agree: learned positions are {saved.n_ctx} rows, one for each, and no more; "
            "networks of rotary and sinusoidal positions take any n_ctx"
        )
    if set(differing) == {"vocab_size"} and same_rows:
        mend = "make them agree, or begin a run from its weights alone with train.init_from"
    raise InputError(
        f"{what}: {folder} is of another network: {'; '.join(keys) or 'its weights are not what its model.json says'}; "
        f"{mend}{misfit or ''}"
    )


def _differing(saved: ModelConfig, now: ModelConfig, free: frozenset[str], same_rows: bool) -> dict[str, Any]:
    """The values, then and now, of each key that makes the network and differs."""
    old, new = _network(saved), _network(now)
    differing = {key: (old[key], new[key]) for key in new if key in old and old[key] != new[key] and key not in free}
    if saved.objective == "next_token" and not (same_rows and saved.embedding_rows != now.embedding_rows):
        differing.pop("vocab_size", None)
    return differing


def _misfit(shapes: dict[str, tuple[int, ...]], saved: ModelConfig, model: ModelConfig, same_rows: bool) -> str | None:
    """What to say of the first tensor that is not the same in both; None where all fit."""
    with torch.device("meta"):
        needed = {name: tuple(each.shape) for name, each in GPT(model).named_parameters()}
    if not same_rows and saved.objective == "next_token":
        shapes, needed = ({**each, EMBEDDING: each.get(EMBEDDING, ())[1:]} for each in (shapes, needed))
    for name in [*needed, *shapes]:
        if needed.get(name) != shapes.get(name):
            there, here = (
                f"of shape {list(shape)}" if (shape := each.get(name)) is not None else "not one of its"
                for each in (shapes, needed)
            )
            return f" (the first tensor that does not fit is {name}: {there} in the checkpoint, {here} in the run)"
    return None


def refuse_other_vocabulary(what: str, folder: Path, vocabulary: Vocabulary) -> None:
    """Raises InputError where a checkpoint was trained on the ids of another tokenizer than the run's."""
    saved = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    if saved != Tokenizer.from_str(vocabulary.json).get_vocab():
        raise InputError(
            f"{what}: {folder} has another vocabulary than {vocabulary.path}; prepare the data with "
            f"tokenizer.path: {folder / 'tokenizer.json'}"
        )


def pinned(config: RunConfig) -> RunConfig:
    """With the folder that RUN_DIR@latest names now, so that all ranks begin from one and the run can be done again."""
    if config.train.init_from is None:
        return config
    folder = checkpoint.find(str(config.train.init_from)).resolve()
    return config.model_copy(update={"train": config.train.model_copy(update={"init_from": folder})})


def weights_from(path: Path, network: GPT, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Name and whole fp32 value of each parameter, one at a time, from a checkpoint that the network fits.

    Entries of the vocabulary that the checkpoint does not have keep the values that are drawn with the seed.
    """
    checkpoint.check_network(path)
    there, here = checkpoint.read_model(path).vocab_size, network.config.vocab_size
    for name, value in checkpoint.read_weights(path):
        if name == EMBEDDING and there != here:
            rows, read = min(there, here), value
            value = next(drawn for known, drawn in network.drawn(seed) if known == EMBEDDING)
            value[:rows] = read[:rows]
            del read
        yield name, value
        del value  # or it would be there while the next one is read


def _network(config: ModelConfig) -> dict[str, Any]:
    """What makes the network, defaults filled in and what has no effect left out."""
    fields = config.model_dump(exclude=set(FREE))
    fields |= {"d_ff": config.ff_width, "qkv_bias": config.has_qkv_bias}
    idle = set() if config.position == "learned" else {"n_ctx"}
    idle |= set() if config.position == "rotary" else {"rotary_base"}
    idle |= set() if config.attention == "alternating" else {"band", "first_layer"}
    return {key: value for key, value in fields.items() if key not in idle}
