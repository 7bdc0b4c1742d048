"""From the `data:` section to the stream: weights, limits, identity, and the cases at the edges."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.config import DataConfig
from data_pipeline.errors import InputError
from data_pipeline.loader import Loader
from data_pipeline.manifest import Manifest
from data_pipeline.mixture import PERIOD
from data_pipeline.opening import open_stream
from data_pipeline.phases import Phase, Schedule
from data_pipeline.source import Source
from data_pipeline.stream import Stream, StreamState
from folder import open_tokens, shares_at, stream_of_folder, write_folder

N_CTX = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prepared")
    write_folder(path, {"a": [16_000], "b": [1_000], "c": [4_000]})
    return path


def drawn(stream: Stream, count: int) -> list[tuple[str, int, int]]:
    located = stream.locate(np.arange(count))
    names = [stream.names[source] for source in located.source]
    return list(zip(names, located.epoch.tolist(), located.window.tolist(), strict=True))


@pytest.mark.parametrize(("alpha", "shares"), [(1, [16, 1, 4]), (0, [1, 1, 1]), (0.5, [4, 1, 2])])
def test_weights_from_sizes_and_a_temperature(folder: Path, alpha: float, shares: list[float]) -> None:
    stream = stream_of_folder(folder, None, alpha=alpha)
    wanted = {name: share / sum(shares) for name, share in zip("abc", shares, strict=True)}
    assert shares_at(stream.schedule, 0) == pytest.approx(wanted, abs=1 / PERIOD)
    phases = [{"until_tokens": 1600, "weights": {"b": 1}}, {"alpha": alpha}]
    later = shares_at(stream_of_folder(folder, None, phases=phases).schedule, 100)
    assert later == pytest.approx(shares_at(stream.schedule, 0))


def test_one_source_of_three_windows_beside_one_of_a_million(tmp_path: Path) -> None:
    write_folder(tmp_path, {"small": [4], "large": [1_000_001]})
    stream = stream_of_folder(tmp_path, {"small": 1.0, "large": 1.0}, n_ctx=1)
    assert [source.windows for source in stream.sources] == [1_000_000, 3]
    seen = drawn(stream, 600)
    small = [(epoch, window) for name, epoch, window in seen if name == "small"]
    assert [epoch for epoch, _ in small] == [at // 3 for at in range(300)]
    assert all({window for e, window in small if e == epoch} == {0, 1, 2} for epoch in range(100))
    assert len({tuple(window for e, window in small if e == epoch) for epoch in range(100)}) == 6
    large = [window for name, _, window in drawn(stream, 4000) if name == "large"]
    assert len(set(large)) == 2000 and max(large) > 990_000 and min(large) < 10_000
    by_size = stream_of_folder(tmp_path, None, alpha=1.0, n_ctx=1)
    assert shares_at(by_size.schedule, 0)["small"] == 1 / PERIOD


def test_a_weight_of_zero_needs_no_data(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": [5000], "tiny": [10], "b": [5000]})
    stream = stream_of_folder(tmp_path, {"a": 1, "tiny": 0, "b": 2}, n_ctx=64)
    assert {name for name, _, _ in drawn(stream, 70_000)} == {"a", "b"}
    with pytest.raises(
        InputError, match=r"data: source tiny has 10 tokens, too few for one sequence of n_ctx \+ 1 = 65"
    ):
        stream_of_folder(tmp_path, {"a": 1, "tiny": 0.1, "b": 2}, n_ctx=64)


def test_n_ctx_larger_than_the_smallest_shard_and_source(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": [5000, 40, 90], "small": [100]})
    stream = stream_of_folder(tmp_path, {"a": 1}, n_ctx=80)
    assert stream.sources[0].windows == 62 + 0 + 1
    with pytest.raises(InputError, match=r"data: source small has 100 tokens"):
        stream_of_folder(tmp_path, {"a": 1, "small": 1}, n_ctx=100)


def test_another_seed_is_another_order_of_the_same_windows(folder: Path) -> None:
    one, other = (drawn(stream_of_folder(folder, {"a": 1, "b": 1}, seed), 124) for seed in (1, 2))
    assert one != other and [name for name, _, _ in one] == [name for name, _, _ in other]
    assert {each for each in one if each[0] == "b"} == {each for each in other if each[0] == "b"}


def test_a_thousand_shards_of_one_window_each(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": [N_CTX + 1] * 1000, "b": [500]})
    stream = stream_of_folder(tmp_path, {"a": 1, "b": 1})
    loader = Loader(stream, StreamState(), 40, 8)
    seen = []
    for _ in range(50):
        batch = next(loader)
        seen += batch.located.window[batch.located.source == 0].tolist()
    loader.close()
    assert sorted(seen) == list(range(1000))
    assert {source.most_open for source in stream.sources if isinstance(source, Source)} == {18, 1}
    assert 1 <= len(open_tokens(tmp_path)) <= 19
    stream.close()
    assert not open_tokens(tmp_path)


def test_a_batch_of_more_shards_than_may_be_open_leaves_none_open(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": [4 * N_CTX + 1] * 60})
    stream = stream_of_folder(tmp_path, {"a": 1}, open_shards=3)
    for epoch in range(2):
        located = stream.locate(np.arange(240) + 240 * epoch)
        stream.will_need(located)
        stream.read(located)
        assert len(open_tokens(tmp_path)) <= 5
    stream.close()
    assert not open_tokens(tmp_path)


def test_fractions_of_epochs_lose_no_window(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": [100 * N_CTX + 1]})
    for epochs, windows in ((1.15, 115), (0.29, 29), (2, 200)):
        stream = stream_of_folder(tmp_path, {"a": 1}, max_epochs={"a": epochs}, exhausted="stop")
        assert stream.schedule.end is not None and stream.schedule.end.position == windows


def test_a_hundred_sources_that_all_end_are_laid_out_in_turn() -> None:
    names = [f"s{at:03d}" for at in range(100)]
    schedule = Schedule(
        [Phase({name: 1 + at for at, name in enumerate(names)})], dict.fromkeys(names, 50), "redistribute"
    )
    assert schedule.end is not None and schedule.end.position == 5000
    assert schedule.consumed(5000).tolist() == [50] * 100


def test_open_shards_is_part_of_the_order_and_transport_is_not(tmp_path: Path) -> None:
    write_folder(tmp_path / "p", {"a": [400] * 30})
    orders = [drawn(stream_of_folder(tmp_path / "p", {"a": 1}, open_shards=most), 200) for most in (4, 8, 30, 99)]
    assert orders[0] != orders[1] != orders[2] == orders[3]
    cached = stream_of_folder(
        tmp_path / "p", {"a": 1}, open_shards=4, cache={"path": tmp_path / "cache", "size": 10**7}
    )
    assert drawn(cached, 200) == orders[0]
    cached.close()


def test_the_identity_of_a_prepared_folder_is_its_manifest(folder: Path) -> None:
    assert stream_of_folder(folder, {"a": 1}).identity == Manifest.load(folder)[1]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"mixture": {"a": 1, "wiki": 1}}, "data.mixture.wiki: is not a source of .*, which has a, b, c"),
        ({"phases": [{"weights": {"x": 1}}]}, r"data.phases.0.weights.x: is not a source of"),
        ({"mixture": {"a": 1}, "max_epochs": {"b": 1}}, "data.max_epochs.b: is no source of the mixture"),
        (
            {"phases": [{"weights": {"a": 1}}, {"weights": {"b": 1}}]},
            "data.phases.0: needs until_tokens, since another phase follows",
        ),
        (
            {"phases": [{"until_tokens": 15, "weights": {"a": 1}}, {"weights": {"b": 1}}]},
            "data.phases.0.until_tokens: is not a sequence or more behind",
        ),
        (
            {"mixture": {"a": 1}, "cache": {"path": "CACHE", "size": 10_000}},
            r"data.cache.size: is 10,000 bytes, and what is open together, .* has 3[0-9],[0-9]{3}; raise it, or lower",
        ),
        (
            {"mixture": {"a": 1}, "sources": {"a": {"kind": "text", "paths": ["x"]}}},
            "data.sources.a: .* has a source of this name, too",
        ),
    ],
)
def test_data_that_cannot_be_are_refused(folder: Path, tmp_path: Path, data, said: str) -> None:
    if "cache" in data:
        data["cache"]["path"] = tmp_path
    with pytest.raises(InputError, match=said) as refused:
        open_stream(DataConfig(path=folder, **data), 1, N_CTX)
    assert "\n" not in str(refused.value)


def test_a_changed_tokenizer_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": [100]})
    (tmp_path / "tokenizer.json").write_text("{ }")
    with pytest.raises(InputError, match=r"tokenizer.json: has 3 bytes, its manifest says 2; restore it"):
        stream_of_folder(tmp_path, {"a": 1})


def test_a_source_without_weight_takes_no_room_in_the_cache(tmp_path: Path) -> None:
    write_folder(tmp_path / "p", {"a": [400], "b": [4000] * 9})
    cache = {"path": tmp_path / "cache", "size": 20_000}
    stream = stream_of_folder(tmp_path / "p", {"a": 1, "b": 0}, cache=cache)
    loader = Loader(stream, StreamState(), 4, 4)
    next(loader)
    loader.close()
    stream.close()
    assert {path.name for path in (tmp_path / "cache").rglob("*.tokens")} == {"00000.tokens"}


def test_cached_checksums_that_the_disk_damaged_are_fetched_anew_at_once(tmp_path: Path) -> None:
    write_folder(tmp_path / "p", {"a": [400]})
    for _ in range(2):
        stream = stream_of_folder(tmp_path / "p", {"a": 1}, cache={"path": tmp_path / "cache", "size": 20_000})
        stream.read(stream.locate(np.arange(4)))
        stream.close()
        [path] = (tmp_path / "cache").rglob("*.crc")
        assert path.read_bytes() == (tmp_path / "p/a/train/00000.crc").read_bytes()
        path.write_bytes(b"abcd")


def test_a_cached_file_that_the_disk_damaged_is_fetched_anew(tmp_path: Path) -> None:
    write_folder(tmp_path / "p", {"a": [400]})
    for damaged in (False, True, False):
        stream = stream_of_folder(tmp_path / "p", {"a": 1}, cache={"path": tmp_path / "cache", "size": 20_000})
        if damaged:
            [path] = (tmp_path / "cache").rglob("*.tokens")
            data = bytearray(path.read_bytes())
            data[5] ^= 1
            path.write_bytes(data)
            with pytest.raises(InputError, match="it is removed: resume, and it is fetched anew"):
                stream.read(stream.locate(np.arange(4)))
        else:
            stream.read(stream.locate(np.arange(4)))
        stream.close()
