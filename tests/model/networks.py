"""Networks to test with."""

import torch

from model.config import ModelConfig
from model.gpt import GPT


def shaken(config: ModelConfig, *, by: float, drawn: int = 1, noise: int = 5) -> GPT:
    """A network with weights large enough, biases and gains included, that every one of them matters.

    Drawn from seed `drawn`, with normal noise of deviation `by` from seed `noise` on all parameters, padding included.
    """
    network = GPT(config)
    network.initialise(drawn)
    generator = torch.Generator().manual_seed(noise)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=by)
    return network
