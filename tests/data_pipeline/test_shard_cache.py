import errno
import functools
import http.server
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import cache_room, remote_files, shard_cache
from data_pipeline.cache_room import TAG
from data_pipeline.errors import InputError
from data_pipeline.manifest import Manifest
from data_pipeline.remote_files import ClosedError
from data_pipeline.shard_cache import ShardCache
from data_pipeline.shards import FileEntry
from data_pipeline.verifying import verify_folder, verify_url
from folder import write_folder
from object_store import CREDENTIALS, Fault, Proxy, proxy_for, put_folder, s3_server, storage_of, wait_for

PLENTY = 10**9
TOKENS = 20_000
SHARD = 2 * TOKENS

CHILD = """
import json
import sys
from pathlib import Path

from data_pipeline import remote_files
from data_pipeline.shard_cache import ShardCache
from data_pipeline.shards import FileEntry

plan = json.loads(sys.argv[1])
vars(remote_files).update(plan["constants"])
cache = ShardCache(plan["origin"], Path(plan["root"]), plan["max_bytes"], plan["storage"])
print("open", flush=True)
sys.stdin.readline()
for name, entry in plan["files"]:
    entry = FileEntry(**entry)
    while True:
        try:
            fault = entry.fault(cache.fetch(name, entry))
        except FileNotFoundError:
            continue
        break
    assert fault is None or "missing" in fault, fault
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prepared") / "corpus"
    write_folder(path, {"a": [TOKENS] * 8}, validation=100)
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def shared_store(server: str) -> Iterator[Proxy]:
    with proxy_for(server) as proxy:
        yield proxy


@pytest.fixture
def store(shared_store: Proxy) -> Proxy:
    """The server through a proxy that has seen nothing: one for all tests, since a client of S3 is slow to make."""
    shared_store.forget()
    return shared_store


@pytest.fixture
def own_store(server: str) -> Iterator[Proxy]:
    """One for tests after which a client may still be asking."""
    with proxy_for(server) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def url(server: str, prepared: Path) -> str:
    return put_folder(server, "bucket", "prepared", prepared)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch) -> None:
    for key, value in CREDENTIALS.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(remote_files, "FIRST_DELAY", 0.01)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., ShardCache]]:
    """Opens caches in one folder of this test, and closes them."""
    with ExitStack() as stack:

        def open_cache(origin: str | Path, max_bytes: int = PLENTY, **options: Any) -> ShardCache:
            cache = ShardCache(str(origin), tmp_path / "cache", max_bytes, **options)
            stack.callback(cache.close)
            return cache

        yield open_cache


def shards_of(folder: Path) -> list[tuple[str, FileEntry]]:
    shards = Manifest.load(folder)[0].sources["a"].splits["train"]
    return [(shard.name + ".tokens", shard.files[".tokens"]) for shard in shards]


def all_files(folder: Path) -> list[tuple[str, FileEntry]]:
    return [
        (shard.name + suffix, entry)
        for shard in Manifest.load(folder)[0].shards()
        for suffix, entry in shard.files.items()
    ]


def held(root: Path) -> int:
    """Bytes of all files under the root, those on their way included and first: what gets its name counts once."""
    sizes = {}
    for folder in (root / ".partial", root):
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):
                state = path.stat()
                sizes[state.st_ino] = state.st_size if path.name != TAG and not path.is_dir() else 0
    return sum(sizes.values())


def small_files(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in ("manifest.json", "tokenizer.json"))


def partials(root: Path) -> list[Path]:
    return list((root / ".partial").iterdir())


@contextmanager
def child(origin: str, root: Path, files: list, max_bytes: int = PLENTY, storage=None, **constants: Any):
    """A process that opens the cache, waits for a line, fetches the files in order and checks each."""
    plan = {
        "origin": origin,
        "root": str(root),
        "max_bytes": max_bytes,
        "storage": storage,
        "constants": constants,
        "files": [(name, entry.model_dump()) for name, entry in files],
    }
    with subprocess.Popen(
        [sys.executable, "-P", "-c", CHILD, json.dumps(plan)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


def begin(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def test_every_file_arrives_as_it_is_at_the_origin(opened, store: Proxy, url: str, prepared: Path) -> None:
    cache = opened(url, storage=storage_of(store.address))
    assert store.order == ["/bucket/prepared/manifest.json", "/bucket/prepared/tokenizer.json"]
    for name, entry in all_files(prepared):
        assert not cache.has(name, entry)
        assert cache.fetch(name, entry).read_bytes() == (prepared / name).read_bytes()
        assert cache.has(name, entry)
    assert Manifest.load(cache.folder) == Manifest.load(prepared)
    assert verify_folder(cache.folder) == []


def test_a_file_is_read_in_ranges_and_only_once(opened, store: Proxy, url: str, prepared: Path, monkeypatch) -> None:
    monkeypatch.setattr(remote_files, "RANGE", 15_000)
    name, entry = shards_of(prepared)[0]
    cache = opened(url, storage=storage_of(store.address))
    for _ in range(3):
        cache.fetch(name, entry)
    assert entry.fault(cache.folder / name) is None
    assert store.requests_of(name) == 3 and store.bytes[f"/bucket/prepared/{name}"] == SHARD


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "00000.tokens", times=3, status=500),
        Fault("status", "00000.tokens", times=2, status=503),
        Fault("corrupt", "00000.tokens", times=2),
        Fault("cut", "00000.tokens", times=2),
        Fault("slow", "00000.tokens"),
        Fault("status", "manifest.json", status=500),
        Fault("corrupt", "tokenizer.json"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.match}-{fault.status}",
)
def test_a_passing_fault_ends_in_the_right_bytes(opened, store, url, prepared, caplog, fault) -> None:
    store.faults.append(fault)
    cache = opened(url, storage=storage_of(store.address))
    name, entry = shards_of(prepared)[0]
    assert entry.fault(cache.fetch(name, entry)) is None
    assert fault.times == 0 and partials(cache.folder.parent) == []
    if fault.kind in ("status", "corrupt"):
        assert f"{url}/" in caplog.text and "attempt 1 of 5" in caplog.text


def test_a_store_that_stops_answering_is_asked_again(opened, own_store, url, prepared, monkeypatch, caplog) -> None:
    own_store.faults.append(Fault("stall", "00000.tokens"))
    name, entry = shards_of(prepared)[0]
    cache = opened(url, storage=storage_of(own_store.address))
    monkeypatch.setattr(remote_files, "STALL", 0.5)
    assert entry.fault(cache.fetch(name, entry)) is None
    assert f"{url}/{name}: TimeoutError: no answer for 0.5 s; attempt 1 of 5" in caplog.text


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("corrupt", "00000.tokens", times=99), r"has hash \w+, its manifest says \w+, 5 times.*prepare"),
        (Fault("status", "00000.tokens", times=99), "cannot be fetched, 5 attempts failed, the last with .*made up"),
        (Fault("status", "00000.tokens", times=1, status=403), "access was denied .*check the credentials"),
    ],
    ids=["corrupt", "500", "403"],
)
def test_a_lasting_fault_is_told_in_one_line(opened, store, url, prepared, fault, message) -> None:
    store.faults.append(fault)
    cache = opened(url, storage=storage_of(store.address))
    name, entry = shards_of(prepared)[0]
    with pytest.raises(InputError, match=f"^{url}/{name}: {message}") as error:
        cache.fetch(name, entry)
    assert "\n" not in str(error.value)
    assert store.requests_of(name) == (1 if fault.status == 403 else 5)
    assert not cache.has(name, entry) and partials(cache.folder.parent) == []


def test_what_is_missing_is_told_at_once(opened, store: Proxy, url: str, prepared: Path) -> None:
    cache = opened(url, storage=storage_of(store.address))
    with pytest.raises(InputError, match=f"^{url}/a/none.tokens: is missing there"):
        cache.fetch("a/none.tokens", FileEntry(bytes=3, xxh3="0"))
    assert store.requests_of("none.tokens") == 1
    for origin in ("s3://bucket/nowhere", "s3://nobucket/prepared"):
        with pytest.raises(InputError, match=f"^{origin}/manifest.json: is missing there"):
            opened(origin, storage=storage_of(store.address))
    with pytest.raises(InputError, match=r"^/nowhere/manifest.json: is missing there"):
        opened("/nowhere")


def test_without_credentials_a_line_says_so(opened, store: Proxy, url: str, monkeypatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(
        InputError, match=r"manifest.json: access was denied .*Unable to locate credentials.*environment"
    ):
        opened(url, storage=storage_of(store.address) | {"skip_instance_cache": True})


def test_options_of_the_store_are_never_shown(opened, store: Proxy, url: str, prepared: Path, caplog) -> None:
    caplog.set_level(logging.DEBUG, "thalweg.cache")
    store.faults.append(Fault("status", "00000.tokens", times=2))
    store.faults.append(Fault("status", "00000.tokens", status=403))
    cache = opened(url, storage=storage_of(store.address) | {"key": "AKIAHIDDEN", "secret": "hush-hush"})
    with pytest.raises(InputError) as error:
        cache.fetch(*shards_of(prepared)[0])
    assert "attempt 2" in caplog.text
    for hidden in ("AKIAHIDDEN", "hush-hush"):
        assert hidden not in caplog.text and hidden not in str(error.value)
    with pytest.raises(InputError, match=r"^https://127.0.0.1:1/x/manifest.json: "):
        opened("https://name:hush-hush@127.0.0.1:1/x")


def test_a_missing_package_is_named(opened, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"^gs://bucket/prepared: .*`pip install 'gcsfs'`"):
        opened("gs://bucket/prepared")
    with pytest.raises(InputError, match=r"^nonsense://x: cannot be opened .*check the URL"):
        opened("nonsense://x")


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = "import sys, data_pipeline.shard_cache; print({'s3fs', 'botocore', 'boto3', 'fsspec'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_path_is_staged_like_a_store(opened, prepared: Path, scheme: str) -> None:
    cache = opened(f"{scheme}{prepared}/")
    for name, entry in all_files(prepared):
        cache.fetch(name, entry)
    assert verify_folder(cache.folder) == []
    assert cache.folder == opened(prepared).folder


def test_a_web_server_that_knows_no_ranges_will_do(opened, prepared: Path, monkeypatch) -> None:
    monkeypatch.setattr(remote_files, "RANGE", 15_000)
    handler = functools.partial(QuietFiles, directory=str(prepared))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        thread = threading.Thread(target=files.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with proxy_for(f"127.0.0.1:{files.server_address[1]}") as proxy:
                proxy.faults.append(Fault("cut", "00000.tokens"))
                cache = opened(f"http://{proxy.address}")
                for name, entry in shards_of(prepared):
                    assert entry.fault(cache.fetch(name, entry)) is None
                assert proxy.requests_of("00000.tokens") == 2 and proxy.requests_of("00001.tokens") == 1
        finally:
            files.shutdown()
            thread.join()


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_files_are_fetched_ahead_in_the_order_asked_for(opened, store: Proxy, url: str, prepared: Path) -> None:
    files = [shards_of(prepared)[at] for at in (5, 2, 7, 0)]
    cache = opened(url, storage=storage_of(store.address), downloads=1)
    cache.ask(files)
    wait_for(lambda: all(cache.has(*file) for file in files))
    assert [path for path in store.order if path.endswith(".tokens")] == [f"/bucket/prepared/{n}" for n, _ in files]
    assert cache.fetch(*files[0]) and store.requests_of(files[0][0]) == 1


def test_a_new_request_takes_the_place_of_what_has_not_begun(
    opened, own_store: Proxy, url: str, prepared: Path
) -> None:
    first, dropped, wanted = shards_of(prepared)[:3]
    own_store.faults.append(Fault("stall", first[0]))
    cache = opened(url, storage=storage_of(own_store.address), downloads=1)
    cache.ask([first, dropped])
    wait_for(lambda: own_store.requests_of(first[0]))
    cache.ask([wanted])
    own_store.end()
    wait_for(lambda: cache.has(*wanted))
    assert cache.has(*first)
    assert own_store.requests_of(dropped[0]) == 0 and not cache.has(*dropped)


def test_a_file_that_is_needed_joins_its_download_or_jumps_the_queue(opened, own_store, url, prepared) -> None:
    slow, behind, needed = shards_of(prepared)[:3]
    own_store.faults.append(Fault("stall", slow[0]))
    cache = opened(url, storage=storage_of(own_store.address), downloads=1)
    cache.ask([slow, behind, needed])
    wait_for(lambda: own_store.requests_of(slow[0]))
    cache.fetch(*needed)
    assert own_store.requests_of(behind[0]) == 0 and not cache.has(*slow)
    with ThreadPoolExecutor() as threads:
        joined = [threads.submit(cache.fetch, *slow) for _ in range(3)]
        own_store.end()
        assert {each.result() for each in joined} == {cache.folder / slow[0]}
    # The stalled answer and one more by the own_store's own client: two downloads would have asked once more.
    assert own_store.requests_of(slow[0]) == 2


def test_what_cannot_be_fetched_ahead_is_told_and_tried_again_when_needed(opened, store, url, prepared, caplog) -> None:
    missing, good = ("a/none.tokens", FileEntry(bytes=3, xxh3="0")), shards_of(prepared)[0]
    cache = opened(url, storage=storage_of(store.address), downloads=1)
    cache.ask([missing, good])
    wait_for(lambda: cache.has(*good))
    cache.ask([missing, good, shards_of(prepared)[1]])
    wait_for(lambda: cache.has(*shards_of(prepared)[1]))
    assert caplog.text.count("is missing there") == 1 and store.requests_of("none.tokens") == 1
    with pytest.raises(InputError, match="is missing there"):
        cache.fetch(*missing)
    assert store.requests_of("none.tokens") == 2


def test_what_failed_once_is_fetched_ahead_again_after_it_was_had(opened, store, url, prepared, caplog) -> None:
    flaky, other = shards_of(prepared)[:2]
    store.faults.append(Fault("status", flaky[0], status=403))
    cache = opened(url, storage=storage_of(store.address))
    cache.ask([flaky])
    wait_for(lambda: "access was denied" in caplog.text)
    cache.fetch(*flaky).unlink()
    cache.ask([flaky, other])
    wait_for(lambda: cache.has(*flaky))
    assert (cache.folder / flaky[0]).read_bytes() == (prepared / flaky[0]).read_bytes()


@given(uses=st.lists(st.integers(0, 7), max_size=30), room=st.integers(SHARD, 5 * SHARD))
@settings(max_examples=40, deadline=None)
def test_the_least_recently_used_files_make_room(prepared: Path, uses: list[int], room: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        bound = small_files(prepared) + room
        cache = ShardCache(str(prepared), Path(root), bound)
        files, expected = shards_of(prepared), OrderedDict[int, None]()
        for at in uses:
            state = cache.folder / files[at][0]
            before = state.stat().st_mtime_ns if cache.has(*files[at]) else None
            path = cache.fetch(*files[at])
            assert before in (None, path.stat().st_mtime_ns), "a reader that has it open takes it for altered"
            expected.pop(at, None)
            while (len(expected) + 1) * SHARD > room:
                expected.popitem(last=False)
            expected[at] = None
            assert {each for each, file in enumerate(files) if cache.has(*file)} == set(expected)
            assert held(cache.folder) <= bound


def test_old_files_of_another_folder_make_room_as_well(opened, prepared: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "other", {"a": [TOKENS] * 2})
    bound = small_files(prepared) + small_files(tmp_path / "other") + 2 * SHARD
    old, new = opened(tmp_path / "other", bound), opened(prepared, bound)
    for file in shards_of(tmp_path / "other"):
        old.fetch(*file)
    new.fetch(*shards_of(prepared)[0])
    assert [old.has(*file) for file in shards_of(tmp_path / "other")] == [False, True]
    assert Manifest.load(old.folder)


def test_what_is_asked_for_stays(opened, prepared: Path, caplog) -> None:
    files = shards_of(prepared)
    cache = opened(prepared, small_files(prepared) + 3 * SHARD)
    cache.fetch(*files[7])
    cache.ask(files[:2])
    wait_for(lambda: cache.has(*files[1]) and cache.has(*files[0]))
    for file in files[2:6]:
        cache.fetch(*file)
        assert cache.has(*files[0]) and cache.has(*files[1])


def test_a_cache_too_small_for_all_holds_what_is_needed_first(opened, prepared: Path, caplog) -> None:
    files = shards_of(prepared)
    cache = opened(prepared, small_files(prepared) + 3 * SHARD)

    def there() -> list[int]:
        return [at for at, file in enumerate(files) if cache.has(*file)]

    cache.ask(files[:5])
    wait_for(lambda: there() == [0, 1, 2] and "less is fetched ahead" in caplog.text)
    cache.fetch(*files[7])
    assert there() == [0, 1, 7]
    cache.ask(files[:5])
    wait_for(lambda: there() == [0, 1, 2])
    for at in (3, 0, 4):
        cache.fetch(*files[at])
    assert there() == [0, 3, 4]
    with pytest.raises(InputError, match=r"^data.cache.size: is \d+, too small for 00001.tokens .*data.open_shards"):
        cache.fetch(*files[1])
    cache.ask(files[2:5])
    wait_for(lambda: there() == [2, 3, 4])
    assert caplog.text.count("less is fetched ahead") == 1


def test_a_file_larger_than_the_cache_is_told_with_both_sizes(opened, prepared: Path) -> None:
    cache = opened(prepared, SHARD - 1)
    with pytest.raises(InputError, match=f"^00000.tokens: has {SHARD} bytes, data.cache.size is {SHARD - 1}; "):
        cache.fetch(*shards_of(prepared)[0])


def test_a_file_that_was_cut_is_fetched_anew(opened, prepared: Path) -> None:
    name, entry = shards_of(prepared)[0]
    cache = opened(prepared)
    os.truncate(cache.fetch(name, entry), 100)
    assert not cache.has(name, entry)
    assert entry.fault(cache.fetch(name, entry)) is None


def test_a_folder_prepared_anew_is_not_mixed_with_the_old_one(opened, tmp_path: Path) -> None:
    origin = tmp_path / "corpus"
    write_folder(origin, {"a": [TOKENS, TOKENS]}, vocab_size=50257)
    files, old = shards_of(origin), opened(origin)
    kept = old.fetch(*files[0]).read_bytes()
    shutil.rmtree(origin)
    write_folder(origin, {"a": [TOKENS, TOKENS]}, vocab_size=50000)
    new = opened(origin)
    for name, entry in shards_of(origin):
        assert new.fetch(name, entry).read_bytes() == (origin / name).read_bytes()
    assert (old.folder / files[0][0]).read_bytes() == kept != (origin / files[0][0]).read_bytes()
    with pytest.raises(InputError, match=r"its manifest says .*it was damaged or replaced there"):
        old.fetch(*files[1])


def test_a_manifest_that_is_none_or_leads_outside_is_refused(opened, tmp_path: Path) -> None:
    origin = tmp_path / "corpus"
    write_folder(origin, {"a": [100]})
    entry = FileEntry.of(origin / "tokenizer.json")
    for name in ("../tokenizer.json", "/etc/hostname"):
        with pytest.raises(InputError, match="names a file outside the folder"):
            opened(origin).fetch(name, entry.model_copy(update={"bytes": 10**6}))
    (origin / "manifest.json").write_text('{"format_version": ')
    with pytest.raises(InputError, match=r"manifest.json: is no JSON .*5 times in a row"):
        opened(origin)


def test_a_folder_with_other_files_is_never_taken_for_a_cache(opened, prepared: Path, tmp_path: Path) -> None:
    mine = tmp_path / "cache" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("years of work")
    with pytest.raises(InputError, match=r"cache: holds files that are no cache, such as thesis.txt"):
        opened(prepared)
    mine.parent.rename(tmp_path / "moved")
    cache = opened(prepared, small_files(prepared) + SHARD)
    stray = cache.folder.parent / "stray.txt"
    stray.write_text("put here later")
    for file in shards_of(prepared):
        cache.fetch(*file)
    assert stray.exists()


def test_a_cache_that_cannot_be_written_is_told(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot hold a cache .*data.cache.path"):
        ShardCache(str(prepared), tmp_path / "file" / "cache", PLENTY)


def test_a_cache_that_was_deleted_under_a_run_fills_again(opened, prepared: Path, tmp_path: Path) -> None:
    cache, file = opened(prepared), shards_of(prepared)[0]
    cache.fetch(*file)
    shutil.rmtree(tmp_path / "cache")
    assert file[1].fault(cache.fetch(*file)) is None
    assert opened(prepared).has(*file)


def test_on_a_full_disk_more_is_removed_or_a_line_says_so(opened, prepared: Path, monkeypatch) -> None:
    first, second, third, *_ = shards_of(prepared)
    cache = opened(prepared)
    cache.fetch(*first)
    forced, answers = shard_cache.to_disk, [True, False]

    def to_disk(path: Path) -> None:
        if answers and answers.pop(0):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        forced(path)

    monkeypatch.setattr(shard_cache, "to_disk", to_disk)
    assert second[1].fault(cache.fetch(*second)) is None
    assert not cache.has(*first)
    answers[:] = [True] * 9
    with pytest.raises(InputError, match=r"cache: the disk is full: 00002.tokens takes \d+ bytes.*data.cache.path"):
        cache.fetch(*third)
    assert partials(cache.folder.parent) == []


def test_a_disk_smaller_than_the_bound_is_filled_no_further(opened, prepared: Path, monkeypatch) -> None:
    usage = namedtuple("usage", "free")
    disk = small_files(prepared) + 2 * SHARD + 1000
    monkeypatch.setattr(cache_room.shutil, "disk_usage", lambda root: usage(disk - held(root)))
    cache = opened(prepared)
    for file in shards_of(prepared):
        cache.fetch(*file)
        assert held(cache.folder.parent) <= disk
    disk = SHARD
    with pytest.raises(InputError, match="the disk is full"):
        cache.fetch(*shards_of(prepared)[0])


def test_close_does_not_wait_for_a_store_that_has_stopped_answering(opened, own_store, url, prepared) -> None:
    ahead, needed = shards_of(prepared)[:2]
    own_store.faults += [Fault("stall", ahead[0]), Fault("stall", needed[0])]
    cache, errors = opened(url, storage=storage_of(own_store.address)), []

    def fetch() -> None:
        try:
            cache.fetch(*needed)
        except ClosedError as error:
            errors.append(error)

    waiting = threading.Thread(target=fetch)
    cache.ask([ahead])
    waiting.start()
    wait_for(lambda: own_store.requests_of(ahead[0]) and own_store.requests_of(needed[0]))
    cache.close()
    waiting.join()
    assert errors and not any(thread.name == "thalweg-cache" for thread in threading.enumerate())
    assert partials(cache.folder.parent) == []
    with pytest.raises(ClosedError):
        cache.fetch(*ahead)


@pytest.mark.slow
def test_of_several_processes_one_downloads(store: Proxy, url: str, prepared: Path, tmp_path: Path) -> None:
    name, entry = shards_of(prepared)[0]
    store.faults.append(Fault("slow", name))
    with ExitStack() as stack:
        options = {"storage": storage_of(store.address)}
        children = [stack.enter_context(child(url, tmp_path / "c", [(name, entry)], **options)) for _ in range(3)]
        for process in children:
            begin(process)
        assert [process.stdout.readline() for process in children] == ["done\n"] * 3
    assert store.requests_of(name) == 1


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_nothing_that_counts(opened, own_store, url, prepared, tmp_path) -> None:
    name, entry = shards_of(prepared)[0]
    root, storage = tmp_path / "cache", storage_of(own_store.address)
    own_store.faults.append(Fault("stall", name, after=1))
    with child(url, root, [(name, entry)], storage=storage, RANGE=15_000) as process:
        begin(process)
        wait_for(lambda: own_store.requests_of(name) == 2)
        [left] = partials(root)
        process.kill()
        process.wait()
    assert left.stat().st_size == 15_000 and not list(root.rglob(name))
    cache = opened(url, small_files(prepared) + SHARD, storage=storage)
    assert partials(root) == []
    assert entry.fault(cache.fetch(name, entry)) is None


@pytest.mark.slow
def test_whoever_waits_goes_on_when_the_one_that_downloads_is_killed(
    opened, own_store, url, prepared, tmp_path
) -> None:
    name, entry = shards_of(prepared)[0]
    storage = storage_of(own_store.address)
    own_store.faults.append(Fault("stall", name))
    with child(url, tmp_path / "cache", [(name, entry)], storage=storage) as process:
        begin(process)
        wait_for(lambda: own_store.requests_of(name))
        cache = opened(url, storage=storage)
        cache.ask([(name, entry)])
        threading.Timer(0.3, process.kill).start()
        assert entry.fault(cache.fetch(name, entry)) is None
        assert process.wait() == -signal.SIGKILL
    assert own_store.requests_of(name) == 2


@pytest.mark.slow
def test_three_processes_stay_below_the_bound_together(store: Proxy, url: str, prepared: Path, tmp_path: Path) -> None:
    files, root = shards_of(prepared), tmp_path / "cache"
    bound = small_files(prepared) + 4 * SHARD
    orders = [files * 2, files[::-1] * 2, (files[4:] + files[:4]) * 2]
    options = {"max_bytes": bound, "storage": storage_of(store.address), "RANGE": 10_000}
    most = 0
    with ExitStack() as stack:
        children = [stack.enter_context(child(url, root, order, **options)) for order in orders]
        for process in children:
            begin(process)
        while any(process.poll() is None for process in children):
            with FileLock(root / ".locks" / "room.lock"):
                most = max(most, held(root))
        assert [process.stdout.readline() for process in children] == ["done\n"] * 3
        assert [process.returncode for process in children] == [0] * 3
    assert 2 * SHARD < most <= bound


def test_the_cache_of_another_program_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "p", {"a": [400]})
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n# of another\n")
    (tmp_path / "cache" / "pack").write_bytes(b"x" * 5000)
    with pytest.raises(InputError, match="holds files that are no cache"):
        ShardCache(str(tmp_path / "p"), tmp_path / "cache", 9000)
    assert (tmp_path / "cache" / "pack").exists()


@contextmanager
def web_server(folder: Path, answers: type[QuietFiles] = QuietFiles) -> Iterator[str]:
    """The files of a folder on a server, by default one that knows no ranges, as host:port."""
    handler = functools.partial(answers, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        thread = threading.Thread(target=files.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{files.server_address[1]}"
        finally:
            files.shutdown()
            thread.join()


@pytest.fixture
def longer(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the prepared folder whose first shard goes on."""
    folder = shutil.copytree(prepared, tmp_path / "longer")
    with (folder / shards_of(prepared)[0][0]).open("ab") as file:
        file.write(b"x")
    return folder


@pytest.mark.parametrize("range_bytes", [15_000, SHARD // 2, PLENTY])
def test_a_file_that_goes_on_at_its_origin_is_told_without_a_request_more(
    opened, store: Proxy, server: str, url: str, prepared: Path, longer: Path, monkeypatch, range_bytes: int
) -> None:
    monkeypatch.setattr(remote_files, "RANGE", range_bytes)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{store.address}")
    assert verify_url(url) == []
    url = put_folder(server, "bucket", "longer", longer)
    (name, entry), (whole, _) = shards_of(prepared)[:2]
    (fault,) = verify_url(url)
    assert fault.startswith(f"{url}/{name}: has more than the {SHARD} bytes that it should have") and "\n" not in fault
    assert store.requests_of(f"longer/{name}") == store.requests_of(f"longer/{whole}") == -(-SHARD // range_bytes)
    assert store.bytes[f"/bucket/longer/{whole}"] == SHARD
    cache = opened(url, storage=storage_of(store.address))
    with pytest.raises(InputError, match=f"^{url}/{name}: has more than"):
        cache.fetch(name, entry)
    assert not cache.has(name, entry)


def test_a_folder_by_its_path_is_verified_like_one_on_a_store(prepared: Path, longer: Path) -> None:
    name, _ = shards_of(prepared)[0]
    assert verify_url(f"file://{prepared}") == []
    (fault,) = verify_url(f"file://{longer}")
    assert fault.startswith(f"file://{longer}/{name}: has more than")
    assert [line.split(":")[0] for line in verify_folder(longer)] == [f"{longer}/{name}"]


class WholeBeyondTheEnd(QuietFiles):
    """Answers a range that ends within a file with it, and one that reaches beyond its end with the file."""

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        within = last < len(data)
        answer = data[first : last + 1] if within else data
        self.send_response(206 if within else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def test_a_store_that_answers_a_range_beyond_the_end_with_the_whole_file_will_do(prepared, longer, monkeypatch) -> None:
    monkeypatch.setattr(remote_files, "RANGE", 15_000)
    with web_server(prepared, WholeBeyondTheEnd) as whole, web_server(longer, WholeBeyondTheEnd) as address:
        assert verify_url(f"http://{whole}") == []
        (fault,) = verify_url(f"http://{address}")
        assert f"has more than the {SHARD} bytes" in fault


@pytest.mark.parametrize("more", [b"", b"x" * 50_000])
def test_a_longer_file_is_told_of_a_web_server_that_knows_no_ranges(prepared, longer, monkeypatch, more) -> None:
    monkeypatch.setattr(remote_files, "RANGE", 15_000)
    name, _ = shards_of(prepared)[0]
    with (longer / name).open("ab") as file:
        file.write(more)
    with web_server(longer) as address, web_server(prepared) as whole:
        (fault,) = verify_url(f"http://{address}")
        assert f"{name}: has more than the {SHARD} bytes" in fault
        assert verify_url(f"http://{whole}") == []


@pytest.mark.parametrize("user", ["name:hush-hush", "name:hush%2Dhush", "hush-hush:", "name:a@hush-hush"])
@pytest.mark.parametrize("url", ["http://{user}@{address}", "s3://{user}@bucket/{cut}", "memory://{user}@x"])
def test_a_password_in_the_url_of_a_folder_is_never_shown(tmp_path, server, monkeypatch, caplog, user, url) -> None:
    """Not by what is there and no manifest, nor by what is not there, nor where a store takes it for a bucket."""
    caplog.set_level(logging.DEBUG, "thalweg.cache")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server}")
    (tmp_path / "manifest.json").write_text("no manifest")
    with web_server(tmp_path) as address:
        raw = url.format(user=user, address=address, cut="x" * 280)
        with pytest.raises(InputError, match=r"manifest\.json: ") as error:
            verify_url(raw)
    told = str(error.value) + caplog.text
    assert "hush" not in told and raw.split("@")[-1] in told
