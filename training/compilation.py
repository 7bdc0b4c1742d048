"""torch.compile for the network's blocks.

Blocks are compiled one by one in place: all of a kind share one graph, so that 96 layers compile as fast as 2, and
parameters keep their names. At ZeRO stage 3 a block's weights are gathered by hooks between its modules, at each of
which the graph would break, so there nothing is compiled but FlexAttention, which holds no weights. Nor with selective
activation checkpointing, which cannot see inside a compiled block; the compiler itself recomputes what is cheap.
"""

import torch

from model.gpt import GPT


def compile_blocks(network: GPT, wanted: bool | None, zero_stage: int) -> bool:
    """Compiles the blocks where it is wanted, or by default where it pays; returns whether it did."""
    pays = torch.cuda.is_available() and zero_stage < 3 and network.recompute != "selective"
    chosen = pays if wanted is None else wanted
    if not chosen:
        return False
    # One graph for each kind of layer, shape of micro-batch and with or without gradients.
    torch._dynamo.config.recompile_limit = 64
    for block in network.blocks:
        block.compile(dynamic=False)
    return True
