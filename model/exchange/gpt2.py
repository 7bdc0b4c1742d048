"""GPT-2: dense attention with learned positions, or with sinusoidal ones as a table."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from model.config import ModelConfig
from model.exchange.family import Fields, Foreign, Names, require, require_network, sine_table, zero_qkv_biases
from model.mup import is_hidden

TYPE = "gpt2"
NAMES = Names(
    "transformer.h",
    {
        "token_embedding": "transformer.wte",
        "position_embedding": "transformer.wpe",
        "norm": "transformer.ln_f",
        "norm_attention": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "norm_feed_forward": "ln_2",
        "feed_forward.up": "mlp.c_fc",
        "feed_forward.out": "mlp.c_proj",
    },
)


def fields(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a network of ours."""
    return {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.d_model,
        "n_inner": config.ff_width,
        "n_positions": config.n_ctx,
        "vocab_size": config.vocab_size,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def config(fields: Fields) -> ModelConfig:
    """Our configuration of a GPT-2. Raises ValueError for what ours cannot represent."""
    require_network(fields, "activation_function", "layer_norm_epsilon")
    require(fields, "scale_attn_weights", (True,), "the network divides scores by sqrt(d_head)")
    require(fields, "scale_attn_by_inverse_layer_idx", (False,), "the network scales scores alike in every layer")
    require(fields, "add_cross_attention", (False,), "the network has no encoder to attend to")
    return ModelConfig(
        n_layer=fields["n_layer"],
        n_head=fields["n_head"],
        d_model=fields["n_embd"],
        d_ff=fields["n_inner"],
        n_ctx=fields["n_positions"],
        vocab_size=fields["vocab_size"],
    )


def exported(config: ModelConfig, name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What one of our parameters becomes; their Conv1D keeps a matrix as inputs x outputs, the transpose of ours."""
    yield NAMES.of(name), value.T.contiguous() if is_hidden(name) else value


def imported(config: ModelConfig, name: str, foreign: Foreign) -> Tensor:
    """One of our parameters, of theirs."""
    value = foreign.take(NAMES.of(name))
    return value.T.contiguous() if is_hidden(name) else value


def implied(config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Zero biases of queries, keys and values, and the table of sinusoidal positions."""
    yield from sine_table(config, NAMES.of("position_embedding.weight"))
    yield from zero_qkv_biases(config, NAMES)
