"""Counted FLOPs against those of a real forward and backward pass, as torch counts them."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.config import ModelConfig, Recompute
from model.counts import computed_flops_per_token, training_flops_per_token
from model.gpt import GPT
from model.objective import task

MODEL = ModelConfig(n_layer=5, n_head=2, d_model=32, d_ff=96, n_ctx=16, vocab_size=300)
DENOISE = MODEL.model_copy(update={"objective": "denoise"})


def product(_: torch.Size, rows: torch.Size, columns: torch.Size, **__: object) -> int:
    """Of torch.addmm_, which torch's counter leaves out."""
    return 2 * rows[0] * rows[1] * columns[1]


def counted(config: ModelConfig, recompute: Recompute) -> float:
    network, sequences = GPT(config, recompute), 3
    network.initialise(0)
    tokens = torch.randint(0, config.vocab_size, (sequences, config.n_ctx + 1))
    in_place = {torch.ops.aten.addmm_: product}
    # Of the implementations of attention that a CPU has, torch counts this one only.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        total, _ = network(*task(config, tokens, 0, range(sequences)))
        total.backward()
    return counter.get_total_flops() / (sequences * config.n_ctx)


@pytest.mark.parametrize("model", [MODEL, DENOISE], ids=["next token", "denoise"])
@pytest.mark.parametrize("recompute", ["none", "selective", 1, 2, 3])
def test_what_is_computed_is_what_torch_counts(model: ModelConfig, recompute: Recompute) -> None:
    assert counted(model, recompute) == pytest.approx(computed_flops_per_token(model, recompute), rel=1e-12)


def test_model_flops_leave_padding_and_repetition_out() -> None:
    padding = 6 * 32 * (384 - 300)
    assert training_flops_per_token(MODEL) + padding == computed_flops_per_token(MODEL, "none")
    block = 2 * (4 * 32 * 32 + 2 * 32 * 96) + 4 * 32 * 16
    none = computed_flops_per_token(MODEL, "none")
    assert computed_flops_per_token(MODEL, 2, whole_blocks=True) == none + 3 * block


def test_selective_repeats_attention_that_is_compiled() -> None:
    model = MODEL.model_copy(update={"attention": "alternating", "band": 4})
    none = computed_flops_per_token(model, "none")
    assert computed_flops_per_token(model, "selective") == none
    assert computed_flops_per_token(model, "selective", flex_attention=True) == none + 2 * 4 * 32 * 4
    documents = model.model_copy(update={"document_mask": True})
    assert computed_flops_per_token(documents, "selective", flex_attention=True) == none + 4 * 32 * (3 * 16 + 2 * 4)
