"""Our stream alone: on a cold page cache against the disk, and the start on 10^12 tokens.

Called by benchmarks/stream.py; run as `python stream_large.py TASK FOLDER` it is one measurement in a process of its
own, answered by a line of JSON.
"""

import argparse
import ctypes
import json
import mmap
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SEED, N_CTX, BATCH, DISK_TARGET, CHUNK = 1, 2048, 8, 0.75, 64 * 2**20
STAYS_AT_MOST = 0.02
"""The share of the files that may be in the page cache before a measurement."""
SOURCES, SHARDS, TOKENS = 4, 10_000, 10**12
Part = tuple[list[str], dict[str, Any]]
"""Lines for the result file and the numbers behind them."""


def cold(options: argparse.Namespace, folder: Path) -> Part:
    """One pass in random windows against one in order, over files that are in no cache.

    Raises BrokenError where that cannot be measured.
    """
    from compare import paired_ratio
    from stream_process import BrokenError, measure

    log = folder / "words.log"
    written = measure([sys.executable, HERE / "stream_data.py", "cold", folder, str(options.cold_tokens)], log, 1800)
    if "error" in written:
        raise BrokenError(f"the files for a cold cache could not be written ({written['error']})")
    prepared = folder / str(options.cold_tokens) / "cold"
    files = sorted(prepared.rglob("*.tokens"))
    size = sum(each.stat().st_size for each in files)
    found: dict[str, list[dict[str, Any]]] = {"windows": [], "in_order": []}
    for turn in range(options.rounds):
        for task in sorted(found, reverse=bool(turn % 2)):
            resident = evict(files)
            if resident > STAYS_AT_MOST:
                raise BrokenError(f"{resident:.0%} of the files stays in memory; let --data name a folder on a disk")
            told = measure([sys.executable, HERE / "stream_large.py", task, prepared], log, 900)
            if "error" in told:
                raise BrokenError(f"{task} failed ({told['error']})")
            found[task].append(told | {"resident_before": resident})
        print(f"cold cache: round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
    seconds = {task: [each["seconds"] for each in its] for task, its in found.items()}
    ratio = paired_ratio(seconds["in_order"], seconds["windows"])
    its = found["windows"]
    tenth, read = (statistics.median(each[key] for each in its) for key in ("first_tenth", "read_bytes"))
    resident = max(each["resident_before"] for each in (*its, *found["in_order"]))
    lines = [
        f"## Cold page cache, {size / 1e9:.1f} GB",
        "",
        "One pass over the files of a source of its own, in windows of 2049 tokens in random order as our stream "
        "delivers them, against reading the same files from beginning to end, 64 MiB at a time. Before each, all was "
        f"dropped from the page cache; at most {resident:.1%} was still there (mincore). The files are smaller than "
        f"the memory, so a block that was read stays: the first tenth of the windows took {tenth:.0%} of the time, "
        f"and {read / size:.2f} times the files was read from the disk.",
        "",
        "| | MB/s |",
        "| --- | ---: |",
        f"| in order | {size / statistics.median(seconds['in_order']) / 1e6:.0f} |",
        f"| random windows | {size / statistics.median(seconds['windows']) / 1e6:.0f} |",
        "",
        "| | ratio (95 %) | target |",
        "| --- | --- | --- |",
        f"| MB/s, windows over in order | {ratio} | at least {DISK_TARGET}: **{ratio.at_least(DISK_TARGET)}** |",
        "",
    ]
    return lines, found


def scale(options: argparse.Namespace, folder: Path) -> Part:
    """The first batch and single positions of 10^12 tokens in 10,000 shards, whose files are holes.

    Raises BrokenError where that cannot be measured.
    """
    from stream_process import BrokenError, measure

    sys.path.append(str(HERE.parent / "tests" / "data_pipeline"))
    from sparse_folder import write_sparse_folder

    sparse = folder / "sparse"
    if not (sparse / "manifest.json").exists():
        write_sparse_folder(sparse, SOURCES, SHARDS, TOKENS)
    found: dict[str, list[dict[str, Any]]] = {"beginning": [], "middle": []}
    for turn in range(options.rounds):
        for task, its in found.items():
            told = measure([sys.executable, HERE / "stream_large.py", task, sparse], folder / "words.log", 600)
            if "error" in told:
                raise BrokenError(f"{task} failed ({told['error']})")
            its.append(told)
        print(f"10^12 tokens: round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)

    def median(task: str, key: str) -> float:
        return float(statistics.median(each[key] for each in found[task]))

    peak, imported = median("beginning", "peak"), median("beginning", "imported")
    lines = [
        "## 10^12 tokens",
        "",
        f"{SOURCES} sources, {SHARDS:,} shards. The files are holes, so what is read of them are zeros; their sizes, "
        f"checksums and manifest are as of any others. Positions are drawn from the whole pass, 1000 in a process, "
        "each looked up alone.",
        "",
        "| | median |",
        "| --- | ---: |",
        f"| first batch, from after the imports | {1e3 * median('beginning', 'first'):.0f} ms |",
        f"| first batch in the middle of the pass | {1e3 * median('middle', 'first'):.0f} ms |",
        f"| anonymous memory, at most | {peak / 1e6:.0f} MB |",
        f"| over the imports | {(peak - imported) / 1e6:.0f} MB |",
        f"| source, epoch and window of a random position | {1e6 * median('middle', 'locate'):.0f} us |",
        f"| of the slowest of 1000 | {1e6 * median('middle', 'slowest'):.0f} us |",
        "",
    ]
    return lines, found


def evict(files: list[Path]) -> float:
    """Drops files from the page cache; the share that stayed."""
    libc = ctypes.CDLL(None, use_errno=True)
    stayed = total = 0
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        mapped = np.frombuffer(mmap.mmap(handle, 0, access=mmap.ACCESS_READ), np.uint8)
        os.close(handle)
        pages = np.zeros(-(-len(mapped) // mmap.PAGESIZE), np.uint8)
        size, found = ctypes.c_size_t(len(mapped)), ctypes.c_void_p(pages.ctypes.data)
        if libc.mincore(ctypes.c_void_p(mapped.ctypes.data), size, found):
            raise OSError(ctypes.get_errno(), "mincore", str(path))
        stayed, total = stayed + int((pages & 1).sum()), total + len(pages)
    return stayed / total


def windows(folder: Path) -> dict[str, Any]:
    """Reads every window of the only source, in random order."""
    from data_pipeline.config import DataConfig
    from data_pipeline.loader import Loader
    from data_pipeline.manifest import Manifest
    from data_pipeline.opening import open_stream
    from data_pipeline.stream import StreamState

    [source] = Manifest.load(folder)[0].sources.values()
    batches = sum((each.tokens - 1) // N_CTX for each in source.splits["train"]) // BATCH
    start = time.perf_counter()
    stream = open_stream(DataConfig(path=folder, mixture={"a": 1.0}), SEED, N_CTX)
    loader = Loader(stream, StreamState(), sequences=BATCH, micro_batch=BATCH)
    for number, _ in zip(range(batches), loader, strict=False):
        if number == batches // 10:
            tenth = time.perf_counter() - start
    seconds = time.perf_counter() - start
    loader.close()
    return {"seconds": seconds, "first_tenth": tenth / seconds, "read_bytes": read_bytes()}


def in_order(folder: Path) -> dict[str, Any]:
    """Reads the tokens of all shards from beginning to end."""
    buffer = memoryview(bytearray(CHUNK))
    start = time.perf_counter()
    for path in sorted(folder.rglob("*.tokens")):
        handle, at = os.open(path, os.O_RDONLY), 0
        while got := os.preadv(handle, [buffer], at):
            at += got
        os.close(handle)
    return {"seconds": time.perf_counter() - start, "read_bytes": read_bytes()}


def opened(folder: Path, position: int) -> tuple[Any, dict[str, Any]]:
    """The stream of the large folder and what it took to its first batch from `position` on."""
    from stream_contenders import anonymous_bytes

    from data_pipeline.config import DataConfig
    from data_pipeline.loader import Loader
    from data_pipeline.opening import open_stream
    from data_pipeline.stream import StreamState

    imported, begun = anonymous_bytes(), time.perf_counter()
    stream = open_stream(DataConfig(path=folder, mixture={f"s{at}": 1.0 for at in range(SOURCES)}), SEED, N_CTX)
    loader = Loader(stream, StreamState(position), sequences=BATCH, micro_batch=BATCH)
    next(iter(loader))
    told = {"first": time.perf_counter() - begun, "imported": imported}
    loader.close()
    return stream, told


def beginning(folder: Path) -> dict[str, Any]:
    """The first batch of all."""
    return opened(folder, 0)[1]


def middle(folder: Path) -> dict[str, Any]:
    """The first batch in the middle, and then the way to single positions."""
    positions = TOKENS // (N_CTX + 1)
    stream, told = opened(folder, positions // 2)
    took = []
    for place in np.random.default_rng(SEED).integers(positions, size=(1000, 1)):
        begun = time.perf_counter()
        stream.locate(place)
        took.append(time.perf_counter() - begun)
    return told | {"locate": statistics.median(took), "slowest": max(took)}


def read_bytes() -> int:
    """What this process made the disk read."""
    lines = dict(each.split(": ") for each in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


TASKS = {each.__name__: each for each in (windows, in_order, beginning, middle)}


def main() -> None:
    """Does one measurement; an error is an answer too."""
    try:
        told = TASKS[sys.argv[1]](Path(sys.argv[2]))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        raise
    print(json.dumps(told))


if __name__ == "__main__":
    main()
