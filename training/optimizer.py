"""AdamW with decay on the matrices only."""

import torch
from torch import nn

from training.config import TrainConfig


def build_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) with GPT-3's settings.

    Embeddings and linear weights decay; biases and the gains of the norms, which set scales, do not.
    """
    parameters = list(network.parameters())
    groups = [
        {"params": [each for each in parameters if each.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
