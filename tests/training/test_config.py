import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from training.config import (
    CheckpointConfig,
    KeepConfig,
    MetricsConfig,
    NoiseScaleConfig,
    TrainConfig,
    ValidationConfig,
)

LEAST = {"tokens": 1000, "batch_tokens": 10, "lr": 1e-3}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90s", 90),
        ("30min", 1800),
        ("2h", 7200),
        ("1d", 86400),
        ("1.5h", 5400),
        ("0.5 d", 43200),
        ("10 min", 600),
        (45, 45),
        (0.25, 0.25),
        (None, None),
    ],
)
def test_durations(written: object, seconds: float | None) -> None:
    assert CheckpointConfig.model_validate({"every": written}).every == seconds


@given(st.integers(1, 10**6), st.sampled_from([("s", 1), ("min", 60), ("h", 3600), ("d", 86400)]))
def test_any_whole_duration(count: int, unit: tuple[str, int]) -> None:
    assert CheckpointConfig.model_validate({"every": f"{count}{unit[0]}"}).every == count * unit[1]


@pytest.mark.parametrize("wrong", ["30", "min", "30m", "-30min", "1h30min", "1e3s", "30 Min", "", " 30min", "٣s"])
def test_no_duration_is_answered_with_the_form(wrong: str) -> None:
    with pytest.raises(ValidationError, match="no duration; write it like 90s, 30min, 2h or 1d"):
        CheckpointConfig.model_validate({"every": wrong})


@pytest.mark.parametrize("wrong", ["0s", 0, -1, float("inf"), float("nan"), [30]])
def test_duration_is_positive_and_finite(wrong: object) -> None:
    with pytest.raises(ValidationError, match="every"):
        CheckpointConfig.model_validate({"every": wrong})


def test_duration_reads_back_from_seconds() -> None:
    config = CheckpointConfig.model_validate({"every": "90s", "keep": {"last": 2}})
    assert CheckpointConfig.model_validate(config.model_dump(mode="json")) == config


def test_defaults_are_those_of_the_paper() -> None:
    config = TrainConfig.model_validate(LEAST)
    assert (config.betas, config.eps, config.weight_decay, config.grad_clip) == ((0.9, 0.95), 1e-8, 0.1, 1.0)
    assert (config.min_lr_ratio, config.precision) == (0.1, "bf16")


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        (TrainConfig, {"tokens": 0}),
        (TrainConfig, {"batch_tokens": -1}),
        (TrainConfig, {"micro_batch": 0}),
        (TrainConfig, {"lr": 0}),
        (TrainConfig, {"lr": float("nan")}),
        (TrainConfig, {"lr": float("inf")}),
        (TrainConfig, {"warmup_tokens": -1}),
        (TrainConfig, {"decay_tokens": 0}),
        (TrainConfig, {"min_lr_ratio": 1.1}),
        (TrainConfig, {"weight_decay": -0.1}),
        (TrainConfig, {"betas": [0.9]}),
        (TrainConfig, {"betas": [0.9, 0.95, 0.99]}),
        (TrainConfig, {"betas": [0.9, 1.0]}),  # the mean would never forget: Adam divides by 1 - beta
        (TrainConfig, {"betas": [-0.1, 0.95]}),
        (TrainConfig, {"eps": 0}),
        (TrainConfig, {"grad_clip": -1}),
        (TrainConfig, {"precision": "fp16"}),
        (TrainConfig, {"tokens": 1.5}),
        (KeepConfig, {"last": 0}),
        (CheckpointConfig, {"every_tokens": 0}),
        (ValidationConfig, {"every_tokens": 0}),
        (ValidationConfig, {"tokens_per_source": 0}),
        (MetricsConfig, {"every_steps": 0}),
        (NoiseScaleConfig, {"every_steps": -1}),
        (NoiseScaleConfig, {"smoothing": 1.0}),
        (NoiseScaleConfig, {"smoothing": -0.1}),
    ],
)
def test_value_out_of_range_is_named(section: type[BaseModel], wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        section.model_validate((LEAST if section is TrainConfig else {}) | wrong)
    assert {each["loc"][0] for each in caught.value.errors()} == set(wrong)


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"warmup_tokens": 1000}, 1000),
        ({"warmup_tokens": 500, "decay_tokens": 400}, 400),
        ({"warmup_tokens": 400, "decay_tokens": 400}, 400),
    ],
)
def test_warm_up_ends_before_the_decay(fields: dict[str, int], end: int) -> None:
    with pytest.raises(ValidationError, match=f"warmup_tokens {fields['warmup_tokens']} is not below .*{end}"):
        TrainConfig.model_validate(LEAST | fields)


def test_warm_up_may_outlast_a_short_run_whose_decay_is_longer() -> None:
    config = TrainConfig.model_validate(LEAST | {"warmup_tokens": 2000, "decay_tokens": 5000})
    assert config.warmup_tokens > config.tokens


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"stable_tokens": 5}, "stable_tokens is for schedule wsd, and it is cosine"),
        ({"schedule": "constant", "decay_tokens": 500}, "decay_tokens does nothing with schedule constant"),
        ({"schedule": "inverse_sqrt"}, "give warmup_tokens"),
        ({"schedule": "wsd", "stable_tokens": 1000}, "stable_tokens 1000 does not lie between warmup_tokens 0 and"),
        ({"schedule": "wsd", "stable_tokens": 5, "warmup_tokens": 9}, "stable_tokens 5 does not lie between warmup_"),
        ({"ramp": {"from_tokens": 20, "over_tokens": 5}}, "ramp.from_tokens 20 is more than batch_tokens 10"),
        ({"ramp": {"from_tokens": 9, "over_tokens": 5}, "tokens": 8}, "ramp.from_tokens 9 is more than tokens 8"),
    ],
)
def test_what_does_not_go_together_is_named(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainConfig.model_validate(LEAST | fields)


def test_values_do_not_change_once_read() -> None:
    config = TrainConfig.model_validate(LEAST)
    with pytest.raises(ValidationError, match="frozen"):
        config.lr = 1.0  # type: ignore[misc]
