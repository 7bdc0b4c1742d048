from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.data_hash import begin, extend
from data_pipeline.errors import InputError
from data_pipeline.stream import Stream, StreamState
from folder import stream_of_folder, write_folder

N_CTX = 16
SHARDS = {"a": [1000, 400, 17, 3], "b": [333], "c": [50, 16, 18]}
MIXTURE = {"a": 0.6, "b": 0.3, "c": 0.1}


ranges = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)).map(lambda r: (r[0], r[0] + r[1])), max_size=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prepared")
    write_folder(path, SHARDS, validation=200)
    return path


def stream_of(folder: Path, seed: int = 1, mixture: dict[str, float] = MIXTURE, n_ctx: int = N_CTX) -> Stream:
    return stream_of_folder(folder, mixture, seed, n_ctx)


def sequences(stream: Stream, start: int, count: int) -> list[tuple[int, int, int]]:
    located = stream.locate(np.arange(start, start + count))
    return list(zip(located.source.tolist(), located.epoch.tolist(), located.window.tolist(), strict=True))


def test_windows_cover_each_shard_without_crossing_it(folder: Path) -> None:
    stream = stream_of(folder)
    for name, sizes in SHARDS.items():
        source = stream.sources[stream.names.index(name)]
        assert source.windows == sum((size - 1) // N_CTX for size in sizes)
        window = 0
        for at, size in enumerate(sizes):
            tokens = np.fromfile(folder / f"{name}/train/{at:05d}.tokens", "<u2")
            for start in range(0, (size - 1) // N_CTX * N_CTX, N_CTX):
                out = np.zeros(N_CTX + 1, dtype=np.int64)
                source.read(np.array([window]), out[None], np.array([0]))
                assert out.tolist() == tokens[start : start + N_CTX + 1].tolist()
                window += 1
        assert window == source.windows


@given(st.integers(0, 10**12), st.integers(1, 200), st.integers(0, 100))
def test_a_position_is_a_pure_function(folder: Path, start: int, count: int, seed: int) -> None:
    stream = stream_of(folder, seed)
    together = sequences(stream, start, count)
    assert together == [sequences(stream, start + i, 1)[0] for i in range(count)]
    assert together == sequences(stream_of(folder, seed), start, count)


@given(ranges, st.integers(0, 300), st.integers(0, 300))
def test_a_state_is_moved_on_as_if_all_before_it_were_taken(skipped, start: int, count: int) -> None:
    state = StreamState(start, tuple(skipped))
    assert state.after(count).take(20)[0].tolist() == state.take(count)[1].take(20)[0].tolist()


@given(st.integers(0, 1000))
def test_an_epoch_is_without_replacement_and_the_next_has_a_new_order(folder: Path, seed: int) -> None:
    stream = stream_of(folder, seed)
    seen = sequences(stream, 0, 5 * max(source.windows for source in stream.sources))
    for index, source in enumerate(stream.sources):
        own = [(epoch, window) for each, epoch, window in seen if each == index]
        orders = [[w for e, w in own if e == turn] for turn in range(len(own) // source.windows)]
        assert [epoch for epoch, _ in own] == sorted(epoch for epoch, _ in own)
        assert all(sorted(order) == list(range(source.windows)) for order in orders)
        if len(orders) > 1 and source.windows > 20:
            assert orders[0] != orders[1]


def test_another_seed_is_another_order_of_the_same_sources(folder: Path) -> None:
    one, other = sequences(stream_of(folder, 1), 0, 80), sequences(stream_of(folder, 2), 0, 80)
    assert one != other
    assert [source for source, _, _ in one] == [source for source, _, _ in other]


def test_the_order_within_a_source_does_not_depend_on_the_others(folder: Path) -> None:
    alone = [window for _, _, window in sequences(stream_of(folder, mixture={"b": 1.0}), 0, 40)]
    mixed = stream_of(folder, mixture={"c": 0.5, "b": 0.5})
    index = mixed.names.index("b")
    assert [window for source, _, window in sequences(mixed, 0, 80) if source == index] == alone


def test_the_order_in_which_sources_are_listed_does_not_matter(folder: Path) -> None:
    streams = [stream_of(folder, mixture=dict(each)) for each in (MIXTURE.items(), reversed(MIXTURE.items()))]
    assert sequences(streams[0], 0, 500) == sequences(streams[1], 0, 500)


@pytest.mark.parametrize("skipped", [((10, 5),), ((-3, 2),)])
def test_a_range_that_is_none_is_refused(skipped) -> None:
    with pytest.raises(ValueError, match="no state of a stream"):
        StreamState(0, skipped)


@given(ranges, st.integers(0, 300), st.lists(st.integers(0, 50), max_size=8))
def test_skipped_ranges_are_left_out_and_nothing_else(skipped, start: int, counts: list[int]) -> None:
    state, taken = StreamState(start, tuple(skipped)), []
    for count in counts:
        positions, state = state.take(count)
        assert len(positions) == count
        taken += positions.tolist()
    allowed = [p for p in range(start, start + 1000) if not any(a <= p < b for a, b in skipped)]
    assert taken == allowed[: sum(counts)]
    assert state.skipped == tuple(skipped)


def test_the_data_hash_tells_order_window_and_tokens_apart(folder: Path) -> None:
    manifest_hash = stream_of(folder).identity
    one, two = ("a", 1, 2), ("b", 1, 2)
    begun = begin(manifest_hash, N_CTX)
    assert extend(begun, [one, two]) == extend(extend(begun, [one]), [two]) != extend(begun, [two, one])
    assert (
        len({begun, begin(manifest_hash, 17), begin("other", N_CTX), extend(begun, [one]), extend(begun, [two])}) == 5
    )
    assert extend(begun, [("a", 1, 3)]) != extend(begun, [one])


def test_a_zero_weight_is_never_read(folder: Path) -> None:
    stream = stream_of(folder, mixture={"a": 1.0, "c": 0.0})
    assert {source for source, _, _ in sequences(stream, 0, 70000)} == {0}


@pytest.mark.parametrize(
    ("mixture", "n_ctx", "said"),
    [
        ({"a": 1.0, "wiki": 1.0}, N_CTX, "wiki: is not a source of .* which has a, b, c"),
        ({"a": 1.0, "b": 1.0}, 500, "source b has .* too few for one sequence"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(folder: Path, mixture, n_ctx: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        stream_of(folder, mixture=mixture, n_ctx=n_ctx)


def test_a_source_of_one_window_beside_a_large_one(tmp_path: Path) -> None:
    write_folder(tmp_path, {"small": [N_CTX + 1], "large": [20000]})
    stream = stream_of(tmp_path, mixture={"small": 1.0, "large": 1.0})
    seen = sequences(stream, 0, 400)
    small, large = (stream.names.index(name) for name in ("small", "large"))
    assert [epoch for source, epoch, _ in seen if source == small] == list(range(200))
    assert len({window for source, _, window in seen if source == large}) == 200
