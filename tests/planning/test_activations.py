"""What a plan says that a forward pass keeps, against what autograd keeps of the network itself."""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import ModelConfig, Recompute
from model.gpt import GPT
from planning.activations import kept_per_position, whole_block, working_per_position
from planning.layout import Layout
from ranks import ranks_ended
from training.parallel_config import ParallelConfig
from training.zero_config import ZeroConfig

HERE = Path(__file__).resolve()
SEQUENCES, N_CTX = 2, 128


def network(n_layer: int, **more: Any) -> ModelConfig:
    return ModelConfig(n_layer=n_layer, n_head=4, d_model=64, n_ctx=N_CTX, vocab_size=256, **more)  # type: ignore[call-arg]


def layout(recompute: Recompute, tensor: int = 1, sequence: int = 1) -> Layout:
    parallel = ParallelConfig(tensor=tensor, sequence=sequence)
    return Layout(parallel.sharing, ZeroConfig(), parallel, SEQUENCES, recompute, "fp32", device="cpu")


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


@pytest.mark.parametrize("objective", ["next_token", "denoise"])
def test_banded_layers_copy_keys_and_values_on_a_cpu(objective: str) -> None:
    bands: dict[str, Any] = {"attention": "alternating", "band": 32, "qkv_bias": True, "objective": objective}
    few, many = (kept(network(n_layer, **bands), "none") for n_layer in (2, 4))
    of_two_blocks = kept_per_position(network(2, **bands), layout("none")) * SEQUENCES * N_CTX
    assert many - few == pytest.approx(of_two_blocks, rel=0.03)
    on_gpu = replace(layout("none"), device="cuda")
    assert kept_per_position(network(2, **bands), on_gpu) == kept_per_position(network(2), on_gpu)


@pytest.mark.parametrize("recompute", ["none", "selective"])
@pytest.mark.parametrize("shared", ["tensor", "sequence"])
def test_ranks_that_share(shared: str, recompute: Recompute) -> None:
    done = ranks_ended(2, HERE.with_name("activations_worker.py"), shared, recompute)
    assert done.returncode == 0, done.stderr
    told = [int(line) for line in done.stdout.splitlines() if line.isdigit()]
    shares = layout(recompute, **{shared: 2})
    positions = SEQUENCES * N_CTX / shares.parallel.sequence
    assert told == [pytest.approx(kept_per_position(network(2), shares) * positions, rel=0.03)] * 2


def test_a_selective_block_keeps_its_products() -> None:
    few, many = (kept(network(n_layer), "selective") for n_layer in (2, 4))
    of_two_blocks = kept_per_position(network(2), layout("selective")) * SEQUENCES * N_CTX
    assert many - few == pytest.approx(of_two_blocks, rel=0.03)


def test_what_is_split_and_what_is_not() -> None:
    model = network(1)
    whole, half = (whole_block(model, layout("none", tensor), 0) for tensor in (1, 2))
    assert whole - half == (4 * 64 + 2 * 256) / 2 * 4 + 4 * 4 / 2  # the rest is on both
    again = working_per_position(model, layout(1)) - working_per_position(model, layout("none"))
    assert again == whole_block(model, layout(1), 0) - 64 * 4  # all of a block but the input that was kept
