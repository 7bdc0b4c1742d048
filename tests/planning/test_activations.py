"""What a plan says that a forward pass keeps, against what autograd keeps of the network itself."""

import gc
from typing import Any

import pytest
import torch

from model.config import ModelConfig, Recompute
from model.gpt import GPT
from planning.activations import kept_per_position, whole_block, working_per_position
from planning.layout import Layout
from training.parallel_config import ParallelConfig
from training.zero_config import ZeroConfig

SEQUENCES, N_CTX = 2, 128


def network(n_layer: int, **more: Any) -> ModelConfig:
    return ModelConfig(n_layer=n_layer, n_head=4, d_model=64, n_ctx=N_CTX, vocab_size=256, **more)  # type: ignore[call-arg]


def layout(recompute: Recompute, tensor: int = 1) -> Layout:
    return Layout(tensor, ZeroConfig(), ParallelConfig(tensor=tensor), SEQUENCES, recompute, "fp32")


def kept(model: ModelConfig, recompute: Recompute) -> int:
    """Bytes that are alive after a forward pass and were not before."""
    built = GPT(model, recompute)
    built.initialise(1)
    tokens = torch.zeros((SEQUENCES, N_CTX), dtype=torch.long)
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    before = {each.untyped_storage().data_ptr() for each in built.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = built(tokens, tokens)
    if recompute == "selective":  # what it keeps lies in a store of its own
        for each in [each for each in gc.get_objects() if type(each) is torch.Tensor]:
            keep(each)
    del loss
    return sum(size for at, size in storages.items() if at not in before)


@pytest.mark.parametrize("recompute", ["none", 1, 2])
@pytest.mark.parametrize("position", ["learned", "rotary"])
def test_as_autograd_keeps_it(recompute: Recompute, position: str) -> None:
    few, many = (kept(network(n_layer, position=position), recompute) for n_layer in (2, 4))
    of_two_blocks = kept_per_position(network(2, position=position), layout(recompute)) * SEQUENCES * N_CTX
    assert many - few == of_two_blocks


def test_a_selective_block_keeps_its_products() -> None:
    few, many = (kept(network(n_layer), "selective") for n_layer in (2, 4))
    of_two_blocks = kept_per_position(network(2), layout("selective")) * SEQUENCES * N_CTX
    assert many - few == pytest.approx(of_two_blocks, rel=0.03)


def test_what_is_split_and_what_is_not() -> None:
    model = network(1)
    whole, half = (whole_block(model, layout("none", tensor)) for tensor in (1, 2))
    assert whole - half == (4 * 64 + 2 * 256) / 2 * 4 + 4 * 4 / 2  # the rest is on both
    again = working_per_position(model, layout(1)) - working_per_position(model, layout("none"))
    assert again == whole_block(model, layout(1)) - 64 * 4  # all of a block but the input that was kept
