"""How large a network is and how much work it does, counted without building it."""

from model.config import ModelConfig


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
    """6 per parameter, and 12 for each number of the width and position seen in each layer, for scores and mixing.

    The count behind model FLOPs utilisation (Chowdhery et al. 2022, appendix B). A dense layer is counted as seeing
    all n_ctx positions, though the causal half could be left out, a banded one as seeing its band.
    """
    bands = [config.band_of(layer) for layer in range(config.n_layer)]
    wide = [band if band is None or config.causal else 2 * band - 1 for band in bands]
    seen = sum(min(each or config.n_ctx, config.n_ctx) for each in wide)
    return 6.0 * count_parameters(config) + 12.0 * config.d_model * seen
