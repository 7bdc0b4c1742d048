from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.data_hash import begin, extend
from data_pipeline.errors import InputError
from data_pipeline.loader import Deal, Loader
from data_pipeline.stream import Stream, StreamState
from folder import write_folder

N_CTX = 16
SHARDS = {"a": [1000, 400, 17, 3], "b": [333], "c": [50, 16, 18]}
MIXTURE = {"a": 0.6, "b": 0.3, "c": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prepared")
    write_folder(path, SHARDS, validation=200)
    return path


def stream_of(folder: Path, seed: int = 1, mixture: dict[str, float] = MIXTURE, n_ctx: int = N_CTX) -> Stream:
    return Stream(folder, mixture, seed, n_ctx)


def sequences(stream: Stream, start: int, count: int) -> list[tuple[int, int, int]]:
    located = stream.locate(np.arange(start, start + count))
    return list(zip(located.source.tolist(), located.epoch.tolist(), located.window.tolist(), strict=True))


def test_windows_cover_each_shard_without_crossing_it(folder: Path) -> None:
    stream = stream_of(folder)
    for name, sizes in SHARDS.items():
        source = stream.sources[stream.mixture.names.index(name)]
        assert source.windows == sum((size - 1) // N_CTX for size in sizes)
        window = 0
        for at, size in enumerate(sizes):
            tokens = np.fromfile(folder / f"{name}/train/{at:05d}.tokens", "<u2")
            for start in range(0, (size - 1) // N_CTX * N_CTX, N_CTX):
                out = np.zeros(N_CTX + 1, dtype=np.int64)
                source.read(window, out)
                assert out.tolist() == tokens[start : start + N_CTX + 1].tolist()
                window += 1
        assert window == source.windows


@given(st.integers(0, 10**12), st.integers(1, 200), st.integers(0, 100))
def test_a_position_is_a_pure_function(folder: Path, start: int, count: int, seed: int) -> None:
    stream = stream_of(folder, seed)
    together = sequences(stream, start, count)
    assert together == [sequences(stream, start + i, 1)[0] for i in range(count)]
    assert together == sequences(stream_of(folder, seed), start, count)


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
    index = mixed.mixture.names.index("b")
    assert [window for source, _, window in sequences(mixed, 0, 80) if source == index] == alone


def test_the_order_in_which_sources_are_listed_does_not_matter(folder: Path) -> None:
    streams = [stream_of(folder, mixture=dict(each)) for each in (MIXTURE.items(), reversed(MIXTURE.items()))]
    assert sequences(streams[0], 0, 500) == sequences(streams[1], 0, 500)


@pytest.mark.parametrize("skipped", [((10, 5),), ((-3, 2),)])
def test_a_range_that_is_none_is_refused(skipped) -> None:
    with pytest.raises(ValueError, match="no state of a stream"):
        StreamState(0, skipped)


ranges = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)).map(lambda r: (r[0], r[0] + r[1])), max_size=5)


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


@given(st.integers(1, 100), st.integers(1, 20), st.integers(1, 9))
def test_dealing_gives_every_sequence_to_one_rank_in_order(sequences: int, world: int, micro: int) -> None:
    deal = Deal(sequences, world, micro)
    parts = [list(range(sequences))[deal.part(rank)] for rank in range(world)]
    assert sum(parts, []) == list(range(sequences))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    slots = [list(range(deal.slots))[each] for each in deal.forwards]
    assert sum(slots, []) == list(range(max(map(len, parts))))
    assert max(map(len, slots)) <= micro and min(map(len, slots)) >= max(map(len, slots)) - 1
    assert len(slots) == -(-max(map(len, parts)) // micro)
    assert deal.wasted == pytest.approx(1 - sequences / (world * deal.slots)) and (sequences % world or not deal.wasted)


def consumed(folder: Path, batch: int, world: int, micro: int, state: StreamState, steps: int):
    """What `steps` global batches hand to the network, in global order, as the ranks see it."""
    stream = stream_of(folder)
    loaders = [Loader(stream_of(folder), state, batch, micro, rank, world) for rank in range(world)]
    read, batches = [], []
    for _ in range(steps):
        rank_batches = [next(iter(loader)) for loader in loaders]
        assert len({len(each.micro_batches) for each in rank_batches}) == 1
        assert len({each.state for each in rank_batches}) == 1
        rows = []
        for each in rank_batches:
            tokens = np.concatenate([micro.tokens.numpy() for micro in each.micro_batches])
            weights = np.concatenate([micro.weights.numpy() for micro in each.micro_batches])
            real = len(each.token_hashes)
            assert weights.tolist() == [1.0] * real + [0.0] * (len(weights) - real)
            names = [stream.mixture.names[source] for source in each.located.source]
            read += zip(names, each.located.window.tolist(), each.token_hashes, strict=True)
            rows += [row.tobytes() for row in tokens[:real]]
        batches.append(rows)
        state = rank_batches[0].state
    for loader in loaders:
        loader.close()
    return extend(begin(stream.manifest_hash, N_CTX), read), batches, state


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.integers(0, 8), st.just(((7, 12), (40, 41))))
def test_the_same_sequences_for_any_processes_micro_batch_and_resume(
    folder, batch, world, micro, stop, skipped
) -> None:
    begun = StreamState(0, skipped)
    one_hash, one_batches, one_state = consumed(folder, batch, 1, batch, begun, 8)
    hash_, batches, state = consumed(folder, batch, world, micro, begun, 8)
    assert (hash_, batches, state) == (one_hash, one_batches, one_state)
    _, first, middle = consumed(folder, batch, world, micro, begun, stop)
    _, rest, end = consumed(folder, batch, 1 + stop % 3, 2, middle, 8 - stop)
    assert (first + rest, end) == (one_batches, one_state)


def test_the_data_hash_tells_order_window_and_tokens_apart(folder: Path) -> None:
    manifest_hash = stream_of(folder).manifest_hash
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
        ({"a": 1.0, "b": 1.0}, 500, "mixture.b: has .* too few for one sequence"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(folder: Path, mixture, n_ctx: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        stream_of(folder, mixture=mixture, n_ctx=n_ctx)


def test_a_source_of_one_window_beside_a_large_one(tmp_path: Path) -> None:
    write_folder(tmp_path, {"small": [N_CTX + 1], "large": [20000]})
    stream = stream_of(tmp_path, mixture={"small": 1.0, "large": 1.0})
    seen = sequences(stream, 0, 400)
    small, large = (stream.mixture.names.index(name) for name in ("small", "large"))
    assert [epoch for source, epoch, _ in seen if source == small] == list(range(200))
    assert len({window for source, _, window in seen if source == large}) == 200


def test_a_fault_in_the_reading_thread_reaches_the_loop(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": [1000]})
    path = tmp_path / "a/train/00000.tokens"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    loader = Loader(stream_of(tmp_path, mixture={"a": 1.0}), StreamState(), 4, 4)
    with pytest.raises(InputError, match="do not match their checksum"):
        for _ in range(30):
            next(iter(loader))
    loader.close()
