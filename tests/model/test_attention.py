"""Every implementation of attention against softmax and mask written out in fp64.

Tolerance: fp32, 1e-5 relative to the largest entry, forward and backward.
"""

import functools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model import attention
from model.attention import Visible, attend, block_local, block_mask, visible
from model.config import ModelConfig
from model.gpt import GPT
from model.objective import task

CPU = torch.device("cpu")


def qkv(batch: int, length: int, seed: int = 0, heads: int = 2, width: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, heads, length, width, generator=generator) for _ in range(3)]


def reference(q: Tensor, k: Tensor, v: Tensor, seen: Visible) -> Tensor:
    """One query and key at a time decide who sees whom."""
    length, documents = q.shape[-2], seen.documents
    hidden = torch.ones(len(q), 1, length, length, dtype=torch.bool)
    for row in range(len(q)):
        for query in range(length):
            for key in range(length):
                before = query >= key or not seen.causal
                near = seen.band is None or abs(query - key) < seen.band
                same = documents is None or documents[row, query] == documents[row, key]
                hidden[row, 0, query, key] = not (before and near and same)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.masked_fill(hidden, -math.inf).softmax(-1) @ v


def through(form: Callable[..., Tensor], inputs: list[Tensor], seen: Visible, dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients."""
    leaves = [each.to(dtype, copy=True).requires_grad_() for each in inputs]
    out = form(*leaves, seen)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    (out * weights).sum().backward()
    return [out.detach(), *(each.grad for each in leaves)]


def assert_same(form: Callable[..., Tensor], inputs: list[Tensor], seen: Visible) -> None:
    expected = through(reference, inputs, Visible(seen.causal, seen.band, seen.documents), torch.float64)
    for mine, right in zip(through(form, inputs, seen, torch.float32), expected, strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=0, atol=1e-5 * max(1.0, float(right.abs().max())))


def packed(batch: int, length: int, seed: int) -> Tensor:
    starts = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < 0.2
    return starts.cumsum(dim=1)


@settings(max_examples=40)
@given(st.integers(1, 2), st.integers(1, 25), st.integers(1, 30), st.booleans(), st.booleans(), st.integers(0, 99))
def test_on_a_cpu(batch: int, length: int, band: int, causal: bool, documents: bool, seed: int) -> None:
    told = packed(batch, length, seed) if documents else None
    inputs = qkv(batch, length, seed)
    for width in (None, band):
        assert_same(attend, inputs, visible(causal, width, told, length, CPU))
    # Also where the band covers everything, where `visible` would take the dense form.
    assert_same(block_local, inputs, Visible(causal, band, told))


@pytest.mark.slow
@settings(max_examples=15)
@given(st.integers(1, 200), st.integers(1, 210), st.booleans(), st.booleans(), st.integers(0, 99))
def test_flex_attention_has_the_same_mask(length: int, band: int, causal: bool, documents: bool, seed: int) -> None:
    """The block mask that a GPU uses, through FlexAttention's eager form, which has no backward on a CPU."""
    told = packed(2, length, seed) if documents else None
    seen = Visible(causal, band, told)
    flexible = Visible(causal, band, told, block_mask(seen, length, CPU))
    q, k, v = qkv(2, length, seed)
    expected = attend(q, k, v, visible(causal, band, told, length, CPU))
    torch.testing.assert_close(attend(q, k, v, flexible), expected, rtol=0, atol=1e-5 * float(v.abs().max()))


def test_flex_attention_skips_what_is_hidden() -> None:
    """Blocks of 128 x 128: a band of 256 touches at most four of a row, however long the sequence."""
    for length in (1024, 2048):
        mask = block_mask(Visible(True, 256), length, CPU)
        assert (
            int(
                mask.kv_num_blocks.max() + (mask.full_kv_num_blocks.max() if mask.full_kv_num_blocks is not None else 0)
            )
            <= 4
        )


class Scores(TorchDispatchMode):
    """Counts the query-key pairs that attention kernels are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if "scaled_dot_product" in str(func):
            self.pairs += args[0].shape[:-1].numel() * args[1].shape[-2]
        return func(*args, **(kwargs or {}))


def test_banded_attention_costs_length_times_band() -> None:
    def pairs(length: int, band: int) -> int:
        with Scores() as scores, torch.no_grad():
            attend(*qkv(1, length, heads=1), visible(True, band, None, length, CPU))
        return scores.pairs

    assert pairs(2048, 2048) == 2048 * 2048
    assert pairs(1024, 64) == 1024 * 128
    assert pairs(2048, 64) == 2048 * 128


@pytest.mark.parametrize("band", [None, 8])
def test_dense_form_is_taken_where_nothing_is_hidden(band: int | None) -> None:
    assert visible(True, band, None, 8, CPU) == Visible(True, None)


@pytest.fixture
def flexible(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU on a CPU: FlexAttention traced and differentiated, though not made into kernels."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    traced = functools.cache(functools.partial(torch.compile, dynamic=False, backend="aot_eager"))
    monkeypatch.setattr(attention, "_compiled", traced)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.mark.slow
@pytest.mark.parametrize("documents", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.usefixtures("flexible")
def test_a_network_trains_the_same_through_flex_attention(compiled: bool, documents: bool) -> None:
    config = ModelConfig(n_layer=4, n_head=2, d_model=32, n_ctx=150, vocab_size=50, attention="alternating", band=20)
    config = config.model_copy(update={"document_mask": documents, "end_of_text": 5})
    networks = [GPT(config), GPT(config)]
    for network in networks:
        network.initialise(1)
    if compiled:
        for block in networks[0].blocks:
            block.compile(dynamic=False, backend="aot_eager")
    for step in range(3):  # with other documents each
        tokens = torch.randint(50, (2, 151), generator=torch.Generator().manual_seed(step))
        tokens[:, :: 17 + step] = 5
        gradients = []
        for network, devices in zip(networks, (("cpu",), ()), strict=True):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(attention, "FLEX_DEVICES", devices)
                network.zero_grad()
                network(*task(config, tokens, 0, range(2)))[0].backward()
            gradients.append([parameter.grad.clone() for parameter in network.parameters()])
        for mine, right in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, right, rtol=0, atol=1e-5 * float(right.abs().max()))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 1 <= graphs <= 4  # blocks or FlexAttention of each kind of layer, and masks: none anew for each step
    assert not torch._dynamo.utils.counters["graph_break"]
