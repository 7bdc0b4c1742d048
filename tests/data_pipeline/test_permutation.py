import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.permutation import Permutation

keys = st.integers(0, 2**64 - 1)


@given(st.integers(1, 5000), keys)
def test_every_value_comes_exactly_once(n: int, key: int) -> None:
    assert np.array_equal(np.sort(Permutation(n, key)(np.arange(n))), np.arange(n))


@given(st.integers(1, 2**62), keys, st.lists(st.integers(0, 2**62 - 1), min_size=1, max_size=50))
def test_large_domains_stay_within_and_do_not_collide(n: int, key: int, raw: list[int]) -> None:
    index = np.unique(np.array(raw) % n)
    images = Permutation(n, key)(index)
    assert ((images >= 0) & (images < n)).all()
    assert len(np.unique(images)) == len(index)


@given(st.integers(1, 1000), keys)
def test_one_at_a_time_is_the_same_as_many(n: int, key: int) -> None:
    permutation = Permutation(n, key)
    assert (
        permutation(np.arange(n)).tolist()
        == [int(permutation(np.array([i]))[0]) for i in range(min(n, 20))]
        + permutation(np.arange(min(n, 20), n)).tolist()
    )


def test_every_image_is_about_equally_likely() -> None:
    for n in (2, 3, 5, 12, 100):
        images = np.array([Permutation(n, key)(np.array([0, n - 1])) for key in range(4000)])
        for column in images.T:
            expected = 4000 / n
            statistic = ((np.bincount(column, minlength=n) - expected) ** 2 / expected).sum()
            assert statistic < (n - 1) + 6 * np.sqrt(2 * (n - 1))  # six standard deviations of chi squared


def test_neighbours_do_not_stay_neighbours() -> None:
    images = Permutation(100_000, 7)(np.arange(100_000))
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.02
    assert (np.abs(np.diff(images)) == 1).sum() < 20
