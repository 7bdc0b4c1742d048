from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import networks
from model.config import ModelConfig
from model.gpt import GPT

CONTEXT, VOCABULARY, END = 24, 11, 10


def config_of(**fields: Any) -> ModelConfig:
    small = {"n_layer": 3, "n_head": 2, "d_model": 16, "n_ctx": CONTEXT, "vocab_size": VOCABULARY, "end_of_text": END}
    return ModelConfig.model_validate(small | fields)


@cache
def network_of(config: ModelConfig) -> GPT:
    return networks.shaken(config, by=0.2)


def token_ids(*shape: int, seed: int = 3) -> Tensor:
    """Every eleventh token ends a text, about."""
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def assert_cached_is_uncached(config: ModelConfig, tokens: Tensor, lengths: list[int]) -> None:
    """Reads the first `lengths` of the rows as prompts and the rest of each a token at a time."""
    network, length, rows = network_of(config), torch.tensor(lengths), torch.arange(len(tokens))
    expected = network.logits(tokens)
    prompts = tokens[:, : max(lengths)].clone()
    for row, end in enumerate(lengths):
        prompts[row, end:] = END  # what stands behind a prompt plays no part
    logits, kept = network.start(prompts, length)
    torch.testing.assert_close(logits, expected[rows, length - 1], rtol=1e-5, atol=1e-5)
    while (going := (length < tokens.shape[1]).nonzero().squeeze(1)).numel():
        rows, length = rows[going], length[going]
        kept.reorder(going)
        logits = network.step(tokens[rows, length], kept)
        torch.testing.assert_close(logits, expected[rows, length], rtol=1e-5, atol=1e-5)
        length = length + 1


# Bands narrower than the prompts, as wide as one of them, as the text, and wider.
BANDED = [
    {"attention": "alternating", "first_layer": first, "band": band}
    for first, band in product(("dense", "banded"), (1, 2, 5, 9, CONTEXT, 50))
]


@pytest.mark.parametrize("document_mask", [False, True])
@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("attention", [{}, *BANDED], ids=lambda fields: "-".join(map(str, fields.values())))
def test_cached_logits_are_the_uncached(attention: dict[str, Any], position: str, document_mask: bool) -> None:
    config = config_of(**attention, position=position, document_mask=document_mask)
    assert_cached_is_uncached(config, token_ids(3, CONTEXT), [5, 1, 9])


@pytest.mark.parametrize("fields", [{"qkv_bias": False}, {"mup_base_width": 4}, {"n_head": 1, "d_ff": 7}], ids=str)
def test_cached_logits_are_the_uncached_of_other_shapes(fields: dict[str, Any]) -> None:
    assert_cached_is_uncached(config_of(**fields), token_ids(2, CONTEXT), [4, 4])
    assert_cached_is_uncached(config_of(**fields, attention="alternating", band=3), token_ids(2, CONTEXT), [4, 7])


@settings(max_examples=60)
@given(st.data())
def test_cached_logits_are_the_uncached_of_any_prompts(data: st.DataObject) -> None:
    config = config_of(
        attention="alternating",
        first_layer=data.draw(st.sampled_from(["dense", "banded"])),
        band=data.draw(st.integers(1, 12)),
        position=data.draw(st.sampled_from(["learned", "rotary"])),
        document_mask=data.draw(st.booleans()),
    )
    length = data.draw(st.integers(1, CONTEXT))
    row = st.lists(st.sampled_from([1, 2, 3, END]), min_size=length, max_size=length)
    tokens = data.draw(st.lists(row, min_size=1, max_size=3))
    lengths = data.draw(st.lists(st.integers(1, length), min_size=len(tokens), max_size=len(tokens)))
    assert_cached_is_uncached(config, torch.tensor(tokens), lengths)


def test_a_banded_layer_keeps_its_band_and_a_dense_one_what_there_is() -> None:
    config = config_of(n_layer=4, attention="alternating", band=3)
    network, tokens = network_of(config), token_ids(2, CONTEXT)
    with torch.inference_mode():
        _, kept = network.start(tokens[:, :6], torch.tensor([6, 2]))
        for read in range(6, CONTEXT):
            network.step(tokens[:, read], kept)
            for layer, each in enumerate(kept.layers):
                slots = each.keys.shape[2]
                assert each.keys.shape == each.values.shape == (2, config.n_head, slots, config.d_head)
                assert slots == 3 if layer % 2 else read < slots <= min(2 * read, CONTEXT)
                # Nor does it hold on to a larger tensor that it is a view of.
                assert each.keys.untyped_storage().nbytes() == each.keys.nbytes
                assert each.values.untyped_storage().nbytes() == each.values.nbytes


def test_a_band_is_not_larger_than_the_prompt_asks_for() -> None:
    network = network_of(config_of(attention="alternating", first_layer="banded", band=20))
    with torch.inference_mode():
        _, kept = network.start(token_ids(1, 2), torch.tensor([2]))
    assert [each.keys.shape[2] for each in kept.layers] == [2, 2, 2]


def stepped(config: ModelConfig, tokens: Tensor) -> Tensor:
    """Logits T V of one text, read a token at a time."""
    network = network_of(config)
    with torch.inference_mode():
        first, kept = network.start(tokens[None, :1], torch.tensor([1]))
        return torch.cat([first, *(network.step(token[None], kept) for token in tokens[1:])])


@pytest.mark.parametrize("band", [1, 4])
def test_a_token_is_seen_through_the_cache_of_a_band_for_as_long_as_the_band(band: int) -> None:
    config = config_of(n_layer=1, attention="alternating", first_layer="banded", band=band)
    tokens = token_ids(CONTEXT)
    for changed_at in (1, 7, 20):
        other = tokens.clone()
        other[changed_at] = (other[changed_at] + 1) % VOCABULARY
        differ = (stepped(config, tokens) != stepped(config, other)).any(dim=-1)
        expected = torch.zeros(CONTEXT, dtype=torch.bool)
        expected[changed_at : changed_at + band] = True
        assert torch.equal(differ, expected)


@pytest.mark.parametrize("document_mask", [False, True])
def test_a_document_that_begins_in_the_continuation_hides_what_was_before(document_mask: bool) -> None:
    config = config_of(document_mask=document_mask)
    tokens = token_ids(CONTEXT) % END
    tokens[8] = END
    other = tokens.clone()
    other[3] = (other[3] + 1) % END
    differ = (stepped(config, tokens) != stepped(config, other)).any(dim=-1)
    assert differ[3:8].all() and not differ[:3].any()
    assert differ[8:].any() != document_mask


@pytest.mark.parametrize("fields", [{}, {"attention": "alternating", "band": 3, "document_mask": True}], ids=str)
def test_reordered_rows_go_on_from_where_they_come_from(fields: dict[str, Any]) -> None:
    config = config_of(**fields)
    network, tokens = network_of(config), token_ids(3, CONTEXT)
    length, rows = torch.tensor([4, 9, 6]), torch.tensor([2, 0, 2, 1])
    following = torch.tensor([1, END, 3, 4])
    with torch.inference_mode():
        _, kept = network.start(tokens[:, :9], length)
        kept.reorder(rows)
        for _ in range(3):
            logits = network.step(following, kept)
        for row, parent in enumerate(rows.tolist()):
            text = torch.cat([tokens[parent, : length[parent]], following[row].expand(3)])
            torch.testing.assert_close(logits[row], network.logits(text[None])[0, -1], rtol=1e-5, atol=1e-5)
    assert torch.equal(kept.position, length[rows] + 3)
