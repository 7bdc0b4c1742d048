"""Whether a network and a folder of transformers compute the same, and the first layer that does not.

One of them is in memory at a time: what it computes from the same tokens is recorded and compared afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.exchange.families import family_of
from model.exchange.folder import read_fields
from model.exchange.memory import give_back
from model.gpt import GPT
from model.mup import output_multiple

TOLERANCE = 1e-4
"""Of the largest difference between two tensors, relative to the standard deviation of the first.

The mean of logits means nothing and may be large, so that their root mean square would hide differences. fp32 in two
orders of summation differs by about 1e-6 here, by more where weights are so large that layers multiply errors.
"""


@dataclass(frozen=True)
class Recording:
    """What a network computed on the way from tokens to logits, layer by layer."""

    layers: dict[str, Tensor]
    logits: Tensor

    def differs_from(self, other: "Recording") -> float:
        """The difference of the logits, in their standard deviations."""
        return _difference(self.logits, other.logits)

    def first_difference(self, other: "Recording", tolerance: float = TOLERANCE) -> str:
        """The first layer whose output differs beyond the tolerance, and by how much."""
        for name, value in self.layers.items():
            if not (difference := _difference(value, other.layers[name])) <= tolerance:
                return f"{name} is the first that differs, by {difference:.1e} of its standard deviation"
        return "the output layer is the first that differs"


@torch.inference_mode()
def record_network(network: GPT, tokens: Tensor) -> Recording:
    """Of token ids B T."""
    multiple = output_multiple(network.config)
    return _record(network.logits, tokens, network.blocks, network.norm, multiple)


@torch.inference_mode()
def record_folder(folder: Path, tokens: Tensor) -> Recording:
    """Of token ids B T, as transformers loads the folder."""
    from transformers import AutoModelForCausalLM

    names = family_of(read_fields(folder)).NAMES
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    blocks, norm = model.get_submodule(names.blocks), model.get_submodule(names.parts["norm"])
    recording = _record(partial(_logits, model), tokens, blocks, norm, 1.0)
    del model, blocks, norm
    give_back()
    return recording


def _logits(model: Any, tokens: Tensor) -> Tensor:
    logits: Tensor = model(tokens, use_cache=False).logits
    return logits


def _record(
    forward: Callable[[Tensor], Tensor], tokens: Tensor, blocks: Any, norm: nn.Module, norm_multiple: float
) -> Recording:
    layers: dict[str, Tensor] = {}

    def embedded(_module: nn.Module, given: tuple[Any, ...]) -> None:
        layers["the embedding"] = given[0]

    def keeper(name: str, multiple: float = 1.0) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _given: Any, made: Any) -> None:
            layers[name] = (made[0] if isinstance(made, tuple) else made) * multiple

        return keep

    hooks = [blocks[0].register_forward_pre_hook(embedded)]
    hooks += [block.register_forward_hook(keeper(f"block {layer}")) for layer, block in enumerate(blocks)]
    hooks.append(norm.register_forward_hook(keeper("the final norm", norm_multiple)))
    try:
        return Recording(layers, forward(tokens))
    finally:
        for hook in hooks:
            hook.remove()


def _difference(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    largest = float((one - other).abs().max())
    return largest / max(float(one.std()), 1e-30) if largest else 0.0
