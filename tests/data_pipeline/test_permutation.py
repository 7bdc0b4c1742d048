import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.permutation import permute, subkeys

keys = st.integers(0, 2**64 - 1)


def permuted(index: np.ndarray, n: int, key: int) -> np.ndarray:
    return permute(index, np.full(len(index), n), np.full(len(index), key, dtype=np.uint64))


@given(st.integers(1, 5000), keys)
def test_every_value_comes_exactly_once(n: int, key: int) -> None:
    assert np.array_equal(np.sort(permuted(np.arange(n), n, key)), np.arange(n))


@given(st.integers(1, 2**62), keys, st.lists(st.integers(0, 2**62 - 1), min_size=1, max_size=50))
def test_large_domains_stay_within_and_do_not_collide(n: int, key: int, raw: list[int]) -> None:
    index = np.unique(np.array(raw) % n)
    images = permuted(index, n, key)
    assert ((images >= 0) & (images < n)).all()
    assert len(np.unique(images)) == len(index)


@given(st.lists(st.tuples(st.integers(1, 2**62), keys, st.integers(0, 2**62)), min_size=1, max_size=30))
def test_each_element_has_its_own_range_and_key(cases: list[tuple[int, int, int]]) -> None:
    n, index = (np.array([case[at] for case in cases]) for at in (0, 2))
    together = permute(index % n, n, np.array([key for _, key, _ in cases], dtype=np.uint64))
    assert together.tolist() == [int(permuted(np.array([i % m]), m, k)[0]) for m, k, i in cases]


def test_every_image_is_about_equally_likely() -> None:
    for n in (2, 3, 5, 12, 100):
        for index in (0, n - 1):
            made = subkeys(np.uint64(1), np.arange(4000))
            images = permute(np.full(4000, index), np.full(4000, n), made)
            expected = 4000 / n
            statistic = ((np.bincount(images, minlength=n) - expected) ** 2 / expected).sum()
            assert statistic < (n - 1) + 6 * np.sqrt(2 * (n - 1))  # six standard deviations of chi squared


def test_pairs_of_images_are_about_equally_likely() -> None:
    n = 7
    made = subkeys(np.uint64(2), np.arange(20000))
    images = [permute(np.full(20000, index), np.full(20000, n), made) for index in (2, 3)]
    counts = np.bincount(images[0] * n + images[1], minlength=n * n).reshape(n, n)
    expected = 20000 / (n * (n - 1))
    off = counts[~np.eye(n, dtype=bool)]
    assert counts.trace() == 0
    assert ((off - expected) ** 2 / expected).sum() < len(off) + 6 * np.sqrt(2 * len(off))


def test_neighbours_do_not_stay_neighbours() -> None:
    images = permuted(np.arange(100_000), 100_000, 7)
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.02
    assert (np.abs(np.diff(images)) == 1).sum() < 20


def test_subkeys_of_neighbours_share_no_bits_beyond_chance() -> None:
    made = subkeys(np.uint64(12345), np.arange(10_000))
    assert len(np.unique(made)) == 10_000
    differing = np.bitwise_count(made[:-1] ^ made[1:])
    assert abs(differing.mean() - 32) < 0.3
