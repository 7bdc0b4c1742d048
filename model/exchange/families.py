"""Which family of transformers a network is one of, and its tensors in both directions.

What no family knows is put right here: rows of the embedding past the vocabulary are left out, and muP's multiple of
the outputs is folded into the last norm.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from model.config import ModelConfig
from model.exchange import gpt2, gpt_neo, gpt_neox
from model.exchange.family import Family, Fields, Foreign, require, scaled
from model.gpt import GPT
from model.mup import output_multiple

FAMILIES: dict[str, Family] = {family.TYPE: family for family in (gpt2, gpt_neo, gpt_neox)}

KEY = "thalweg"
"""Where config.json keeps our own configuration, since several of ours look alike there."""

OUTPUT = "lm_head.weight"
"""The output layer in every family; it is tied to the embedding."""


def target(config: ModelConfig) -> Family:
    """The family that is the network to the last bit of its formula. Raises ValueError, with the reason, for none."""
    if not config.causal:
        raise ValueError(
            f"objective is {config.objective}: such a network sees both sides of a token, and what transformers "
            "loads as a causal language model does not"
        )
    if config.position == "rotary" and config.attention == "alternating":
        raise ValueError(
            "position is rotary and attention alternating: GPT-NeoX has no banded layers, GPT-Neo no rotary positions"
        )
    if config.attention == "alternating" and config.has_qkv_bias:
        raise ValueError(
            "qkv_bias is true and attention alternating: GPT-Neo, the one family with banded layers, has no biases on "
            "queries, keys and values"
        )
    if config.position == "rotary":
        return gpt_neox
    return gpt_neo if config.attention == "alternating" else gpt2


def family_of(fields: Fields) -> Family:
    """The family of a config.json. Raises ValueError for others than ours."""
    require(fields, "model_type", FAMILIES, f"thalweg reads {', '.join(FAMILIES)}")
    return FAMILIES[fields["model_type"]]


def fields_of(config: ModelConfig) -> dict[str, Any]:
    """The fields of config.json for a network of ours, our own configuration among them."""
    return target(config).fields(config) | {KEY: config.model_dump(mode="json", exclude={"preset"})}


def config_of(fields: Fields) -> ModelConfig:
    """Our configuration of a config.json with its defaults filled in.

    Raises ValueError for what ours cannot represent, and where a folder of ours has been changed since.
    """
    family = family_of(fields)
    try:
        config = ModelConfig.model_validate(fields[KEY]) if KEY in fields else family.config(fields)
        target(config)
    except ValidationError as error:
        raise ValueError("; ".join(_told(each, [KEY] if KEY in fields else []) for each in error.errors())) from None
    if KEY not in fields:
        return config
    for key, value in family.fields(config).items():
        if fields.get(key) != value:
            raise ValueError(f"{key} is {fields.get(key)!r}, but under {KEY} it was {value!r}; {_MEND}")
    return config


def _told(error: Any, under: list[str]) -> str:
    where = ".".join([*under, *map(str, error["loc"])])
    return f"{where}{': ' if where else ''}{str(error['msg']).removeprefix('Value error, ')}"


_MEND = f"the folder was changed after its export: remove {KEY} from its config.json to read it by its own fields"


def exported(config: ModelConfig, parameters: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Their tensors of our parameters, the output layer left out."""
    family = target(config)
    yield from family.implied(config)
    for name, value in parameters:
        if name == "token_embedding.weight":
            value = value[: config.vocab_size]
        elif name in ("norm.weight", "norm.bias"):
            value = scaled(value, output_multiple(config))
        yield from family.exported(config, name, value)


def imported(family: Family, config: ModelConfig, foreign: Foreign, tied: bool) -> Iterator[tuple[str, Tensor]]:
    """Our parameters of their tensors; `tied` tells whether they tie their output layer where it is not there.

    Raises ValueError where tensors are missing, of another shape or not what the configuration says.
    """
    with torch.device("meta"):
        shapes = {name: each.shape for name, each in GPT(config).named_parameters()}
    for name, shape in shapes.items():
        value = family.imported(config, name, foreign)
        if name == "token_embedding.weight":
            _check_output_layer(value, foreign, tied)
            value = F.pad(value, (0, 0, 0, config.embedding_rows - len(value)))
        elif name in ("norm.weight", "norm.bias"):
            value = scaled(value, 1 / output_multiple(config))
        if value.shape != shape:
            theirs = family.NAMES.of(name) if ".qkv." not in name else f"queries, keys and values for {name}"
            raise ValueError(f"{theirs}: has shape {list(value.shape)} where config.json asks for {list(shape)}")
        yield name, value
    for name, fixed in family.implied(config):
        if name in foreign and not torch.allclose(foreign.take(name), fixed, rtol=0, atol=1e-6):
            raise ValueError(f"{name}: is not what {KEY} in config.json implies; {_MEND}")


def _check_output_layer(embedding: Tensor, foreign: Foreign, tied: bool) -> None:
    same = torch.equal(foreign.take(OUTPUT), embedding) if OUTPUT in foreign else tied
    if not same:
        raise ValueError(
            f"{OUTPUT}: is not the embedding (tie_word_embeddings false): the network's output layer is the embedding"
        )
