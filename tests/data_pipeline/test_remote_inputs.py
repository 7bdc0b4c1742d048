"""Corpora that lie elsewhere: found with few requests, fetched by the task that reads them, and gone behind it."""

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import contents, pages_warc, prose, recipe
from data_pipeline import remote_files
from data_pipeline.config import Recipe
from data_pipeline.errors import InputError
from data_pipeline.inputs import files_of, find, recipe_hash
from data_pipeline.prepare import prepare
from data_pipeline.reading import ReadFiles
from object_store import CREDENTIALS, Fault, Proxy, proxy_for, put, put_folder, s3_server, storage_of, wait_for

NAMES = [f"segments/{n % 2}/warc/{n}.warc.gz" for n in range(5)]
READY = {"tokenizer": {"train": {"vocab_size": 300}}, "shard_tokens": 2000}


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Web pages as a crawl has them, with lists of them, and rows."""
    folder = tmp_path_factory.mktemp("crawl") / "crawl"
    for at, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pages_warc(folder / name, 10 + at)
    (folder / "lists").mkdir()
    lines = "".join(f"{name}\n" for name in reversed(NAMES))
    (folder / "lists/warc.paths.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "warc.paths").write_text(lines)
    (folder / "segments/robots.txt").write_text("of another kind")
    (folder / "segments/.hidden.warc.gz").write_bytes(b"not to be read")
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": prose(n)}) + "\n" for n in range(30)))
    return folder


@pytest.fixture(scope="module")
def s3(crawl: Path) -> Iterator[Proxy]:
    with s3_server() as upstream, proxy_for(upstream) as proxy, pytest.MonkeyPatch.context() as patch:
        put_folder(upstream, "bucket", "crawl", crawl)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setattr(remote_files, "FIRST_DELAY", 0.01)
        yield proxy


@pytest.fixture(scope="module")
def web(crawl: Path) -> Iterator[Proxy]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(crawl.parent)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with proxy_for(f"127.0.0.1:{server.server_address[1]}") as proxy:
            yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def forget(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"s3", "web"} & set(request.fixturenames):
        request.getfixturevalue(name).forget()


def asked(*paths: Any, storage: dict[str, Any] | None = None, **fields: Any) -> Recipe:
    rows = {"kind": "warc", "paths": list(paths), **fields}
    return recipe({"web": rows}, storage=storage or {}, **READY)


def on_s3(proxy: Proxy, *paths: str, **fields: Any) -> Recipe:
    return asked(*(f"s3://bucket/{path}" for path in paths), storage=storage_of(proxy.address), **fields)


def at_web(proxy: Proxy, *paths: str, **fields: Any) -> Recipe:
    if "base" in fields:
        fields["base"] = f"http://{proxy.address}/{fields['base']}"
    return asked(*(f"http://{proxy.address}/{path}" for path in paths), **fields)


def found(wanted: Recipe, work: Path) -> list[str]:
    return [name for _, name in find(wanted, work)[0].files]


FOLDERS = ["crawl", "crawl/segments/", "crawl/segments/*/warc/*.gz", "crawl/**/[0-9].warc.gz"]


@pytest.mark.parametrize("path", [*FOLDERS, "crawl/lists/*.paths.gz", "crawl/warc.paths"])
def test_a_store_gives_the_files_and_names_that_a_disk_gives(crawl: Path, s3: Proxy, tmp_path: Path, path: str) -> None:
    base = {"base": f"{crawl}/"} if "paths" in path else {}
    here = asked(crawl.parent / path, **base)
    there = on_s3(s3, path, **({"base": "s3://bucket/crawl"} if base else {}))
    assert found(here, tmp_path) == found(there, tmp_path) == [name.removeprefix("segments/") for name in sorted(NAMES)]
    assert found(asked(f"file://{crawl.parent}/{path}", **base), tmp_path) == found(here, tmp_path)
    if not base:
        hashes = {recipe_hash(each, find(each, tmp_path)) for each in (here, there, asked(f"file://{crawl}"))}
        assert len(hashes) == 1
    assert not any(".warc.gz" in path for path in s3.requests)


@pytest.mark.parametrize("path", ["crawl/", "crawl/segments/*/warc/*.gz", "crawl/lists/warc.paths.gz"])
def test_a_web_server_is_asked_for_lists_alone(web: Proxy, tmp_path: Path, path: str) -> None:
    wanted = at_web(web, path, **({"base": "crawl/"} if "paths" in path else {}))
    assert found(wanted, tmp_path) == [name.removeprefix("segments/") for name in sorted(NAMES)]
    assert not any(path.endswith(".warc.gz") for path in web.requests)


def test_of_a_crawl_a_sample_is_taken_evenly_and_keeps_its_names(crawl: Path, web: Proxy, tmp_path: Path) -> None:
    whole = found(asked(crawl), tmp_path)
    for count, at in ((1, [0]), (2, [0, 2]), (3, [0, 1, 3]), (5, range(5)), (9, range(5))):
        wanted = at_web(web, "crawl/lists/warc.paths.gz", base="crawl", files=count)
        assert found(wanted, tmp_path) == [whole[each] for each in at]


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "a b", "a-"]), min_size=1, max_size=4).map("/".join),
        min_size=1,
        max_size=9,
        unique=True,
    )
)
def test_names_are_what_is_left_of_urls_behind_what_they_share(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("list")
    (folder / "of.paths").write_text("\n".join([*paths, paths[0]]))
    [one] = find(asked(folder / "of.paths", base="s3://bucket/top"), folder)
    names = [name for _, name in one.files]
    [before] = {str(file).removesuffix(name) for file, name in one.files}
    assert sorted(f"{before}{name}" for name in names) == sorted(f"s3://bucket/top/{path}" for path in paths)
    heads = {name.partition("/")[0] for name in names}
    assert len(heads) > 1 or any("/" not in name for name in names)


def test_faults_of_a_store_change_nothing(
    crawl: Path, s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_files, "RANGE", 1000)
    prepare(asked(crawl), tmp_path / "here", 1)
    s3.faults += [
        Fault("status", "/0.warc.gz", times=2),
        Fault("status", "/3.warc.gz", after=2),
        Fault("cut", "/2.warc.gz"),
    ]
    prepare(on_s3(s3, "crawl/"), tmp_path / "there", 1, keep_work=True)
    assert not any(fault.times for fault in s3.faults)
    ranges = (crawl / NAMES[3]).stat().st_size // 1000 + 1
    assert s3.requests_of("/3.warc.gz") == ranges + 1  # what came before the fault is not fetched again
    assert not [path for path in tmp_path.glob("there/.work/fetched/**/*") if path.is_file()]
    prepare(on_s3(s3, "crawl/"), tmp_path / "there", 1)
    (tmp_path / "there/.work").rename(tmp_path / "work")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    secrets = [CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode(), s3.address.encode()]
    assert not [each for each in contents(tmp_path).values() if any(secret in each for secret in secrets)]


@pytest.mark.slow
def test_a_list_by_http_makes_the_same_shards_with_two_workers(crawl: Path, web: Proxy, tmp_path: Path) -> None:
    sources = {"rows": {"kind": "jsonl", "paths": [f"http://{web.address}/crawl/rows.jsonl"]}}
    pages = {"kind": "warc", "paths": [crawl / "lists/warc.paths.gz"], "base": f"http://{web.address}/crawl"}
    prepare(recipe({"web": pages, **sources}, **READY), tmp_path / "there", 2)
    local = {"web": {"kind": "warc", "paths": [crawl]}, "rows": {"kind": "jsonl", "paths": [crawl / "rows.jsonl"]}}
    prepare(recipe(local, **READY), tmp_path / "here", 1)
    hashes = [json.loads((tmp_path / name / "manifest.json").read_text())["recipe_hash"] for name in ("here", "there")]
    assert hashes[0] != hashes[1]  # which knows the sizes of files that are here
    there = contents(tmp_path / "there")
    named = {name: data.replace(hashes[1].encode(), hashes[0].encode()) for name, data in there.items()}
    assert named == contents(tmp_path / "here")


def test_names_hold_no_user_and_no_signature(tmp_path: Path) -> None:
    lines = ["http://bob:PASSWORD@a.org/x/1.warc.gz", "http://b.org/x/2.warc.gz?X-Amz-Signature=SECRET"]
    (tmp_path / "warc.paths").write_text("\n".join(lines))
    [found] = find(recipe({"web": {"kind": "warc", "paths": [tmp_path / "warc.paths"]}}), tmp_path)
    assert [name for _, name in found.files] == ["b.org/x/2.warc.gz", "a.org/x/1.warc.gz"]
    assert {file.url for file, _ in found.files} == set(lines)


def test_what_is_not_there_is_named_before_anything_starts(s3: Proxy, web: Proxy, tmp_path: Path) -> None:
    urls = [f"http://{web.address}/crawl/no.warc.gz", f"http://{web.address}/none/", f"http://{web.address}/crawl/*.x"]
    with pytest.raises(InputError) as caught:
        prepare(asked(*urls), tmp_path / "out", 1)
    assert str(caught.value) == (
        "; ".join(f"sources.web.paths: {url}" for url in urls)
        + ": no such file, or no file matches; mend the path or fetch the corpus"
    )
    for path in ("no.warc.gz", "none/", "crawl/none*"):
        with pytest.raises(InputError, match=r"^sources\.web\.paths: s3://bucket/.*: no such file"):
            prepare(on_s3(s3, path), tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_no_access_and_no_list_are_said_with_the_key(s3: Proxy, web: Proxy, tmp_path: Path) -> None:
    s3.faults.append(Fault("status", "bucket", times=99, status=403))
    with pytest.raises(InputError, match=r"^sources\.web\.paths: s3://bucket/crawl/\*: access was denied"):
        find(on_s3(s3, "crawl/*"), tmp_path)
    web.faults.append(Fault("status", "rows", times=99, status=503))
    with pytest.raises(InputError, match=r"^sources\.web\.paths: http.*rows\.jsonl: cannot be looked for, 5 attempts"):
        find(at_web(web, "crawl/rows.jsonl"), tmp_path)
    with pytest.raises(InputError, match=r"sources\.web\.paths: .*no\.paths\.gz: is no list of files"):
        (tmp_path / "no.paths.gz").write_bytes(b"<html>")
        find(asked(tmp_path / "no.paths.gz"), tmp_path)


def test_a_file_that_a_list_names_in_vain_is_told_by_its_task(crawl: Path, web: Proxy, tmp_path: Path) -> None:
    (tmp_path / "of.paths").write_text(f"{NAMES[0]}\nsegments/gone.warc.gz\n")
    wanted = asked(tmp_path / "of.paths", base=f"http://{web.address}/crawl")
    url = f"http://{web.address}/crawl/segments/gone.warc.gz"
    with pytest.raises(InputError, match=f"^{url}: is missing there; mend the list or the path, or leave it out$"):
        prepare(wanted, tmp_path / "out", 1)
    (tmp_path / "of.paths").write_text(f"{NAMES[0]}\nrows.jsonl\n")
    (tmp_path / "local.paths").write_text(f"{NAMES[0]}\ngone.warc.gz\n")
    with pytest.raises(InputError, match=rf"{crawl}/gone\.warc\.gz \(in {tmp_path}/local\.paths\): no such file"):
        prepare(asked(tmp_path / "local.paths", base=crawl), tmp_path / "other", 1)


def test_damage_is_told_by_the_url_and_leaves_nothing(crawl: Path, s3: Proxy, tmp_path: Path) -> None:
    data = (crawl / NAMES[0]).read_bytes()[:-20]
    put(s3.upstream, "/bucket/damaged/0.warc.gz", data)
    with pytest.raises(InputError, match=rf"^s3://bucket/damaged/0\.warc\.gz: breaks off at byte {len(data):,}"):
        prepare(on_s3(s3, "damaged/"), tmp_path / "out", 1)
    assert not list((tmp_path / "out").rglob("*.gz"))
    put(s3.upstream, "/bucket/rows/0.jsonl", b'{"words": "none"}\n')
    source = {"rows": {"kind": "jsonl", "paths": ["s3://bucket/rows/"], "storage": storage_of(s3.address)}}
    with pytest.raises(InputError, match=r"s3://bucket/rows/0\.jsonl"):
        prepare(recipe(source, **READY), tmp_path / "rows", 1)


def test_a_file_that_was_replaced_by_another_of_its_size_is_read_again(s3: Proxy, tmp_path: Path) -> None:
    def keys() -> tuple[Any, str]:
        put_in = find(on_s3(s3, "books/"), tmp_path)
        return files_of(put_in[0].tasks()[0]), recipe_hash(on_s3(s3, "books/"), put_in)

    put(s3.upstream, "/bucket/books/0.warc.gz", b"one")
    before = keys()
    put(s3.upstream, "/bucket/books/0.warc.gz", b"two")
    assert keys()[0] != before[0] and keys()[1] == before[1] and keys() == keys()


PROGRAM = """
import json
import sys
from pathlib import Path
from data_pipeline.config import Recipe
from data_pipeline.prepare import prepare
prepare(Recipe.model_validate(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]), 1)
"""


@pytest.mark.slow
def test_what_a_killed_task_left_is_gone_after_the_next(crawl: Path, s3: Proxy, tmp_path: Path) -> None:
    wanted, out = on_s3(s3, "crawl/"), tmp_path / "out"
    (tmp_path / "recipe.json").write_text(wanted.model_dump_json())
    s3.faults.append(Fault("stall", "/3.warc.gz"))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "recipe.json"), str(out)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as process:
        wait_for(lambda: not s3.faults[0].times and list(out.glob(".work/fetched/web/*/3.warc.gz")))
        process.send_signal(signal.SIGKILL)
    left = list(out.glob(".work/fetched/web/*/3.warc.gz"))
    assert len(left) == 1 and left[0].stat().st_size == 0
    left[0].write_bytes(b"half of another file")
    done = {path: path.stat().st_mtime_ns for path in out.glob(".work/documents/web/*.zst")}
    prepare(wanted, out, 1, keep_work=True)
    assert done and all(path.stat().st_mtime_ns == time for path, time in done.items())
    assert not [path for path in out.glob(".work/fetched/**/*") if path.is_file()]
    (out / ".work").rename(tmp_path / "work")
    prepare(asked(crawl), tmp_path / "straight", 1)
    assert contents(out) == contents(tmp_path / "straight")


def test_a_disk_that_takes_no_more_is_named_at_once(s3: Proxy, tmp_path: Path) -> None:
    [task, *_] = find(on_s3(s3, "crawl/"), tmp_path)[0].tasks()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(InputError, match=r"0\.warc\.gz: cannot be written \(File too large\); make room"):
            list(ReadFiles([task], "error").run())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert s3.requests_of("/0.warc.gz") == 1


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"base is for lists, whose names end in \.paths or \.paths\.gz; leave it out"):
        asked("s3://bucket/crawl/", base="s3://bucket")
    with pytest.raises(ValueError, match="holds a user or password"):
        asked("s3://me:secret@bucket/crawl/")
    with pytest.raises(ValueError, match="files is for paths"):
        recipe({"web": {"kind": "warc", "sample": "package_descriptions", "files": 2}})
