"""Pages by the karma of their domain."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document

from corpora import contents, documents, page, prose, recipe, record, response, write_members
from data_pipeline.links import CollectLinks, DomainTable, domain_of, merge
from data_pipeline.prepare import prepare
from data_pipeline.steps import karma
from data_pipeline.steps.config import Karma
from test_links import submission


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("http://www.a.example.co.uk/x", "example.co.uk"),
        ("https://Example.COM:8080/", "example.com"),
        ("http://someone.github.io/x", "someone.github.io"),
        ("http://192.0.2.7/", None),
        ("http://[::1/", None),
        ("no address", None),
    ],
)
def test_domains(url: str, domain: str | None) -> None:
    assert domain_of(url) == domain


def table(folder: Path, *tasks: list[tuple[str, int]]) -> Path:
    paths = [folder / f"{rank}.npy" for rank in range(len(tasks))]
    for rank, task in enumerate(tasks):
        links = [Document(text=url, id="", metadata={"karma": score}) for url, score in task]
        list(CollectLinks(paths).run(iter(links), rank))
    merge(paths, folder / "all.npy")
    return folder / "all.domains.parquet"


def test_karma_is_summed_by_domain_whatever_task_it_comes_from(tmp_path: Path) -> None:
    first = [("http://www.a.org/1", 3), ("http://a.org/1", 4), ("http://b.org", 5), ("http://192.0.2.7", 9)]
    second = [("http://c.a.org/2", 30), ("http://d.org", 7)]
    found = DomainTable(table(tmp_path / "one", first, second))
    assert [found.karma(f"http://{each}/x") for each in ("a.org", "b.org", "x.d.org", "e.org", "192.0.2.7")] == [
        *(37, 5, 7, 0, 0)
    ]
    other = table(tmp_path / "two", second[::-1], first[::-1], [])
    assert other.read_bytes() == (tmp_path / "one" / "all.domains.parquet").read_bytes()


def test_share_kept_grows_with_karma_and_does_not_depend_on_order(tmp_path: Path) -> None:
    table(tmp_path, [("http://half.org", 50), ("http://much.org", 100), ("http://more.org", 10**6)])
    step = karma.make(Karma(kind="karma", links="all", least=100, share=0.2), tmp_path)
    kept: Counter[str] = Counter()
    reasons = set()
    for host in ("none.org", "half.org", "much.org", "more.org"):
        for number in range(2000):
            document = Document(text=f"{host} {number}", id="", metadata={"url": f"http://www.{host}/{number}"})
            reason = step(document, Counter())
            kept[host] += reason is None
            reasons.add(reason)
            assert step(document, Counter()) == reason
    assert reasons == {None, "little_karma"} and document.metadata["karma"] == 10**6
    assert kept["much.org"] == kept["more.org"] == 2000
    # Of 2000 throws of probability 0.2 and 0.6 each 5 standard deviations.
    assert abs(kept["none.org"] - 400) < 90 and abs(kept["half.org"] - 1200) < 110
    assert step(Document(text="x", id="", metadata={"url": None}), Counter()) in reasons


def test_in_a_recipe(tmp_path: Path) -> None:
    records = [
        record("response", response(page(prose(n))), n).replace(b"pages.example", b"s%d.org" % n) for n in range(9)
    ]
    path = write_members(tmp_path / "a.warc.gz", records)
    (tmp_path / "RS.jsonl").write_text("".join(submission(f"http://www.s{n}.org/else", 40) for n in range(5)))
    step = {"kind": "karma", "links": "reddit", "least": 40, "share": 0}
    sources: dict[str, Any] = {"crawl": {"kind": "warc", "paths": [path], "steps": [step]}}
    asked = recipe(sources, links={"reddit": {"kind": "reddit", "paths": [tmp_path / "RS.jsonl"]}})
    manifest = prepare(asked, tmp_path / "one", workers=1)
    assert manifest.sources["crawl"].dropped == {"little_karma": 4}
    kept = {origin["url"] for _, _, origin in documents(tmp_path / "one", manifest, "crawl")}
    assert kept == {f"https://s{n}.org/{n}" for n in range(5)}
    prepare(asked, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    with pytest.raises(ValueError, match="reddit is none of the recipe's links"):
        recipe(sources)
