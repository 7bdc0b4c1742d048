"""Two ranks that share every sequence, or every layer, without an engine, against the network whole.

Called with `sequence` or `tensor` and kinds of network; rank 0 prints what differs.

A line of JSON by kind of network: differences of total, losses and gradients (the largest of all parameters, relative
to the norm), the shapes of each block's input and of its inner layer on this rank, and bytes kept for the backward
pass, whole and split.
"""

import copy
import json
import os
import sys

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import torch
import torch.distributed as dist

from model.config import ModelConfig
from model.gpt import GPT, Block
from model.objective import task
from training.groups import Groups
from training.parallel_config import Place
from training.sequence_parallel import SplitSequences
from training.tensor_parallel import cut_of, join_layers, split_layers

BASE = {"n_layer": 4, "n_head": 4, "d_model": 32, "n_ctx": 32, "vocab_size": 64, "end_of_text": 7}
KINDS = {
    "dense": ({}, "none", False),
    "rotary": ({"position": "rotary", "qkv_bias": False}, "none", False),
    "sinusoidal": ({"position": "sinusoidal"}, 2, False),
    "bands": ({"attention": "alternating", "band": 5, "position": "rotary"}, "none", False),
    "documents": ({"document_mask": True}, 1, False),
    "documents in bands": ({"document_mask": True, "attention": "alternating", "band": 9}, "selective", False),
    "denoise": ({"objective": "denoise", "position": "rotary"}, "none", False),
    "compiled": ({"position": "rotary"}, "none", True),
}
"""Network, what is recomputed, whether blocks are compiled."""
BATCH = 3


def measured(network: torch.nn.Module, learned, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Total, losses, and the bytes that the backward pass, which is done, had at hand."""
    weights_at = {each.untyped_storage().data_ptr() for each in network.parameters()}
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in weights_at:
            kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        total, losses = network(*learned, weights)
    total.backward()
    return total.detach(), losses, kept


def shared(network: GPT, place: Place) -> torch.nn.Module:
    """The network as `place` divides it."""
    groups = Groups(place)
    if place.sequence > 1:
        return SplitSequences(network, place, groups.sequence)
    split_layers(network, place)
    join_layers(network, groups.tensor)
    return network


def compared(kind: str, place: Place) -> dict:
    fields, recompute, compiles = KINDS[kind]
    config = ModelConfig(**(BASE | fields))
    whole = GPT(config, recompute)
    whole.initialise(0)
    for parameter in whole.parameters():  # biases too, and logits far enough from even
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    split = copy.deepcopy(whole)
    module, shapes, inner = shared(split, place), set(), set()
    for block in split.modules():
        if isinstance(block, Block):
            block.register_forward_pre_hook(lambda _, inputs: shapes.add(tuple(inputs[0].shape)))
            block.feed_forward.out.register_forward_pre_hook(lambda _, inputs: inner.add(tuple(inputs[0].shape)))
            if compiles:
                block.compile(dynamic=False)
    tokens = torch.randint(0, 64, (BATCH, config.n_ctx + 1), generator=torch.Generator().manual_seed(2))
    learned, weights = task(config, tokens, 5, range(BATCH)), torch.tensor([1.0, 0.5, 0.0])
    total, losses, kept = measured(whole, learned, weights)
    share, shared_losses, kept_here = measured(module, learned, weights)
    if place.sequence > 1:
        dist.all_reduce(share)
    worst = 0.0
    for one, other in zip(whole.parameters(), split.parameters(), strict=True):
        if place.sequence > 1:
            dist.all_reduce(other.grad)
        expected = cut_of(other).of(one.grad)
        worst = max(worst, float((expected - other.grad).norm() / expected.norm()))
    return {
        "kind": kind,
        "total": float((total - share).abs() / total),
        "losses": float(((losses - shared_losses).abs() / losses).max()),
        "gradients": worst,
        "shapes": sorted(shapes),
        "inner": sorted(inner),
        "kept": [kept, kept_here],
    }


def main(dimension: str, *kinds: str) -> None:
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    deepspeed.init_distributed("gloo", verbose=False)
    place = Place(dist.get_rank(), dist.get_world_size(), **{dimension: dist.get_world_size()})
    for kind in kinds:
        line = compared(kind, place)
        if place.rank == 0:
            print(json.dumps(line), flush=True)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
