"""AdamW with decay on the matrices only."""

from collections import defaultdict

import torch
from torch import nn

from model.gpt import GPT
from model.mup import rate_multiple
from training.config import TrainConfig


def build_optimizer(network: GPT, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) with GPT-3's settings, in its fused form.

    Embeddings and linear weights decay; biases and the gains of the norms, which set scales, do not. Under muP the
    groups differ in `lr_multiple`; AdamW multiplies decay by the rate, so decay is divided by it to stay level.
    """
    members: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        members[rate_multiple(network.config, name), parameter.ndim >= 2].append(parameter)
    groups = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay / multiple if decays else 0.0,
            "lr_multiple": multiple,
        }
        for (multiple, decays), parameters in members.items()
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
