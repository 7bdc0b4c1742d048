"""The same sequences in the same global batches, whatever reads them."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import read_ahead
from data_pipeline.config import PhaseConfig
from data_pipeline.data_hash import begin, extend
from data_pipeline.errors import InputError
from data_pipeline.loader import Loader
from data_pipeline.source import Source
from data_pipeline.stream import Stream, StreamState
from folder import stream_of_folder, write_folder

N_CTX = 16
SHARDS = {"a": [1000, 400, 17, 3, 300], "b": [333], "c": [50, 16, 18]}
PHASES = [
    PhaseConfig(until_tokens=20 * N_CTX, weights={"a": 0.6, "b": 0.4}),
    PhaseConfig(until_tokens=90 * N_CTX, weights={"b": 0.1, "c": 0.9}, interpolate=True),
    PhaseConfig(weights={"a": 0.9, "c": 0.1}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prepared")
    write_folder(path, SHARDS)
    return path


def stream_of(folder: Path, **data) -> Stream:
    options = {"phases": PHASES, "open_shards": 2, "max_epochs": {"c": 6}, "exhausted": "redistribute"} | data
    return stream_of_folder(folder, **({"mixture": None} | options), n_ctx=N_CTX)


def expected(folder: Path, state: StreamState, sizes: list[int]) -> list[list[tuple[str, int, bytes]]]:
    """The sequences of batches as name, window and tokens, from the files and without the loader."""
    stream, batches = stream_of(folder), []
    cut = {}
    for name, shards in SHARDS.items():
        tokens = [np.fromfile(folder / f"{name}/train/{at:05d}.tokens", "<u2") for at in range(len(shards))]
        cut[name] = [t[s : s + N_CTX + 1] for t in tokens for s in range(0, (len(t) - 1) // N_CTX * N_CTX, N_CTX)]
    at = state.position
    for size in sizes:
        batch = []
        while len(batch) < size:
            if not any(start <= at < stop for start, stop in state.skipped):
                _, source, _, window = (int(each[0]) for each in stream.locate(np.array([at])))
                name = stream.names[source]
                batch.append((name, window, cut[name][window].astype(np.int64).tobytes()))
            at += 1
        batches.append(batch)
    return batches


def consumed(folder: Path, sizes: list[int], world: int, micro: int, state: StreamState):
    """What global batches of such sizes hand to the network, in global order, as the ranks see it."""
    loaders = [Loader(stream_of(folder), state, sizes, micro, rank, world) for rank in range(world)]
    batches, hashed = [], []
    for size in sizes:
        rank_batches = [next(iter(loader)) for loader in loaders]
        assert len({len(each.micro_batches) for each in rank_batches}) == 1
        assert {each.sequences for each in rank_batches} == {size}
        batch = []
        for each in rank_batches:
            tokens = np.concatenate([micro.tokens.numpy() for micro in each.micro_batches])
            weights = np.concatenate([micro.weights.numpy() for micro in each.micro_batches])
            real = len(each.token_hashes)
            assert weights.tolist() == [1.0] * real + [0.0] * (len(weights) - real)
            assert max(len(micro_batch.tokens) for micro_batch in each.micro_batches) <= micro
            names = [loaders[0]._stream.names[source] for source in each.located.source]
            batch += zip(names, each.located.window.tolist(), (row.tobytes() for row in tokens[:real]), strict=True)
            hashed += zip(names, each.located.window.tolist(), each.token_hashes.tolist(), strict=True)
        batches.append(batch)
        [state] = {each.state for each in rank_batches}
    for loader in loaders:
        loader.close()
    return batches, hashed, state


ranges = st.lists(st.tuples(st.integers(0, 150), st.integers(0, 20)).map(lambda r: (r[0], r[0] + r[1])), max_size=3)
worlds, micros = st.integers(1, 5), st.integers(1, 4)


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=10), worlds, micros, worlds, micros, st.integers(0, 10), ranges
)
def test_any_ramp_processes_micro_batch_skipped_ranges_and_resume_give_the_same_batches(
    folder, sizes, world, micro, other_world, other_micro, stop, skipped
) -> None:
    begun = StreamState(0, tuple(skipped))
    wanted = expected(folder, begun, sizes)
    whole, hashes, _ = consumed(folder, sizes, world, micro, begun)
    assert whole == wanted
    first, hashes_before, middle = consumed(folder, sizes[:stop], world, micro, begun)
    rest, hashes_after, _ = consumed(folder, sizes[stop:], other_world, other_micro, middle)
    assert first + rest == wanted and hashes_before + hashes_after == hashes


@settings(max_examples=20)
@given(st.lists(st.integers(1, 30), min_size=4, max_size=10), st.integers(1, 3), st.integers(0, 60), st.integers(1, 40))
def test_a_range_that_is_skipped_later_changes_nothing_before_it(folder, sizes, stop, start, length) -> None:
    """As after a spike: the run goes back to a checkpoint and leaves out what came after it."""
    first, _, middle = consumed(folder, sizes[:stop], 2, 2, StreamState())
    skipped = StreamState(middle.position, ((middle.position + start, middle.position + start + length),))
    rest, _, _ = consumed(folder, sizes[stop:], 3, 1, skipped)
    assert first == expected(folder, StreamState(), sizes[:stop])
    assert rest == expected(folder, skipped, sizes[stop:])


def test_the_stream_ends_with_its_last_whole_batch(folder: Path) -> None:
    stops = stream_of(folder, phases=None, mixture={"b": 1.0}, max_epochs={"b": 2}, exhausted="stop")
    loader = Loader(stops, StreamState(), 9, 4)
    assert [each.sequences for each in loader] == [9] * 4  # 20 windows twice
    assert not stops.holds(StreamState(36), 9) and stops.holds(StreamState(36), 4)
    error = stream_of(folder, phases=None, mixture={"b": 1.0}, max_epochs={"b": 2}, exhausted="error")
    loader = Loader(error, StreamState(), 9, 4)
    for _ in range(4):
        next(loader)
    with pytest.raises(InputError, match="the order of data ends after 40 sequences: b reached its max_epochs"):
        next(loader)


@pytest.mark.parametrize("damage", ["a flipped bit", "cut"])
def test_all_batches_before_a_fault_are_handed_over(tmp_path: Path, damage: str) -> None:
    """However far ahead of it pages are asked for and batches are read together."""
    write_folder(tmp_path, {"a": [5 * N_CTX + 1] * 40})
    names = [f"a/train/{at:05d}.tokens" for at in range(40)]
    places = stream_of_folder(tmp_path, {"a": 1}, open_shards=4).locate(np.arange(200)).window // 5
    last = list(dict.fromkeys(places.tolist()))[-1]  # the shard that is opened last
    path = tmp_path / names[last]
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data[:-2] if damage == "cut" else data)
    loader, whole = Loader(stream_of_folder(tmp_path, {"a": 1}, open_shards=4), StreamState(), 2, 2), 0
    with pytest.raises(InputError, match=names[last]):
        for _ in loader:
            whole += 1
    assert whole == int(np.flatnonzero(places == last)[0]) // 2 > 10
    loader.close()


def test_the_sizes_may_end_before_the_data_do(folder: Path) -> None:
    for data in ({}, {"phases": None, "mixture": {"b": 1.0}, "max_epochs": {"b": 9}, "exhausted": "error"}):
        loader = Loader(stream_of(folder, **data), StreamState(), [3, 4], 2)
        assert [batch.sequences for batch in loader] == [3, 4]


def test_a_fault_in_the_reading_thread_reaches_the_loop(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": [1000]})
    path = tmp_path / "a/train/00000.tokens"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    loader = Loader(stream_of_folder(tmp_path, {"a": 1.0}), StreamState(), 4, 4)
    with pytest.raises(InputError, match="do not match their checksum"):
        for _ in range(30):
            next(iter(loader))
    loader.close()


def test_the_wait_for_data_is_counted(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(Stream, "fetch_ahead", lambda *_: __import__("time").sleep(0.05))
    loader = Loader(stream_of(folder), StreamState(), repeat(2000), 8)
    for _ in range(12):
        next(loader)
    loader.close()
    assert loader.waited > 0.05


@pytest.mark.slow
def test_real_processes_read_the_same_run_on_two_then_three_then_one(tmp_path: Path) -> None:
    """Ranks under torchrun that settle with each other what they read: a run begun on 2 goes on on 3, and on 1."""
    write_folder(tmp_path / "prepared", SHARDS)
    told = []
    for name, lives in {"split": [(2, 3, 7), (3, 1, 8), (1, 5, 5)], "whole": [(4, 2, 20)]}.items():
        at = "0 " + begin(stream_of(tmp_path / "prepared").identity, N_CTX)
        for processes, micro, steps in lives:
            out = tmp_path / f"{name}{processes}"
            command = [
                sys.executable,
                "-P",
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={processes}",
            ]
            worker = [
                Path(__file__).with_name("reading_worker.py"),
                tmp_path / "prepared",
                out,
                micro,
                steps,
                *at.split(),
            ]
            subprocess.run([*command, *map(str, worker)], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
            at = out.read_text()
        told.append(at)
    assert told[0] == told[1]
    batches = expected(tmp_path / "prepared", StreamState(), [13] * 20)
    position, data_hash = told[0].split()
    assert int(position) == 20 * 13 and len({window for batch in batches for _, window, _ in batch}) > 50
    running = begin(stream_of(tmp_path / "prepared").identity, N_CTX)
    _, hashed, _ = consumed(tmp_path / "prepared", [13] * 20, 1, 13, StreamState())
    assert data_hash == extend(running, hashed)


@pytest.fixture
def hanging(monkeypatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Reads hang: an event that is set when one has begun, and one that lets go of it."""
    begun, let_go = threading.Event(), threading.Event()

    def read(*_: object) -> None:
        begun.set()
        let_go.wait(60)  # so that a close that waits for it fails instead of hanging
        raise InputError("let go")

    monkeypatch.setattr(Source, "read", read)
    yield begun, let_go
    let_go.set()


def reading_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "read-ahead" and each.is_alive()]


def test_a_read_that_hangs_is_left_alone_when_the_loader_closes(folder: Path, monkeypatch, hanging) -> None:
    monkeypatch.setattr(read_ahead, "PATIENCE", 0.05)
    begun, let_go = hanging
    stream, before = stream_of(folder), reading_threads()
    loader = Loader(stream, StreamState(), 4, 4)
    begun.wait()
    loader.close()
    (left,) = set(reading_threads()) - set(before)
    stream.close()  # what it reads from may be closed under it
    let_go.set()
    left.join()
    assert list(loader) == []


def test_a_loader_whose_reads_end_closes_at_once(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(read_ahead, "PATIENCE", 3600.0)
    before = reading_threads()
    for taken in range(3):
        loader = Loader(stream_of(folder), StreamState(), 4, 4)
        for _ in range(taken):
            next(loader)
        loader.close()
        assert set(reading_threads()) <= set(before)


HANGING = """
import sys
import threading
import time
from pathlib import Path

sys.path.append(sys.argv[2])

from data_pipeline import read_ahead
from data_pipeline.loader import Loader
from data_pipeline.source import Source
from data_pipeline.stream import StreamState
from test_loader import stream_of

begun = threading.Event()


def read(*_):
    begun.set()
    threading.main_thread().join()
    time.sleep(60)  # nobody should wait for this
    print("outlived the process")


Source.read = read
read_ahead.PATIENCE = 0.05
stream = stream_of(Path(sys.argv[1]))
loader = Loader(stream, StreamState(), 4, 4)
begun.wait()
loader.close()
stream.close()
print("closed")
"""


def test_a_process_ends_though_a_read_hangs(folder: Path) -> None:
    command = [sys.executable, "-P", "-c", HANGING, str(folder), str(Path(__file__).parent)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "closed\n"
