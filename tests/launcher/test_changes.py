"""What a change of each key means."""

from collections.abc import Iterator
from typing import get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from launcher.changes import MEANINGS, Change, same_rate
from launcher.config import RunConfig, models_in
from training.config import TrainConfig
from training.schedule import learning_rate


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a configuration, sections included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if get_origin(field.annotation) is not dict:
            for each in models_in(field.annotation):
                yield from keys(each, f"{prefix}{name}.")


def test_no_key_is_forgotten() -> None:
    sections = {"data", "train"}  # of these each key has a meaning of its own
    for key in set(keys(RunConfig)) - sections:
        assert Change(key, 1, 2).meaning in MEANINGS.values(), key
    assert not sections & MEANINGS.keys()


def test_no_meaning_is_of_a_key_that_is_no_more() -> None:
    assert MEANINGS.keys() <= set(keys(RunConfig))


def test_a_key_that_nobody_thought_of_is_no_free_one() -> None:
    with pytest.raises(KeyError):
        Change("train.unheard_of", 1, 2).meaning  # noqa: B018


@st.composite
def schedules(draw: st.DrawFn) -> TrainConfig:
    kind = draw(st.sampled_from(["cosine", "linear", "wsd", "constant", "inverse_sqrt"]))
    warmup = draw(st.integers(1, 300))
    ends = {"decay_tokens": draw(st.integers(700, 2000))} if kind in ("cosine", "linear", "wsd") else {}
    stable = {"stable_tokens": draw(st.integers(300, 699))} if kind == "wsd" else {}
    lr, ratio = draw(st.sampled_from([1.0, 1.5])), draw(st.sampled_from([0.0, 0.1]))
    config = {"lr": lr, "schedule": kind, "warmup_tokens": warmup, "min_lr_ratio": ratio}
    return TrainConfig(tokens=1000, batch_tokens=1, **config, **ends, **stable)


@given(schedules(), schedules(), st.integers(0, 2500))
def test_two_rates_are_the_same_so_far_where_every_step_says_so(
    one: TrainConfig, other: TrainConfig, tokens: int
) -> None:
    every = all(learning_rate(one, at) == learning_rate(other, at) for at in range(1, tokens + 1))
    assert same_rate(one, other, tokens) == every
    assert same_rate(one, one, tokens)


def test_a_fork_in_the_stable_part_has_the_same_past() -> None:
    stable = TrainConfig(tokens=1000, batch_tokens=1, lr=1.0, schedule="wsd", warmup_tokens=10, decay_tokens=1000)
    bent = stable.model_copy(update={"stable_tokens": 500, "decay_tokens": 600})
    assert same_rate(stable, bent, 500) and not same_rate(stable, bent, 501)
