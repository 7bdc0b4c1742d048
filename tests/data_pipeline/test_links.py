"""Lists of links, and the pages that they name."""

import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from corpora import contents, documents, page, prose, recipe, record, response, write_members
from data_pipeline.errors import InputError
from data_pipeline.links import key_of
from data_pipeline.prepare import prepare
from data_pipeline.readers import warc
from data_pipeline.verifying import verify_folder


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a/b?id=3",
        "http://www.Example.com:80/a/b?utm_source=x&id=3#part",
        " https://EXAMPLE.com/a/b?id=3 ",
    ],
)
def test_one_address_however_it_is_written(url: str) -> None:
    assert key_of(url) == key_of("http://example.com/a/b?id=3")


def test_other_addresses_are_others_and_some_are_none() -> None:
    urls = ["http://example.com", "http://example.com/a", "http://example.com/A", "http://sub.example.com/a"]
    assert len({key_of(url) for url in urls}) == 4 and None not in {key_of(url) for url in urls}
    for none in ("", "mailto:a@b.de", "/r/science", "ftp://example.com/a", "http://[::1/"):
        assert key_of(none) is None


def submission(url: str, score: int | None = 3, **more: Any) -> str:
    return json.dumps({"id": "x", "url": url, "score": score, "is_self": False, "over_18": False} | more) + "\n"


SUBMISSIONS = [
    *(submission(f"https://www.site{n}.org/page/{n}/", 3 + n) for n in range(5)),
    submission("http://site1.org/page/1", 90),
    submission("http://little.org/a", 2),
    submission("http://deleted.org/a", None),
    submission("https://en.wikipedia.org/wiki/Links"),
    submission("https://reddit.com/r/x", is_self=True),
    submission("http://adults.org/a", over_18=True),
    submission("http://[::1/"),
    "{broken\n",
]
DROPPED = {
    **{"adult": 1, "broken_row": 1, "left_out": 1, "little_karma": 1, "no_address": 1, "no_link": 1, "no_score": 1}
}


def crawl(path: Path, pages: int) -> Path:
    records = []
    for n in range(pages):
        whole = record("response", response(page(prose(n))), n)
        records.append(whole.replace(b"https://pages.example/", f"http://site{n}.org/page/".encode()))
    return write_members(path, records)


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Any]:
    crawl(tmp_path / "crawl.warc.gz", 12)
    (tmp_path / "RS_2011-01.xz").write_bytes(lzma.compress("".join(SUBMISSIONS).encode()))
    whole = {"kind": "warc", "paths": [tmp_path / "crawl.warc.gz"]}
    linked = {"kind": "linked", "links": "reddit"}
    return {
        "webtext": whole | {"steps": [linked]},
        "crawl": whole,
        "rest": whole | {"steps": [linked | {"keep": "others"}]},
    }


def with_links(tmp_path: Path, sources: dict[str, Any], **options: Any) -> Any:
    return recipe(sources, links={"reddit": {"kind": "reddit", "paths": [tmp_path]} | options})


def test_linked_pages_are_a_source_of_their_own(tmp_path: Path, sources: dict[str, Any]) -> None:
    manifest = prepare(with_links(tmp_path, sources, paths=[tmp_path / "RS_2011-01.xz"]), tmp_path / "one", workers=1)
    entry = manifest.links["reddit"]
    assert (entry.read, entry.addresses, entry.dropped) == (len(SUBMISSIONS), 5, DROPPED)
    assert manifest.sources["crawl"].documents == 12
    assert manifest.sources["webtext"].dropped == {"not_linked": 7}
    assert manifest.sources["rest"].dropped == {"linked": 5} and manifest.sources["rest"].documents == 7
    urls = {origin["url"] for _, _, origin in documents(tmp_path / "one", manifest, "webtext")}
    assert urls == {f"http://site{n}.org/page/{n}" for n in range(5)}
    prepare(with_links(tmp_path, sources, paths=[tmp_path / "RS_2011-01.xz"]), tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert verify_folder(tmp_path / "one") == []
    table = pq.read_table(tmp_path / "one" / "reddit.domains.parquet").sort_by("domain").to_pylist()
    assert [row["domain"] for row in table] == [f"site{n}.org" for n in range(5)]
    largest = json.loads((tmp_path / "one" / "prepare.json").read_text())["domains"]["reddit"]
    assert sorted(map(tuple, largest)) == [(row["domain"], row["karma"], row["submissions"]) for row in table]
    assert [karma for _, karma, _ in largest] == sorted((row["karma"] for row in table), reverse=True)
    assert "site4.org" in (tmp_path / "one" / "prepare.html").read_text()
    (tmp_path / "one" / "reddit.domains.parquet").write_bytes(b"something else")
    assert any("reddit.domains.parquet" in fault for fault in verify_folder(tmp_path / "one"))
    prepare(recipe({"crawl": sources["crawl"]}), tmp_path / "one", update=True)
    assert not (tmp_path / "one" / "reddit.domains.parquet").exists()


def test_pages_that_no_link_names_are_not_looked_into(
    tmp_path: Path, sources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    monkeypatch.setattr(warc, "_by_resiliparse", lambda html: looked.append(html) or "A text.")
    dump = [tmp_path / "RS_2011-01.xz"]
    manifest = prepare(with_links(tmp_path, {"webtext": sources["webtext"]}, paths=dump), tmp_path / "one", workers=1)
    assert manifest.sources["webtext"].dropped == {"not_linked": 7} and len(looked) == 5


def test_a_list_of_another_karma_is_another_recipe_and_an_empty_one_is_refused(
    tmp_path: Path, sources: dict[str, Any]
) -> None:
    dump = [tmp_path / "RS_2011-01.xz"]
    few = prepare(with_links(tmp_path, sources, paths=dump, karma=7), tmp_path / "few")
    assert few.links["reddit"].addresses == 2 and few.sources["webtext"].documents == 2
    with pytest.raises(InputError, match="another recipe"):
        prepare(with_links(tmp_path, sources, paths=dump), tmp_path / "few")
    with pytest.raises(InputError, match=r"links.reddit: no link is left"):
        prepare(with_links(tmp_path, sources, paths=dump, karma=1000), tmp_path / "none")
    with pytest.raises(ValueError, match="reddit is none of the recipe's links"):
        recipe(sources)
    with pytest.raises(InputError, match=r"^links.reddit.paths: .*nothing: no such file"):
        prepare(with_links(tmp_path, sources, paths=[tmp_path / "nothing"]), tmp_path / "none")


def test_a_dump_that_changed_while_preparing_was_stopped_is_read_again(
    tmp_path: Path, sources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was read by the old list as well; what no list is for stays."""
    weighted = [{"kind": "karma", "links": "reddit", "least": 1, "share": 0}]
    sources = sources | {"weighted": sources["crawl"] | {"steps": weighted}}
    asked = with_links(tmp_path, sources, paths=[tmp_path / "RS_2011-01.xz"])
    with monkeypatch.context() as stopped:
        stopped.setattr("data_pipeline.prepare._Preparation._deduplicate", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(asked, tmp_path / "out", workers=1)
    more = [*SUBMISSIONS, submission("http://site9.org/page/9")]
    (tmp_path / "RS_2011-01.xz").write_bytes(lzma.compress("".join(more).encode()))
    read = tmp_path / "out" / ".work" / "documents" / "crawl"
    before = {path: path.stat().st_mtime_ns for path in read.iterdir()}
    with monkeypatch.context() as stopped:
        stopped.setattr("data_pipeline.prepare._Preparation._deduplicate", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(asked, tmp_path / "out", workers=1)
    assert {path: path.stat().st_mtime_ns for path in read.iterdir()} == before
    manifest = prepare(asked, tmp_path / "out", workers=1)
    assert manifest.links["reddit"].addresses == 6 and manifest.sources["webtext"].documents == 6
    assert manifest.sources["weighted"].documents == 6
    fresh = tmp_path / "fresh"
    prepare(asked, fresh, workers=1)
    assert contents(tmp_path / "out") == contents(fresh)
