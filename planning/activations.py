"""What a forward pass keeps for its backward pass, in bytes of one rank: counted, not measured.

Per position of a block with width D, feed-forward width F and H heads, of which a rank has a part where layers are
split by t ranks (Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 4,
count those of another network):

    input of the block and of the feed-forward's norm, outputs of both norms    4 D
    queries, keys and values, attention's output                                4 D / t
    output of the first linear layer and of GELU                                2 F / t

and in fp32 two statistics of each norm and one of each head's attention. No dropout, no scores: attention computes them
again. Ranks that share sequences have attention's output twice, before and behind its exchange. What the compiler keeps
of a block is no more than this. A test counts what autograd keeps of the network itself.
"""

from model.attention import FLEX_DEVICES, FLEX_WIDTH
from model.config import ModelConfig
from planning.layout import Layout

_STATISTIC = 4


def kept_per_position(model: ModelConfig, layout: Layout) -> float:
    """Bytes that all blocks keep of a position, until the backward pass has come to each of them."""
    layers = range(model.n_layer)
    if layout.recompute == "selective":
        return model.n_layer * _selective_block(model, layout)
    kept = [layer for layer in layers if layout.recompute == "none" or layer % layout.recompute]
    only_input = model.d_model * layout.number
    return (model.n_layer - len(kept)) * only_input + sum(whole_block(model, layout, layer) for layer in kept)


def whole_block(model: ModelConfig, layout: Layout, layer: int) -> float:
    """Bytes of a position in a block of which everything is kept."""
    d, split = model.d_model, layout.parallel.tensor
    rotated = 2 * d if model.position == "rotary" else 0
    exchanged = d if layout.parallel.sequence > 1 else 0
    inside = 4 * d + rotated + exchanged + _copied_for_bands(model, layout, layer) + 2 * model.ff_width
    return (4 * d + inside / split) * layout.number + _statistics(model, layout)


def _copied_for_bands(model: ModelConfig, layout: Layout, layer: int) -> int:
    """Keys and values with the blocks next to their own, and an output (`model.attention.block_local`)."""
    band = model.band_of(layer)
    if band is None or band >= model.n_ctx or (layout.device in FLEX_DEVICES and model.d_head >= FLEX_WIDTH):
        return 0
    return (3 if model.causal else 5) * model.d_model


def _selective_block(model: ModelConfig, layout: Layout) -> float:
    """The block's input, and what products, attention and exchanges of layers give (model/checkpointing.py)."""
    d, split = model.d_model, layout.parallel.tensor
    numbers = (3 if split == 1 else 5) * d + (4 * d + model.ff_width) / split
    return numbers * layout.number + _STATISTIC * model.n_head / split


def _statistics(model: ModelConfig, layout: Layout) -> float:
    return _STATISTIC * (4 + model.n_head / layout.parallel.tensor)


def working_per_position(model: ModelConfig, layout: Layout) -> float:
    """Bytes that the backward pass of the last block has besides, of a position.

    The gradient of what is inside the feed-forward, and what the block has computed again.
    """
    gradient, last = model.ff_width / layout.parallel.tensor * layout.number, model.n_layer - 1
    if layout.recompute == "selective":
        return gradient + max(0.0, whole_block(model, layout, last) - _selective_block(model, layout))
    if layout.recompute == "none" or last % layout.recompute:
        return gradient
    return gradient + whole_block(model, layout, last) - model.d_model * layout.number
