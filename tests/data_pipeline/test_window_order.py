import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.window_order import WindowOrder

shards = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any)


def epoch_of(order: WindowOrder, epoch: int) -> list[int]:
    epochs, windows = order.locate(np.arange(order.windows) + epoch * order.windows)
    assert set(epochs.tolist()) == {epoch}
    return windows.tolist()


@given(shards, st.integers(1, 6), st.integers(0, 1000))
def test_an_epoch_has_every_window_once_and_the_next_another_order(windows: list[int], most: int, seed: int) -> None:
    order = WindowOrder(windows, most, seed, "a")
    epochs = [epoch_of(order, epoch) for epoch in range(3)]
    assert all(sorted(each) == list(range(sum(windows))) for each in epochs)
    if sum(windows) > 25:
        assert epochs[0] != epochs[1] != epochs[2]


@given(shards, st.integers(1, 6), st.integers(0, 1000))
def test_no_more_shards_are_open_than_allowed(windows: list[int], most: int, seed: int) -> None:
    """Only those that shards_ahead names, and each is opened once an epoch, but for those around its beginning."""
    order = WindowOrder(windows, most, seed, "a")
    with_windows = sum(each > 0 for each in windows)
    seen = np.searchsorted(np.cumsum(windows), [w for e in range(2) for w in epoch_of(order, e)], side="right")
    opened: set[int] = set()
    openings = 0
    for before, shard in enumerate(seen.tolist()):
        now = order.shards_ahead(before, 0)
        assert shard in now and len(now) == len(set(now)) == min(most, with_windows)
        openings += len(set(now) - opened)
        opened = set(now)
        assert set(order.shards_ahead(before, 2)) >= opened
    assert openings <= 2 * with_windows + most


@given(shards, st.integers(1, 6), st.integers(0, 1000), st.lists(st.integers(0, 10**9), min_size=1, max_size=30))
def test_any_place_is_found_without_those_before_it(windows, most: int, seed: int, places: list[int]) -> None:
    order = WindowOrder(windows, most, seed, "a")
    together = order.locate(np.array(places))
    for at, epoch, window in zip(places, *together, strict=True):
        alone = WindowOrder(windows, most, seed, "a").locate(np.array([at]))
        assert (int(epoch), int(window)) == (at // sum(windows), int(alone[1][0])) and alone[0][0] == epoch


def test_the_windows_of_a_shard_are_spread_over_its_stay() -> None:
    """40 shards of 100 windows, 8 open: a shard's windows fall evenly into the 8 turns in which it is open."""
    order = WindowOrder([100] * 40, 8, 1, "a")
    when = np.empty(4000, dtype=int)
    when[epoch_of(order, 0)] = np.arange(4000)
    for shard in range(40):
        turns = np.bincount(when[shard * 100 : (shard + 1) * 100] // 100, minlength=40)
        assert (turns > 0).sum() == 8 and turns.max() - turns[turns > 0].min() <= 1
    assert abs(np.corrcoef(when[:-1] % 100, when[1:] % 100)[0, 1]) < 0.06


def test_the_ends_of_an_epoch_open_no_other_shards() -> None:
    order = WindowOrder([50] * 20, 4, 3, "a")
    last, first = order.shards_ahead(order.windows - 1, 0), order.shards_ahead(order.windows, 0)
    assert len(set(first) - set(last)) == 1


def test_a_thousand_shards_of_one_window_each() -> None:
    order = WindowOrder([1] * 1000, 16, 5, "a")
    windows = epoch_of(order, 0)
    assert sorted(windows) == list(range(1000))
    assert abs(np.corrcoef(np.arange(1000), windows)[0, 1]) < 0.1


def test_few_shards_are_permuted_as_one() -> None:
    one, four = WindowOrder([400], 4, 1, "a"), WindowOrder([100, 50, 0, 250], 4, 1, "a")
    assert epoch_of(one, 0) == epoch_of(four, 0)


@pytest.mark.parametrize("most", [2, 16])
def test_seed_and_name_choose_the_order(most: int) -> None:
    orders = [WindowOrder([30] * 10, most, seed, name) for seed, name in ((1, "a"), (2, "a"), (1, "b"))]
    assert len({tuple(epoch_of(order, 0)) for order in orders}) == 3
