"""GPT-NeoX: dense attention with rotary positions.

Of its many shapes ours is the one with the blocks' two parts in series, the whole head rotated and embeddings tied.
Its queries, keys and values are packed head by head.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from model.config import ModelConfig
from model.exchange.family import Fields, Foreign, Names, require, require_network, zero_qkv_biases

TYPE = "gpt_neox"
NAMES = Names(
    "gpt_neox.layers",
    {
        "token_embedding": "gpt_neox.embed_in",
        "norm": "gpt_neox.final_layer_norm",
        "norm_attention": "input_layernorm",
        "attention.qkv": "attention.query_key_value",
        "attention.out": "attention.dense",
        "norm_feed_forward": "post_attention_layernorm",
        "feed_forward.up": "mlp.dense_h_to_4h",
        "feed_forward.out": "mlp.dense_4h_to_h",
    },
)


def fields(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a network of ours."""
    return {
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "hidden_size": config.d_model,
        "intermediate_size": config.ff_width,
        "max_position_embeddings": config.n_ctx,
        "vocab_size": config.vocab_size,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rotary_base,
            "partial_rotary_factor": 1.0,
        },
        "use_parallel_residual": False,
        "attention_bias": True,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }


def config(fields: Fields) -> ModelConfig:
    """Our configuration of a GPT-NeoX. Raises ValueError for what ours cannot represent."""
    require_network(fields, "hidden_act", "layer_norm_eps")
    require(fields, "use_parallel_residual", (False,), "in the network's blocks attention comes before feed-forward")
    rope = fields["rope_parameters"]
    require(rope, "rope_type", ("default",), "the network's rotations are not scaled")
    require(rope, "partial_rotary_factor", (1.0, None), "the network rotates heads over their whole width")
    return ModelConfig(
        n_layer=fields["num_hidden_layers"],
        n_head=fields["num_attention_heads"],
        d_model=fields["hidden_size"],
        d_ff=fields["intermediate_size"],
        n_ctx=fields["max_position_embeddings"],
        vocab_size=fields["vocab_size"],
        qkv_bias=fields["attention_bias"],
        position="rotary",
        rotary_base=rope["rope_theta"],
    )


def exported(config: ModelConfig, name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What one of our parameters becomes."""
    yield NAMES.of(name), _swapped(value, 3, config.n_head) if ".qkv." in name else value


def imported(config: ModelConfig, name: str, foreign: Foreign) -> Tensor:
    """One of our parameters, of theirs."""
    theirs = NAMES.of(name)
    if name.endswith("attention.out.bias") and theirs not in foreign:
        return torch.zeros(config.d_model)  # without attention_bias they have none here either
    value = foreign.take(theirs)
    return _swapped(value, config.n_head, 3) if ".qkv." in name else value


def implied(config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Zero biases of queries, keys and values."""
    yield from zero_qkv_biases(config, NAMES)


def _swapped(value: Tensor, outer: int, inner: int) -> Tensor:
    """Rows outer x inner x d_head to inner x outer x d_head."""
    return value.reshape(outer, inner, -1, *value.shape[1:]).transpose(0, 1).flatten(0, 2)
