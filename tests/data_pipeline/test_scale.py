"""A simulated corpus of 10^12 tokens in 10,000 shards: what a start and a read touch does not grow with it.

How long it takes is measured by benchmarks/stream.py --scale.
"""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.loader import Loader
from data_pipeline.stream import Stream, StreamState
from folder import open_tokens, stream_of_folder
from sparse_folder import write_sparse_folder

MIXTURE = {"s0": 0.4, "s1": 0.3, "s2": 0.2, "s3": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sparse") / "prepared"
    path.mkdir()
    write_sparse_folder(path, sources=4, shards=10_000, tokens=10**12)
    return path


def stream_of(folder: Path) -> Stream:
    return stream_of_folder(folder, MIXTURE, n_ctx=2048)


def test_a_start_opens_no_more_files_than_its_first_sequences_need(folder: Path) -> None:
    stream = stream_of(folder)
    assert sum(source.tokens for source in stream.sources) == 10**12 and not open_tokens(folder)
    located = stream.locate(np.arange(8))
    stream.read(located)
    assert 1 <= len(open_tokens(folder)) <= 8
    stream.close()
    assert not open_tokens(folder)


def test_few_shards_are_open_at_a_time_and_memory_stays(folder: Path) -> None:
    stream = stream_of(folder)
    loader = Loader(stream, StreamState(), 64, 8)
    for _ in range(30):
        next(loader)
    tracemalloc.start()
    opened = open_tokens(folder)
    held = []
    for _ in range(3):
        for _ in range(40):
            next(loader)
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert opened and len(open_tokens(folder)) <= 4 * 18
    assert max(held) - held[0] < 2**22, held  # a group that is read ahead more or less
    loader.close()
    stream.close()


@pytest.mark.parametrize("position", [0, 10**5, 4 * 10**8, 5 * 10**8, 10**12, 2**50])
def test_any_position_is_found_at_once_and_alone(folder: Path, position: int) -> None:
    stream = stream_of(folder)
    together = stream.locate(np.arange(position, position + 500))
    alone = stream.locate(np.array([position + 321]))
    assert [each[321] for each in together] == [each[0] for each in alone]
    drawn = stream.schedule.consumed(position)
    assert np.abs(drawn - stream.schedule.target(position)).max() < 1 + position * 1e-12


def test_an_epoch_of_a_large_source_has_no_window_twice(folder: Path) -> None:
    [source, *_] = stream_of(folder).sources
    places = np.concatenate(
        [np.arange(start, start + 200_000) for start in (0, source.windows // 2, source.windows - 200_000)]
    )
    epoch, window = source.locate(places)
    assert set(epoch.tolist()) == {0} and len(np.unique(window)) == len(window)
    assert window.min() >= 0 and window.max() < source.windows
