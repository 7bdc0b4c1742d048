import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.mixture import PERIOD, Mixture, quantise


def mixture_of(shares: dict[str, float]) -> Mixture:
    return Mixture(list(quantise(shares).values()))


weights = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=12
).filter(lambda shares: sum(shares.values()) > 0)


@given(weights)
def test_quantised_weights_add_up_and_are_near(shares: dict[str, float]) -> None:
    counts, total = quantise(shares), sum(shares.values())
    assert list(counts) == list(shares)
    assert sum(counts.values()) == PERIOD
    lifted = sum(0 < weight / total * PERIOD < 1 for weight in shares.values())
    for name, weight in shares.items():
        assert (counts[name] > 0) == (weight > 0)
        assert abs(counts[name] - weight / total * PERIOD) < 1 + lifted


@settings(max_examples=25)
@given(weights)
def test_shares_are_less_than_one_sequence_off_after_any_number(shares: dict[str, float]) -> None:
    mixture = mixture_of(shares)
    source, ordinal = mixture.locate(np.arange(PERIOD))
    taken = np.arange(1, PERIOD + 1)
    for index, count in enumerate(mixture.counts):
        seen = np.cumsum(source == index)
        assert np.abs(seen - count * taken / PERIOD).max() < 1
        assert (ordinal[source == index] == np.arange(count)).all()


@pytest.mark.parametrize("sources", [2, 3, 40, 500])
def test_the_bound_holds_for_many_equal_and_unequal_sources(sources: int) -> None:
    for shares in ({f"s{i}": 1.0 for i in range(sources)}, {f"s{i}": 1 / (i + 1) for i in range(sources)}):
        mixture = mixture_of(shares)
        source, _ = mixture.locate(np.arange(PERIOD))
        ideal = np.arange(1, PERIOD + 1)
        worst = max(
            np.abs(np.cumsum(source == index) - count * ideal / PERIOD).max()
            for index, count in enumerate(mixture.counts)
        )
        assert worst <= 1 - 1 / (2 * sources - 2) + 1e-9  # Tijdeman's bound, the best there is


@settings(max_examples=25)
@given(weights, st.lists(st.integers(0, 2**50), min_size=1, max_size=20))
def test_any_position_is_found_without_those_before_it(shares: dict[str, float], at: list[int]) -> None:
    mixture = mixture_of(shares)
    source, ordinal = mixture.locate(np.array(at))
    for position, index, count in zip(at, source, ordinal, strict=True):
        assert mixture.consumed(position)[index] == count
        assert mixture.consumed(position + 1)[index] == count + 1
        assert mixture.consumed(position).sum() == position
        assert mixture.consumed_by(np.array([index]), np.array([position]))[0] == count


def test_the_shares_of_gpt3() -> None:
    counts = quantise({"common_crawl": 0.60, "webtext": 0.22, "books": 0.16, "wikipedia": 0.03})
    assert {name: count / PERIOD for name, count in counts.items()} == pytest.approx(
        {"common_crawl": 60 / 101, "webtext": 22 / 101, "books": 16 / 101, "wikipedia": 3 / 101}, abs=1 / PERIOD
    )


@pytest.mark.parametrize(
    ("shares", "said"),
    [({"a": -1.0}, "mixture.a"), ({"a": 0.0}, "above 0"), ({"a": 1.0, "b": float("nan")}, "mixture.b")],
)
def test_wrong_weights_are_named(shares: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        quantise(shares)


def greedy_blend(shares: dict[str, float], length: int) -> np.ndarray:
    """Megatron's build_blending_indices: each sample goes to the source that is furthest behind its share."""
    weights = np.array(list(shares.values())) / sum(shares.values())
    taken, source = np.zeros(len(weights)), np.empty(length, dtype=int)
    for at in range(length):
        source[at] = np.argmax(weights * max(at, 1) - taken)
        taken[source[at]] += 1
    return source


@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from("abcd"), st.floats(0.05, 1), min_size=2))
def test_shares_are_those_of_megatrons_blend_and_nearer(shares: dict[str, float]) -> None:
    """Both are about one sample off at most, so they are never more than two apart; ours is less than one off."""
    theirs, mixture = greedy_blend(shares, 2000), mixture_of(shares)
    ours, _ = mixture.locate(np.arange(2000))
    for index, weight in enumerate(np.array(list(shares.values())) / sum(shares.values())):
        ideal = weight * np.arange(1, 2001)
        mine, other = np.cumsum(ours == index), np.cumsum(theirs == index)
        assert np.abs(mine - ideal).max() < 1 + 2000 / PERIOD
        assert np.abs(other - ideal).max() < 2 and np.abs(mine - other).max() <= 2
