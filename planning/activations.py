"""What a forward pass keeps for its backward pass, in bytes of one rank: counted, not measured.

Per position of a block with width D, feed-forward width F and H heads, of which a rank has a part where layers are
split by t ranks (Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 4,
count those of another network):

    input of the block and of the feed-forward's norm, outputs of both norms    4 D
    queries, keys and values, attention's output                                4 D / t
    output of the first linear layer and of GELU                                2 F / t

and in fp32 two statistics of each norm and one of each head's attention. No dropout, no scores: attention computes them
again. A test counts what autograd keeps of the network itself.
"""

from model.config import ModelConfig
from planning.layout import Layout

_STATISTIC = 4


def kept_per_position(model: ModelConfig, layout: Layout) -> float:
    """Bytes that all blocks keep of a position, until the backward pass has come to each of them."""
    layers = range(model.n_layer)
    if layout.recompute == "none":
        return model.n_layer * whole_block(model, layout)
    if layout.recompute == "selective":
        return model.n_layer * _selective_block(model, layout)
    again = sum(layer % layout.recompute == 0 for layer in layers)
    only_input = model.d_model * layout.number
    return again * only_input + (model.n_layer - again) * whole_block(model, layout)


def whole_block(model: ModelConfig, layout: Layout) -> float:
    """Bytes of a position in a block of which everything is kept."""
    d, split = model.d_model, layout.parallel.tensor
    rotated = 2 * d if model.position == "rotary" else 0
    numbers = 4 * d + (4 * d + rotated + 2 * model.ff_width) / split
    return numbers * layout.number + _statistics(model, layout)


def _selective_block(model: ModelConfig, layout: Layout) -> float:
    """The block's input, and what products and attention give (model/checkpointing.py)."""
    d, split = model.d_model, layout.parallel.tensor
    numbers = 3 * d + (4 * d + model.ff_width) / split
    return numbers * layout.number + _STATISTIC * model.n_head / split


def _statistics(model: ModelConfig, layout: Layout) -> float:
    return _STATISTIC * (4 + model.n_head / layout.parallel.tensor)


def working_per_position(model: ModelConfig, layout: Layout) -> float:
    """Bytes that the backward pass of the last block has besides, of a position.

    The gradient of what is inside the feed-forward, and what the block has computed again.
    """
    gradient = model.ff_width / layout.parallel.tensor * layout.number
    if layout.recompute == "selective":
        return gradient + whole_block(model, layout) - _selective_block(model, layout)
    if layout.recompute == "none" or (model.n_layer - 1) % layout.recompute:
        return gradient
    return gradient + whole_block(model, layout) - model.d_model * layout.number
