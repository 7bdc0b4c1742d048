import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model.config import PRESETS, ModelConfig, read_preset
from model.counts import count_parameters, parameters_by_part, training_flops, training_flops_per_token
from model.gpt import GPT

# Brown et al. 2020, Table D.1: parameters and the operations of a training over 300 G tokens.
TABLE_D1 = {
    "gpt3-125m": (125e6, 2.25e20),
    "gpt3-350m": (356e6, 6.41e20),
    "gpt3-760m": (760e6, 1.37e21),
    "gpt3-1.3b": (1320e6, 2.38e21),
    "gpt3-2.7b": (2650e6, 4.77e21),
    "gpt3-6.7b": (6660e6, 1.20e22),
    "gpt3-13b": (12850e6, 2.31e22),
    "gpt3-175b": (174600e6, 3.14e23),
}

# The same, Table 2.1: layers, width, heads (the two misprints of the table corrected).
TABLE_21 = {
    "gpt3-125m": (12, 768, 12),
    "gpt3-350m": (24, 1024, 16),
    "gpt3-760m": (24, 1536, 16),
    "gpt3-1.3b": (24, 2048, 16),
    "gpt3-2.7b": (32, 2560, 32),
    "gpt3-6.7b": (32, 4096, 32),
    "gpt3-13b": (40, 5120, 40),
    "gpt3-175b": (96, 12288, 96),
}


def built_parameters(config: ModelConfig) -> int:
    with torch.device("meta"):
        network = GPT(config)
    unused = config.embedding_rows - config.vocab_size - (config.objective == "denoise")
    return sum(parameter.numel() for parameter in network.parameters()) - unused * config.d_model


def test_all_of_the_familys_presets_are_there() -> None:
    assert set(TABLE_D1) <= {path.stem for path in PRESETS.glob("*.yaml")}


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_counted_parameters_are_those_of_the_built_network(preset: str) -> None:
    config = ModelConfig(preset=preset)
    assert count_parameters(config) == built_parameters(config)


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 8),
    st.none() | st.integers(1, 50),
    st.integers(1, 30),
    st.integers(1, 200),
    st.fixed_dictionaries(
        {
            "attention": st.sampled_from(["dense", "alternating"]),
            "qkv_bias": st.sampled_from([None, True, False]),
            "position": st.sampled_from(["learned", "sinusoidal", "rotary"]),
            "objective": st.sampled_from(["next_token", "denoise"]),
        }
    ),
)
def test_counted_parameters_of_any_shape(
    n_layer: int, n_head: int, half: int, d_ff: int | None, n_ctx: int, vocab_size: int, kind: dict[str, object]
) -> None:
    shape = {"n_layer": n_layer, "n_head": n_head, "d_model": 2 * n_head * half, "d_ff": d_ff, "n_ctx": n_ctx}
    config = ModelConfig.model_validate(shape | {"vocab_size": vocab_size} | kind)
    assert count_parameters(config) == built_parameters(config)
    assert sum(parameters_by_part(config).values()) == count_parameters(config)


@pytest.mark.parametrize(("vocab_size", "rows"), [(1, 128), (128, 128), (129, 256), (50257, 50304)])
def test_embedding_is_padded_to_a_multiple_of_128(vocab_size: int, rows: int) -> None:
    config = ModelConfig(n_layer=1, n_head=1, d_model=2, vocab_size=vocab_size)
    assert config.embedding_rows == rows
    assert config.mask_id == vocab_size
    assert config.model_copy(update={"objective": "denoise"}).embedding_rows == -(-(vocab_size + 1) // 128) * 128


def test_queries_have_biases_where_attention_is_dense() -> None:
    shape = {"n_layer": 1, "n_head": 1, "d_model": 2}
    assert ModelConfig.model_validate(shape).has_qkv_bias
    assert not ModelConfig.model_validate(shape | {"attention": "alternating"}).has_qkv_bias
    assert ModelConfig.model_validate(shape | {"attention": "alternating", "qkv_bias": True}).has_qkv_bias
    assert not ModelConfig.model_validate(shape | {"qkv_bias": False}).has_qkv_bias


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 6, "n_head": 2, "position": "rotary"}, "d_model / n_head is 3"),
        ({"d_model": 3, "n_head": 1, "position": "sinusoidal"}, "d_model is 3"),
        ({"end_of_text": 50257}, "end_of_text 50257 is not below vocab_size 50257"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate({"n_layer": 1, "n_head": 1, "d_model": 8} | fields)


def test_flops_of_a_token_count_the_positions_seen() -> None:
    dense = ModelConfig(n_layer=4, n_head=1, d_model=8, n_ctx=64, vocab_size=10)
    products = 6 * (4 * 12 * 8 * 8 + 8 * 10)
    assert training_flops_per_token(dense) == products + 12 * 8 * 4 * 64
    banded = dense.model_copy(update={"attention": "alternating", "band": 16})
    assert training_flops_per_token(banded) == products + 12 * 8 * (2 * 64 + 2 * 16)
    both_sides = banded.model_copy(update={"objective": "denoise"})  # 10 of 64 positions are masked and predicted
    predicted = 6 * (4 * 12 * 8 * 8 + 8 * 10 * 10 / 64)
    assert training_flops_per_token(both_sides) == pytest.approx(predicted + 12 * 8 * (2 * 64 + 2 * 31))


@pytest.mark.parametrize("preset", TABLE_D1)
def test_preset_has_the_papers_size_and_work(preset: str) -> None:
    config = ModelConfig(preset=preset)
    parameters, flops = TABLE_D1[preset]
    assert count_parameters(config) == pytest.approx(parameters, rel=0.01)
    assert training_flops(config, 300e9) == pytest.approx(flops, rel=0.02)


@pytest.mark.parametrize("preset", TABLE_21)
def test_preset_has_the_papers_shape(preset: str) -> None:
    config = ModelConfig(preset=preset)
    assert (config.n_layer, config.d_model, config.n_head) == TABLE_21[preset]
    assert (config.n_ctx, config.vocab_size, config.ff_width) == (2048, 50257, 4 * config.d_model)


def test_flops_are_six_per_parameter_and_token() -> None:
    config = ModelConfig(n_layer=1, n_head=1, d_model=8, n_ctx=4, vocab_size=10)
    assert training_flops(config, 100) == 600 * count_parameters(config)


def test_any_field_overrides_the_preset() -> None:
    config = ModelConfig.model_validate({"preset": "gpt3-125m", "n_layer": 2, "vocab_size": 300, "d_ff": 17})
    assert (config.n_layer, config.vocab_size, config.ff_width) == (2, 300, 17)
    assert (config.d_model, config.n_head, config.n_ctx) == (768, 12, 2048)


def test_override_is_checked_against_the_rest_of_the_preset() -> None:
    with pytest.raises(ValidationError, match="d_model 768 is no multiple of n_head 7; the nearest are 763 and 770"):
        ModelConfig.model_validate({"preset": "gpt3-125m", "n_head": 7})


# The last ones are files, though none of configs/model.
@pytest.mark.parametrize("name", ["gpt3-126m", "", "gpt3-125m.yaml", "../model/gpt3-125m", "../data/sample"])
def test_unknown_preset_is_answered_with_those_there_are(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelConfig.model_validate({"preset": name})
    assert all(known in str(caught.value) for known in TABLE_D1)


def test_preset_holds_no_preset_of_its_own() -> None:
    for path in PRESETS.glob("*.yaml"):
        assert "preset" not in read_preset(path.stem)


@given(st.integers(1, 400), st.integers(2, 40))
def test_width_that_no_heads_divide_is_answered_with_the_nearest(d_model: int, n_head: int) -> None:
    given_fields = {"n_layer": 1, "n_head": n_head, "d_model": d_model}
    if d_model % n_head == 0:
        assert ModelConfig.model_validate(given_fields).d_model == d_model
        return
    below, above = d_model // n_head * n_head, (d_model // n_head + 1) * n_head
    with pytest.raises(ValidationError) as caught:
        ModelConfig.model_validate(given_fields)
    message = caught.value.errors()[0]["msg"]
    assert f"d_model {d_model} is no multiple of n_head {n_head}" in message
    # A width of 0 is none: where the width is below n_head, only the one above is named, and once.
    assert message.endswith(f" {below} and {above}" if below else f" {above}")
    assert f"{above} and {above}" not in message


@pytest.mark.parametrize(
    "wrong", [{"n_layer": 0}, {"d_model": -8}, {"attention": "sparse"}, {"n_layers": 3}, {"n_ctx": 1.5}]
)
def test_wrong_field_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ModelConfig.model_validate({"n_layer": 1, "n_head": 2, "d_model": 8} | wrong)
