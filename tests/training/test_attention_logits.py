"""The largest attention logit, against all of them in fp64, and through blocks that are compiled."""

import math

import pytest
import torch

from model.attention import Visible
from model.config import ModelConfig
from model.gpt import GPT
from training.attention_logits import largest_logit
from training.compilation import uncompiled

DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]])
LENGTH = DOCUMENTS.shape[1]


@pytest.mark.parametrize("scores", [1, 3 * 2 * 2 * LENGTH, 2**20])
@pytest.mark.parametrize("documents", [None, DOCUMENTS])
@pytest.mark.parametrize("band", [None, 1, 4])
@pytest.mark.parametrize("causal", [True, False])
def test_it_is_that_of_the_pairs_that_see_each_other(
    causal: bool, band: int | None, documents: torch.Tensor | None, scores: int
) -> None:
    seen = Visible(causal, band, documents)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        q, k = (torch.randn(2, 2, LENGTH, 8, generator=generator, dtype=torch.float64) for _ in range(2))
        logits = (q @ k.transpose(-1, -2)).abs() / math.sqrt(8)
        expected = logits.masked_fill(~seen.mask(LENGTH, q.device), 0.0).max()
        assert float(largest_logit(q.float(), k.float(), seen, scores)) == pytest.approx(float(expected), rel=1e-5)


def test_a_number_that_is_none_is_not_overlooked() -> None:
    q = torch.ones(1, 1, 4, 8)
    q[0, 0, 2, 3] = math.nan
    assert math.isnan(largest_logit(q, torch.ones_like(q), Visible(True, None)))


def test_blocks_that_are_compiled_call_hooks_inside_of_uncompiled() -> None:
    network = GPT(ModelConfig(n_layer=2, n_head=2, d_model=16, n_ctx=8, vocab_size=11))
    network.initialise(0)
    tokens = torch.arange(8)[None]
    expected = network.logits(tokens)
    for block in network.blocks:
        block.compile(dynamic=False, backend="eager")
    network.logits(tokens)
    called: list[str] = []
    for name, module in network.named_modules():
        if name.endswith("qkv"):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    with uncompiled(network):
        torch.testing.assert_close(network.logits(tokens), expected)
    assert called == ["blocks.0.attention.qkv", "blocks.1.attention.qkv"]
    called.clear()
    network.logits(tokens)
    assert not called  # compiled again: what is compiled does not know of later hooks
