import math

import pytest
import torch

from model.config import ModelConfig
from model.gpt import GPT
from model.mup import rate_multiple, width_multiple
from model.objective import task
from training.config import TrainConfig
from training.optimizer import build_optimizer

BASE = 64


def config_of(width: int, mup: bool = True) -> ModelConfig:
    base = BASE if mup else None
    return ModelConfig(n_layer=2, n_head=width // 16, d_model=width, n_ctx=16, vocab_size=100, mup_base_width=base)


def test_at_the_base_width_nothing_differs() -> None:
    plain, scaled = GPT(config_of(BASE, mup=False)), GPT(config_of(BASE))
    plain.initialise(1)
    scaled.initialise(1)
    tokens = torch.arange(16)[None]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), scaled.parameters(), strict=True))
    assert torch.equal(plain.logits(tokens), scaled.logits(tokens))
    assert all(rate_multiple(scaled.config, name) == 1 for name, _ in scaled.named_parameters())


def test_hidden_matrices_are_drawn_smaller_and_learn_slower() -> None:
    network = GPT(config_of(4 * BASE))
    network.initialise(1)
    assert width_multiple(network.config) == 4
    hidden = {"attention.qkv.weight", "attention.out.weight", "feed_forward.up.weight", "feed_forward.out.weight"}
    for name, parameter in network.named_parameters():
        is_hidden = name.startswith("blocks.") and name.split(".", 2)[2] in hidden
        assert rate_multiple(network.config, name) == (0.25 if is_hidden else 1.0)
        if parameter.ndim == 2 and name != "token_embedding.weight":
            residual = 1 / math.sqrt(4) if name.endswith("out.weight") else 1.0
            expected = 0.02 * residual * (0.5 if is_hidden else 1.0)
            assert float(parameter.detach().std()) == pytest.approx(expected, rel=0.05)


def test_the_optimizer_follows() -> None:
    network = GPT(config_of(4 * BASE))
    optimizer = build_optimizer(network, TrainConfig(tokens=1, batch_tokens=1, lr=1e-3, weight_decay=0.1))
    owner = {id(parameter): name for name, parameter in network.named_parameters()}
    seen = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen[owner[id(parameter)]] = (group["lr_multiple"], group["weight_decay"])
    assert seen.keys() == set(owner.values())
    assert seen["token_embedding.weight"] == (1.0, 0.1)
    assert seen["blocks.0.attention.qkv.weight"] == (0.25, 0.4)  # rate times decay as at the base
    assert seen["blocks.0.attention.qkv.bias"] == (1.0, 0.0)


def logit_change(width: int, mup: bool) -> float:
    """How far a few steps of AdamW move the logits, root of the mean square."""
    network = GPT(config_of(width, mup))
    network.initialise(1)
    optimizer = build_optimizer(network, TrainConfig(tokens=1, batch_tokens=1, lr=2e-3, weight_decay=0.0))
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_multiple"]
    tokens = torch.randint(100, (8, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = network.logits(tokens[:, :-1])
    for _ in range(4):
        optimizer.zero_grad()
        (network(*task(network.config, tokens, 0, range(8)))[0] / 8).backward()
        optimizer.step()
    with torch.no_grad():
        return float((network.logits(tokens[:, :-1]) - before).square().mean().sqrt())


def test_coordinates_stay_level_over_the_width() -> None:
    """The coordinate check of Yang et al. 2022, section 8, on the logits: eight times the width."""
    scaled = logit_change(8 * BASE, mup=True) / logit_change(BASE, mup=True)
    plain = logit_change(8 * BASE, mup=False) / logit_change(BASE, mup=False)
    assert 0.5 < scaled < 1.6
    assert plain > 3
