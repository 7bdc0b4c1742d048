"""How large a network is and how much work it does, counted without building it."""

from model.config import ModelConfig


def count_parameters(config: ModelConfig) -> int:
    """Exact number of parameters; the output layer shares the embedding's."""
    d, ff = config.d_model, config.ff_width
    norm = 2 * d
    attention = (3 * d * d + 3 * d) + (d * d + d)
    feed_forward = (d * ff + ff) + (ff * d + d)
    block = 2 * norm + attention + feed_forward
    return config.vocab_size * d + config.n_ctx * d + config.n_layer * block + norm


def training_flops(config: ModelConfig, tokens: float) -> float:
    """Floating-point operations to train on `tokens` tokens: 6 per parameter and token.

    The count of Brown et al. 2020, appendix D (2 for the forward pass, 4 for the backward pass), which leaves
    the attention scores out.
    """
    return 6.0 * count_parameters(config) * tokens
