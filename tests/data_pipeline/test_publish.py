"""Prepared folders that are uploaded: whole or invisible, and the same as here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from corpora import contents, prose, recipe
from data_pipeline import publish
from data_pipeline.config import DataConfig, Recipe
from data_pipeline.errors import InputError
from data_pipeline.manifest import Manifest
from data_pipeline.opening import Prepared
from data_pipeline.prepare import prepare
from data_pipeline.publish import PARTIAL, prepare_at_url
from data_pipeline.remote_files import RemoteFolder
from data_pipeline.verifying import verify_url
from launcher.prepare import prepare_at
from object_store import CREDENTIALS, put, s3_server, storage_of


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("books")
    for n in range(12):
        (folder / f"{n:02d}.txt").write_text(prose(n, 200))
    return folder


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        put(address, "/bucket")
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{address}"}.items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()  # the environment is no part of its key
        yield address
        S3FileSystem.clear_instance_cache()


def asked(books: Path, shard_tokens: int = 300, **fields: Any) -> Recipe:
    sources = {"books": {"kind": "books", "paths": [books]}}
    return recipe(sources, tokenizer={"train": {"vocab_size": 300}}, shard_tokens=shard_tokens, **fields)


def published(wanted: Recipe, url: str, work: Path, update: bool = False) -> Manifest:
    return prepare_at_url(wanted, url, work, lambda folder: prepare(wanted, folder, 1, update=update), update)


def test_what_is_on_the_store_is_what_is_here_and_a_run_reads_it(books: Path, store: str, tmp_path: Path) -> None:
    url, work = "s3://bucket/prepared", tmp_path / "work"
    wanted = asked(books, storage=storage_of(store))
    manifest = published(wanted, url, work)
    there = RemoteFolder(url, None, publish.threading.Event())
    assert {name: there.read(name) for name in there.files()} == contents(work)
    assert {"prepare.json", "prepare.html", "manifest.json"} < set(contents(work)) and PARTIAL not in there.files()
    assert verify_url(url) == []
    data = DataConfig(path=url, cache={"path": tmp_path / "cache", "size": 10**8}, alpha=1, storage=storage_of(store))
    opened = Prepared.open(data)
    assert opened is not None and opened.manifest == manifest == Manifest.load(work)[0]
    shard = next(manifest.shards())
    assert opened.cache is not None
    fetched = opened.cache.fetch(f"{shard.name}.tokens", shard.files[".tokens"])
    assert fetched.read_bytes() == (work / f"{shard.name}.tokens").read_bytes()
    opened.cache.close()


def never(*_: Any) -> Any:
    raise AssertionError("has nothing to do")


def test_a_second_run_does_nothing_and_another_recipe_takes_an_update(
    books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there/books/train").mkdir(parents=True)
    (tmp_path / "there/books/train/README").write_text("of somebody else")
    url, work = f"file://{tmp_path}/there", tmp_path / "work"
    manifest = published(asked(books), url, work)
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "write", never)
        assert prepare_at_url(asked(books), url, tmp_path / "no folder", never, False) == manifest
        with pytest.raises(InputError, match=rf"^{url}: was prepared by another recipe.*anew with --update$"):
            prepare_at_url(asked(books, 3000), url, work, never, False)
    published(asked(books, 3000), url, work, update=True)
    (tmp_path / "there/books/train/README").rename(tmp_path / "README")
    assert contents(tmp_path / "there") == contents(work)


def test_an_upload_that_ends_early_shows_nothing_and_is_gone_on_with(
    books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the folder of another recipe was there before, whose files have the same names, and some the size."""
    url, there, work = f"file://{tmp_path}/there", tmp_path / "there", tmp_path / "work"
    published(asked(books, validation_fraction=0.3), url, tmp_path / "other")
    wanted, write = asked(books, validation_fraction=0.31), RemoteFolder.write
    prepare(wanted, work, 1)
    number = len(contents(work)) + 1
    monkeypatch.setattr(publish, "AT_ONCE", 1)
    written: list[str] = []

    def until(at: int) -> Any:
        def failing(remote: RemoteFolder, name: str, path: Path) -> None:
            if len(written) == at:
                raise InputError("the machine was lost")
            written.append(name)
            write(remote, name, path)

        return failing

    for at in (0, 1, 4, number - 1):
        monkeypatch.setattr(RemoteFolder, "write", until(at))
        with pytest.raises(InputError, match="was lost"):
            published(wanted, url, work, update=True)
        assert not (there / "manifest.json").exists()
    monkeypatch.setattr(RemoteFolder, "write", until(number))
    published(wanted, url, work)
    assert written[-1] == "manifest.json" and len(set(written)) == number
    assert contents(there) == contents(work)


def test_where_it_is_prepared_must_be_said(books: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--out s3://bucket/x: is a URL; name a folder of this machine with --work"):
        prepare_at(asked(books), "s3://bucket/x", None, never, False)
    with pytest.raises(InputError, match=r"^--work: goes with an --out that is a URL"):
        prepare_at(asked(books), str(tmp_path), tmp_path, never, False)
