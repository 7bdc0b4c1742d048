"""Activation checkpointing: what a block keeps for its backward pass and what it computes again."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from model.config import Recompute

_aten = torch.ops.aten
EXPENSIVE = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}
"""What selective checkpointing keeps: matrix products and attention. The rest costs memory and little time.

FlexAttention, compiled, is not seen by it and is computed again.
"""


def run_block(block: nn.Module, layer: int, recompute: Recompute, x: Tensor, *rest: Any) -> Tensor:
    """The block's output; under `none` all activations stay, under k every k-th block is computed again whole."""
    if recompute == "none" or not torch.is_grad_enabled():
        return block(x, *rest)  # type: ignore[no-any-return]
    if recompute == "selective":
        kept = partial(create_selective_checkpoint_contexts, _keep_expensive)
        return checkpoint(block, x, *rest, use_reentrant=False, context_fn=kept)  # type: ignore[no-any-return]
    if layer % recompute:
        return block(x, *rest)  # type: ignore[no-any-return]
    return checkpoint(block, x, *rest, use_reentrant=False)  # type: ignore[no-any-return]


def _keep_expensive(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    expensive = operation in EXPENSIVE
    return CheckpointPolicy.MUST_SAVE if expensive else CheckpointPolicy.PREFER_RECOMPUTE
