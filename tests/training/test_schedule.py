import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from training.config import TrainConfig
from training.schedule import learning_rate

G = 10**9


def schedule(**given_fields: object) -> TrainConfig:
    return TrainConfig.model_validate({"tokens": 1000, "batch_tokens": 1, "lr": 2.0} | given_fields)


GPT3 = schedule(tokens=300 * G, batch_tokens=2**19, lr=6e-4, warmup_tokens=375 * 10**6, decay_tokens=260 * G)


@st.composite
def schedules(draw: st.DrawFn) -> TrainConfig:
    tokens = draw(st.integers(1, 10**12))
    decay = draw(st.none() | st.integers(1, 10**12))
    warmup = draw(st.integers(0, 10**12))
    assume(warmup < (decay or tokens))
    return schedule(
        tokens=tokens,
        decay_tokens=decay,
        warmup_tokens=warmup,
        lr=draw(st.floats(1e-6, 1)),
        min_lr_ratio=draw(st.floats(0, 1)),
    )


@pytest.mark.parametrize(
    ("tokens", "share"),
    [
        (0, 0.0),
        (375 * 10**5, 0.1),
        (375 * 10**6 // 2, 0.5),
        (375 * 10**6, 1.0),
        ((375 * 10**6 + 260 * G) // 2, 0.55),  # half of the way from 1 to 0.1
        (260 * G, 0.1),
        (280 * G, 0.1),
        (300 * G, 0.1),
        (300 * G + 2**19, 0.1),  # the last batch is a whole one
    ],
)
def test_gpt3(tokens: int, share: float) -> None:
    assert learning_rate(GPT3, tokens) == pytest.approx(6e-4 * share, rel=1e-12)


@given(schedules(), st.integers(0, 10**12))
def test_is_a_pure_function(config: TrainConfig, tokens: int) -> None:
    before = config.model_copy(deep=True)
    first = learning_rate(config, tokens)
    learning_rate(config, tokens // 2)
    assert learning_rate(config, tokens) == first
    assert config == before


@given(schedules(), st.floats(0, 1))
def test_warm_up_is_linear_from_zero_to_the_peak(config: TrainConfig, share: float) -> None:
    tokens = int(share * config.warmup_tokens)
    if config.warmup_tokens:
        assert learning_rate(config, tokens) == pytest.approx(config.lr * tokens / config.warmup_tokens, rel=1e-12)
        assert learning_rate(config, 0) == 0
    assert learning_rate(config, config.warmup_tokens) == pytest.approx(config.lr, rel=1e-12)


@given(schedules(), st.floats(0, 1))
def test_falls_along_a_cosine(config: TrainConfig, share: float) -> None:
    end = config.decay_tokens or config.tokens
    tokens = config.warmup_tokens + int(share * (end - config.warmup_tokens))
    angle = math.pi * (tokens - config.warmup_tokens) / (end - config.warmup_tokens)
    low = config.lr * config.min_lr_ratio
    expected = low + (config.lr - low) * (1 + math.cos(angle)) / 2
    assert learning_rate(config, tokens) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@given(schedules(), st.integers(0, 10**12))
def test_is_constant_after_the_decay(config: TrainConfig, past: int) -> None:
    end = config.decay_tokens or config.tokens
    assert learning_rate(config, end + past) == learning_rate(config, end)
    assert learning_rate(config, end) == pytest.approx(config.lr * config.min_lr_ratio, rel=1e-12, abs=1e-18)


@given(schedules(), st.lists(st.integers(0, 10**12), min_size=2, max_size=10))
def test_rises_and_then_only_falls(config: TrainConfig, moments: list[int]) -> None:
    tolerance = 1 + 1e-12  # rounding of the cosine near its flat ends
    moments.sort()
    rates = [learning_rate(config, tokens) for tokens in moments]
    assert all(0 <= rate <= config.lr * tolerance for rate in rates)
    for (early, before), (late, after) in zip(
        zip(moments, rates, strict=True), list(zip(moments, rates, strict=True))[1:], strict=False
    ):
        if late <= config.warmup_tokens:
            assert before <= after * tolerance
        if early >= config.warmup_tokens:
            assert after <= before * tolerance


def test_no_warm_up_begins_at_the_peak() -> None:
    assert learning_rate(schedule(), 0) == 2.0


def test_decay_takes_all_tokens_by_default() -> None:
    assert learning_rate(schedule(), 500) == pytest.approx(1.1)
    assert learning_rate(schedule(), 1000) == pytest.approx(0.2)


def test_run_may_end_before_its_decay_does() -> None:
    assert learning_rate(schedule(decay_tokens=2000), 1000) == pytest.approx(1.1)


@pytest.mark.parametrize(("ratio", "last"), [(0, 0.0), (1, 2.0)])
def test_ends_at_the_given_share_of_the_peak(ratio: float, last: float) -> None:
    assert learning_rate(schedule(min_lr_ratio=ratio), 1000) == pytest.approx(last, abs=1e-15)


WARM = {"warmup_tokens": 100, "min_lr_ratio": 0.1}


@pytest.mark.parametrize(
    ("fields", "rates"),
    [
        ({"schedule": "linear"}, {50: 1.0, 100: 2.0, 550: 1.1, 1000: 0.2, 2000: 0.2}),
        ({"schedule": "linear", "decay_tokens": 300}, {200: 1.1, 300: 0.2}),
        ({"schedule": "wsd"}, {50: 1.0, 100: 2.0, 799: 2.0, 800: 2.0, 850: 1.1, 1000: 0.2, 2000: 0.2}),
        ({"schedule": "wsd", "stable_tokens": 600}, {600: 2.0, 700: 1.1, 1000: 0.2}),
        ({"schedule": "constant"}, {50: 1.0, 100: 2.0, 10**6: 2.0}),
        ({"schedule": "inverse_sqrt"}, {50: 1.0, 100: 2.0, 400: 1.0, 1600: 0.5, 10**6: 0.2}),
    ],
)
def test_every_other_schedule(fields: dict[str, object], rates: dict[int, float]) -> None:
    config = schedule(**(WARM | fields))
    assert {tokens: learning_rate(config, tokens) for tokens in rates} == pytest.approx(rates)


@given(
    st.sampled_from(["cosine", "linear", "wsd", "constant", "inverse_sqrt"]), st.integers(1, 999), st.integers(1, 3000)
)
def test_none_leaps_or_leaves_its_bounds(kind: str, warmup: int, tokens: int) -> None:
    config = schedule(schedule=kind, warmup_tokens=warmup)
    rate, before = learning_rate(config, tokens), learning_rate(config, tokens - 1)
    assert 0 < rate <= config.lr and (tokens <= warmup or rate >= 0.2 - 1e-12)
    if tokens <= warmup:
        assert rate > before
    else:
        assert rate <= before + 1e-12
