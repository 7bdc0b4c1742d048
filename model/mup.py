"""muP: initial weights and learning rates that scale with the width, so that what was tuned small holds large.

Yang et al. 2022 (Tensor Programs V, Table 8) for AdamW and tied embeddings: relative to `mup_base_width`, a network
m times as wide draws its hidden matrices with a standard deviation divided by sqrt(m), learns them at a rate divided
by m and divides its outputs by m. Everything else stays. The width is meant to grow by heads of one width, so scores
are divided by sqrt(d_head) as ever.
"""

from model.config import ModelConfig


def width_multiple(config: ModelConfig) -> float:
    """How many times as wide as the base the network is; 1 where muP is off."""
    return config.d_model / (config.mup_base_width or config.d_model)


def is_hidden(name: str) -> bool:
    """Whether a parameter is a matrix from width to width, as all of the blocks' are; embeddings are not."""
    return name.startswith("blocks.") and name.endswith((".qkv.weight", ".out.weight", ".up.weight"))


def deviation_multiple(config: ModelConfig, name: str) -> float:
    """Of the standard deviation that a parameter is drawn with."""
    return float(width_multiple(config) ** -0.5) if is_hidden(name) else 1.0


def rate_multiple(config: ModelConfig, name: str) -> float:
    """Of the learning rate of a parameter."""
    return 1 / width_multiple(config) if is_hidden(name) else 1.0


def output_multiple(config: ModelConfig) -> float:
    """Of the last hidden states before the output layer."""
    return 1 / width_multiple(config)
