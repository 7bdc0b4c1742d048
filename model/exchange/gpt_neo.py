"""GPT-Neo: dense and locally banded layers in turn, with learned positions, or sinusoidal ones as a table.

It does not divide scores by sqrt(d_head), so its queries are made smaller by as much; it has no biases on queries,
keys and values. Its window counts the token itself, as our band does.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from model.config import ModelConfig
from model.exchange.family import Fields, Foreign, Names, require_network, scaled, sine_table

TYPE = "gpt_neo"
NAMES = Names(
    "transformer.h",
    {
        "token_embedding": "transformer.wte",
        "position_embedding": "transformer.wpe",
        "norm": "transformer.ln_f",
        "norm_attention": "ln_1",
        "attention.q": "attn.attention.q_proj",
        "attention.k": "attn.attention.k_proj",
        "attention.v": "attn.attention.v_proj",
        "attention.out": "attn.attention.out_proj",
        "norm_feed_forward": "ln_2",
        "feed_forward.up": "mlp.c_fc",
        "feed_forward.out": "mlp.c_proj",
    },
)


def fields(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a network of ours."""
    kinds = ["local" if config.band_of(layer) else "global" for layer in range(config.n_layer)]
    pairs, rest = divmod(config.n_layer, 2)
    attention = [[kinds[:2], pairs]] if pairs else []
    return {
        "num_layers": config.n_layer,
        "num_heads": config.n_head,
        "hidden_size": config.d_model,
        "intermediate_size": config.ff_width,
        "max_position_embeddings": config.n_ctx,
        "vocab_size": config.vocab_size,
        "attention_types": attention + ([[kinds[:1], 1]] if rest else []),
        "attention_layers": kinds,
        "window_size": config.band,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    }


def config(fields: Fields) -> ModelConfig:
    """Our configuration of a GPT-Neo. Raises ValueError for what ours cannot represent."""
    require_network(fields, "activation_function", "layer_norm_epsilon")
    return ModelConfig(
        n_layer=fields["num_layers"],
        n_head=fields["num_heads"],
        d_model=fields["hidden_size"],
        d_ff=fields["intermediate_size"],
        n_ctx=fields["max_position_embeddings"],
        vocab_size=fields["vocab_size"],
        qkv_bias=False,
        **_attention(fields),
    )


def _attention(fields: Fields) -> dict[str, Any]:
    kinds, window = list(fields["attention_layers"]), fields["window_size"]
    if set(kinds) == {"global"} or window >= fields["max_position_embeddings"]:
        return {"attention": "dense"}
    other = {"global": "local", "local": "global"}
    if set(kinds) - set(other) or any(other[one] != two for one, two in pairwise(kinds)):
        raise ValueError(
            f"attention_types is {fields['attention_types']!r}: the network's layers are all global, "
            "or global and local in turn"
        )
    return {"attention": "alternating", "band": window, "first_layer": "banded" if kinds[0] == "local" else "dense"}


def exported(config: ModelConfig, name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What one of our parameters becomes."""
    if not name.endswith("attention.qkv.weight"):
        yield NAMES.of(name), value
        return
    q, k, v = value.chunk(3)
    for letter, part in (("q", scaled(q, config.d_head**-0.5)), ("k", k), ("v", v)):
        yield NAMES.of(name.replace("qkv", letter)), part.clone()  # a view would keep all three in memory


def imported(config: ModelConfig, name: str, foreign: Foreign) -> Tensor:
    """One of our parameters, of theirs."""
    if not name.endswith("attention.qkv.weight"):
        return foreign.take(NAMES.of(name))
    q, k, v = (foreign.take(NAMES.of(name.replace("qkv", letter))) for letter in "qkv")
    return torch.cat([scaled(q, math.sqrt(config.d_head)), k, v])


def implied(config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """The table of sinusoidal positions."""
    yield from sine_table(config, NAMES.of("position_embedding.weight"))
