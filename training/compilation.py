"""torch.compile for the network's blocks.

Blocks are compiled one by one in place: all of a kind share one graph, so that 96 layers compile as fast as 2, and
parameters keep their names. At ZeRO stage 3 a block's weights are gathered by hooks between its modules, at each of
which the graph would break, so there nothing is compiled but FlexAttention, which holds no weights. Nor with selective
activation checkpointing, which cannot see inside a compiled block; the compiler itself recomputes what is cheap.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from data_pipeline.errors import InputError
from model.attention import allow_graphs
from model.gpt import GPT

log = logging.getLogger("thalweg.train")


def compile_blocks(network: GPT, wanted: bool | None, zero_stage: int) -> bool:
    """Compiles the blocks where it is wanted, or by default where it pays; returns whether it did.

    Raises InputError where it is wanted and there is no compiler.
    """
    pays = torch.cuda.is_available() and zero_stage < 3 and network.recompute != "selective"
    chosen = pays if wanted is None else wanted
    if not chosen:
        return False
    if not _has_compiler():
        if wanted:
            raise InputError("train.compile: needs a C++ compiler; install g++, name one in CXX or leave it out")
        log.warning("no C++ compiler was found: blocks are not compiled; install g++ for more speed")
        return False
    allow_graphs()
    for block in network.blocks:
        block.compile(dynamic=False)
    return True


@contextmanager
def uncompiled(network: GPT) -> Iterator[None]:
    """Calls blocks as they were written: hooks inside of them are called, which a compiled block may leave out.

    FlexAttention stays compiled; without that it would write out the square of all scores.
    """
    compiled = [block._compiled_call_impl for block in network.blocks]
    try:
        for block in network.blocks:
            block._compiled_call_impl = None
        yield
    finally:
        for block, call in zip(network.blocks, compiled, strict=True):
            block._compiled_call_impl = call


def _has_compiler() -> bool:
    """Whether there is what torch's compiler calls, on a CPU for its kernels and on a GPU to launch them."""
    named = (os.environ.get("CXX"), os.environ.get("CC"), "g++", "gcc", "clang++", "clang")
    return any(shutil.which(each) for each in named if each)
