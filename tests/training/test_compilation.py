import shutil

import pytest
import torch

from data_pipeline.errors import InputError
from model.config import ModelConfig
from model.gpt import GPT
from model.objective import task
from training.compilation import compile_blocks

CONFIG = ModelConfig(n_layer=6, n_head=2, d_model=32, n_ctx=32, vocab_size=64, attention="alternating", band=8)


def losses_and_gradients(network: GPT, batch: int) -> list[torch.Tensor]:
    tokens = torch.randint(64, (batch, 33), generator=torch.Generator().manual_seed(1))
    network.zero_grad()
    total, losses = network(*task(network.config, tokens, seed=0, positions=range(batch)))
    total.backward()
    return [losses, *(parameter.grad.clone() for parameter in network.parameters())]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_layers_of_a_kind_share_a_graph_and_numbers_stay() -> None:
    network = GPT(CONFIG)
    network.initialise(1)
    expected = [losses_and_gradients(network, batch) for batch in (4, 3)]
    names = [name for name, _ in network.named_parameters()]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert compile_blocks(network, wanted=True, zero_stage=1)
    found = [losses_and_gradients(network, batch) for batch in (4, 3)]
    for mine, right in zip(sum(found, []), sum(expected, []), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-5)
    assert [name for name, _ in network.named_parameters()] == names
    # Two kinds of layer, two sizes of micro-batch.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4
    assert not torch._dynamo.utils.counters["graph_break"]


def test_nothing_is_compiled_by_default_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not compile_blocks(GPT(CONFIG), wanted=None, zero_stage=1)


def test_without_a_compiler_it_is_left_out_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("PATH", "")
    assert not compile_blocks(GPT(CONFIG), wanted=None, zero_stage=1)
    with pytest.raises(InputError, match=r"train\.compile: needs a C\+\+ compiler; install g\+\+"):
        compile_blocks(GPT(CONFIG), wanted=True, zero_stage=1)


@pytest.mark.parametrize(
    ("stage", "recompute", "chosen"), [(0, 1, True), (2, "none", True), (3, 1, False), (1, "selective", False)]
)
def test_on_a_gpu_it_depends(stage: int, recompute: object, chosen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compile_blocks(GPT(CONFIG, recompute), wanted=None, zero_stage=stage) is chosen
