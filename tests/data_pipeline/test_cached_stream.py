"""Streams through a cache that is as small as it may be."""

import re
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.loader import Loader
from data_pipeline.shard_cache import ShardCache
from data_pipeline.source import Source
from data_pipeline.stream import Stream, StreamState
from folder import stream_of_folder, write_folder

N_CTX = 16
WINDOW = N_CTX + 1


def smallest(folder: Path, root: Path, open_shards: int) -> int:
    """The bytes that the refusal of a smaller cache asks for."""
    size = sum((folder / name).stat().st_size for name in ("manifest.json", "tokenizer.json")) + 1
    with pytest.raises(InputError, match=r"data\.cache\.size") as refusal:
        stream_of_folder(folder, None, alpha=1, open_shards=open_shards, cache={"path": root, "size": size})
    [asked] = re.findall(r"has ([\d,]+);", str(refusal.value))
    return int(asked.replace(",", ""))


def through_cache(folder: Path, root: Path, open_shards: int) -> Stream:
    size = smallest(folder, root, open_shards)
    return stream_of_folder(folder, None, alpha=1, open_shards=open_shards, cache={"path": root, "size": size})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shards", "open_shards", "batch", "steps"),
    [
        ({"a": [WINDOW] * 300}, 16, 8, 60),  # a shard is used up with each window
        ({"a": [20_000] * 12}, 4, 16, 300),  # a plan goes through several turns
        ({"a": [WINDOW] * 100, "b": [20_000] * 12}, 4, 64, 100),
    ],
)
def test_the_smallest_cache_gives_what_the_folder_gives(tmp_path: Path, shards, open_shards, batch, steps) -> None:
    folder = tmp_path / "corpus"
    write_folder(folder, shards, validation=100)
    local = stream_of_folder(folder, None, alpha=1, open_shards=open_shards)
    cached = [through_cache(folder, tmp_path / "cache", open_shards) for _ in range(2)]
    whole = Loader(local, StreamState(), batch, batch)
    ranks = [Loader(stream, StreamState(), batch, batch, rank, 2) for rank, stream in enumerate(cached)]
    for _ in range(steps):
        parts = [next(loader).token_hashes for loader in ranks]
        assert np.array_equal(np.concatenate(parts), next(whole).token_hashes)
    for loader, stream in zip((whole, *ranks), (local, *cached), strict=True):
        loader.close()
        stream.close()


def test_the_documents_of_all_shards_are_told_through_the_smallest_cache(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    write_folder(folder, {"a": [2000] * 12})
    told = []
    for stream in (stream_of_folder(folder, None, alpha=1), through_cache(folder, tmp_path / "cache", 2)):
        [source] = stream.sources
        assert isinstance(source, Source)
        told.append([source.documents(window) for window in range(source.windows)])
        stream.close()
    assert told[0] == told[1] and all(told[0])


def test_documents_that_do_not_match_their_manifest_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": [2000]})
    [path] = tmp_path.rglob("*.offsets")
    path.write_bytes(path.read_bytes()[::-1])
    stream = stream_of_folder(tmp_path, {"a": 1})
    [source] = stream.sources
    assert isinstance(source, Source)
    with pytest.raises(InputError, match=r"offsets: has hash .*; restore it or prepare again"):
        source.documents(0)


def test_lists_that_the_disk_damaged_in_the_cache_are_fetched_anew(tmp_path: Path) -> None:
    folder, cache = tmp_path / "corpus", {"path": tmp_path / "cache", "size": 10**6}
    write_folder(folder, {"a": [2000]})
    told = []
    for _ in range(2):
        stream = stream_of_folder(folder, {"a": 1}, cache=cache)
        [source] = stream.sources
        assert isinstance(source, Source)
        told.append(source.documents(0))
        stream.close()
        [path] = (tmp_path / "cache").rglob("*.offsets")
        path.write_bytes(path.read_bytes()[::-1])
    assert told[0] == told[1]


@pytest.mark.parametrize(("times", "ends"), [(3, False), (5, True)])
def test_a_shard_that_other_runs_push_out_is_fetched_again_a_few_times(
    tmp_path: Path, monkeypatch, times: int, ends: bool
) -> None:
    folder, fetch, left = tmp_path / "corpus", ShardCache.fetch_together, times
    write_folder(folder, {"a": [2000]})

    def pushed_out(cache: ShardCache, files) -> list[Path]:
        nonlocal left
        paths = fetch(cache, files)
        if left:
            left -= 1
            paths[0].unlink()
        return paths

    cache = {"path": tmp_path / "cache", "size": 10**6}
    stream = stream_of_folder(folder, {"a": 1}, cache=cache)
    monkeypatch.setattr(ShardCache, "fetch_together", pushed_out)
    if ends:
        with pytest.raises(InputError, match=r"opened in the cache 5 times.* make data\.cache\.size larger"):
            stream.read(stream.locate(np.arange(4)))
    else:
        assert len(stream.read(stream.locate(np.arange(4)))) == 4
    stream.close()
