"""How large a network is and how much work it does, counted without building it."""

from model.config import ModelConfig, Recompute
from model.objective import masked_count


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Exact number of parameters of each part, in the order of the network; the vocabulary's padding is left out.

    The output layer shares the token embedding and has none of its own.
    """
    d, ff = config.d_model, config.ff_width
    norm = 2 * d
    qkv = 3 * d * d + (3 * d if config.has_qkv_bias else 0)
    block = {
        "norm_attention": norm,
        "attention": qkv + d * d + d,
        "norm_feed_forward": norm,
        "feed_forward": (d * ff + ff) + (ff * d + d),
    }
    entries = config.vocab_size + (config.objective == "denoise")
    parts = {"token_embedding": entries * d}
    if config.position == "learned":
        parts["position_embedding"] = config.n_ctx * d
    for layer in range(config.n_layer):
        parts |= {f"blocks.{layer}.{name}": count for name, count in block.items()}
    return parts | {"norm": norm}


def count_parameters(config: ModelConfig) -> int:
    """Exact number of parameters, the vocabulary's padding left out."""
    return sum(parameters_by_part(config).values())


def training_flops(config: ModelConfig, tokens: float) -> float:
    """Floating-point operations to train on `tokens` tokens: 6 per parameter and token.

    The count of Brown et al. 2020, appendix D (2 for the forward pass, 4 for the backward pass), which leaves
    the attention scores out.
    """
    return 6.0 * count_parameters(config) * tokens


def training_flops_per_token(config: ModelConfig) -> float:
    """Those of all matrix products of a forward and a backward pass, none computed twice, per token of a sequence.

    6 for each weight that a token is multiplied with (2 forward, 4 backward), and 12 for each number of the width and
    position seen in each layer, for scores and mixing: model FLOPs as Chowdhery et al. 2022, appendix B, count them.
    Embeddings, biases and gains, which are looked up and added, are no products; the output layer is one, of
    the vocabulary without its padding. A dense layer is counted as seeing all n_ctx positions, though the causal half
    could be left out, a banded one as seeing its band.
    """
    blocks = 3.0 * sum(_block_forward(config, layer) for layer in range(config.n_layer))
    return blocks + 6.0 * config.d_model * config.vocab_size * _share_predicted(config)


def computed_flops_per_token(
    config: ModelConfig, recompute: Recompute, *, whole_blocks: bool = False, flex_attention: bool = False
) -> float:
    """The same with what is computed besides: the vocabulary's padding, and what activation checkpointing repeats.

    A block that is computed again stops short of its last product, whose output no backward pass needs; with
    `whole_blocks` (compiled ones, and ZeRO stage 3's own linear layers) it does not. Selective checkpointing repeats no
    product but those of attention in layers of bands or documents where they go through FlexAttention. What
    attention's own kernels repeat or leave out inside is not counted.
    """
    d, layers = config.d_model, range(config.n_layer)
    flops = 3.0 * sum(_block_forward(config, each) for each in layers) + output_flops_per_token(config)
    if recompute == "selective":
        masked = [each for each in layers if config.document_mask or _seen(config, each) < config.n_ctx]
        return flops + sum(_attention_forward(config, each) for each in masked if flex_attention)
    if recompute == "none":
        return flops
    last = 0.0 if whole_blocks else 2.0 * d * config.ff_width
    return flops + sum(_block_forward(config, each) - last for each in layers if each % recompute == 0)


def output_flops_per_token(config: ModelConfig) -> float:
    """Those of the output layer with the vocabulary's padding, forward and backward, per token of a sequence."""
    return 6.0 * config.d_model * config.embedding_rows * _share_predicted(config)


def _block_forward(config: ModelConfig, layer: int) -> float:
    d = config.d_model
    return 2.0 * (4 * d * d + 2 * d * config.ff_width) + _attention_forward(config, layer)


def _attention_forward(config: ModelConfig, layer: int) -> float:
    """Scores and mixing."""
    return 4.0 * config.d_model * _seen(config, layer)


def _seen(config: ModelConfig, layer: int) -> int:
    """Positions that a position of the layer sees."""
    band = config.band_of(layer)
    if band is None:
        return config.n_ctx
    return min(band if config.causal else 2 * band - 1, config.n_ctx)


def _share_predicted(config: ModelConfig) -> float:
    """The share of positions at which the output layer is computed."""
    return 1.0 if config.causal else masked_count(config.n_ctx) / config.n_ctx
