"""A rank of two that share layers or sequences, which tells how many bytes two blocks keep for their backward pass."""

import gc
import os
import sys

import torch
import torch.distributed as dist

from model.config import ModelConfig
from model.gpt import GPT
from training.engine import _prepare_deepspeed, leave
from training.groups import Groups
from training.parallel_config import Place
from training.sequence_parallel import SplitSequences
from training.tensor_parallel import join_layers, split_layers

SEQUENCES, N_CTX = 2, 128


def kept(n_layer: int, place: Place, groups: Groups, recompute: str) -> int:
    """Bytes of all tensors that are there behind a forward pass and were not before."""
    network = GPT(ModelConfig(n_layer=n_layer, n_head=4, d_model=64, n_ctx=N_CTX, vocab_size=256), recompute)  # type: ignore[call-arg,arg-type]
    network.initialise(1)
    module: torch.nn.Module = network
    if place.tensor > 1:
        split_layers(network, place)
        join_layers(network, groups.tensor)
    else:
        module = SplitSequences(network, place, groups.sequence)
    tokens, seen = torch.zeros((SEQUENCES, N_CTX), dtype=torch.long), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total, _ = module(tokens, tokens)
    if recompute == "selective":  # what it keeps lies in a store of its own
        for each in [each for each in gc.get_objects() if type(each) is torch.Tensor]:
            keep(each)
    del total
    return sum(size for at, size in seen.items() if at not in {each.data_ptr() for each in network.parameters()})


_prepare_deepspeed()
import deepspeed  # noqa: E402 - it reads what was prepared

deepspeed.init_distributed("gloo", verbose=False)
shared, how = sys.argv[1:]
place = Place(dist.get_rank(), 2, **{shared: 2})
few, many = (kept(n_layer, place, Groups(place), how) for n_layer in (2, 4))
os.write(1, f"{many - few}\n".encode())
leave(0)
