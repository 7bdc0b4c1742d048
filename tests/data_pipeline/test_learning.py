"""Training a filter on examples that many tasks collect."""

from pathlib import Path

import orjson
import pytest
import zstandard
from datatrove.data import Document
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.engines.local import Local
from data_pipeline.errors import InputError
from data_pipeline.executor import Stage
from data_pipeline.learning import CollectExamples, FitFilter, even_shares, evenly_spaced
from data_pipeline.quality import CHARACTERS, QualityFilter, draw
from data_pipeline.quality_config import FilterConfig
from filters import texts

CONFIG = FilterConfig(positives=["books", "web"], negatives=["crawl"], documents=200, features=2**12)


@given(st.integers(0, 60), st.integers(1, 40))
def test_tasks_of_a_source_are_sampled_evenly(count: int, most: int) -> None:
    chosen = evenly_spaced(range(count), most)
    assert len(chosen) == min(count, most)
    part = count / max(1, len(chosen))
    assert all(at * part - 0.5 < each < (at + 1) * part for at, each in enumerate(chosen))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 90))
def test_shares_are_as_equal_as_they_go(available: list[int], total: int) -> None:
    shares = even_shares(available, total)
    assert sum(shares) == min(total, sum(available))
    for share, there in zip(shares, available, strict=True):
        assert share == there or (share < there and share >= max(shares) - 1)


def collected(path: Path, given: list[str], most: int) -> list[str]:
    documents = [Document(text, id=f"a#{n}", metadata={"file": "a", "offset": n}) for n, text in enumerate(given)]
    list(CollectExamples([path], most).run(documents))
    with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as file:
        examples = [orjson.loads(line) for line in file.read().splitlines()]
    assert all(given[int(each["id"][2:])].startswith(each["text"]) and each["file"] == "a" for each in examples)
    return [each["text"] for each in examples]


def test_examples_are_those_of_the_lowest_hash_each_once(tmp_path: Path) -> None:
    given = texts("good", 50) * 2 + ["long " * CHARACTERS]
    whole = sorted({text[:CHARACTERS] for text in given}, key=lambda text: draw(text, "example"))
    for most in (1, 7, 50, 51, 90):
        path = tmp_path / f"{most}.jsonl.zst"
        assert collected(path, given, most) == collected(path, given[::-1], most) == whole[:most]
    assert not list(tmp_path.glob(".*"))


def failing() -> object:
    yield Document("one", id="1")
    raise OSError("gone")


def test_a_task_that_fails_leaves_no_examples(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        list(CollectExamples([tmp_path / "a.jsonl.zst"], 5).run(failing()))
    assert not list(tmp_path.iterdir())


SOURCES = [
    ("books", "good", 30, 0),
    ("web", "good", 200, 1),
    ("web", "good", 201, 1),  # all of the file before, and one more
    ("crawl", "bad", 150, 2),
    ("crawl", "bad", 151, 3),
]


def examples(folder: Path, order: list[int]) -> dict[str, list[Path]]:
    paths = [folder / f"{rank}.jsonl.zst" for rank in range(len(SOURCES))]
    for rank in order:
        _, kind, count, seed = SOURCES[rank]
        documents = [Document(text, id=str(n)) for n, text in enumerate(texts(kind, count, seed))]
        list(CollectExamples(paths, 200).run(documents[:: 1 - 2 * (rank % 2)], rank))
    by_source: dict[str, list[Path]] = {}
    for (source, *_), path in zip(SOURCES, paths, strict=True):
        by_source.setdefault(source, []).append(path)
    return by_source


def test_a_filter_is_the_same_in_whatever_order_its_examples_came(tmp_path: Path) -> None:
    for name, order in (("one", [0, 1, 2, 3, 4]), ("two", [4, 2, 0, 3, 1])):
        found = examples(tmp_path / name / "examples", order)
        negatives = {"crawl": found.pop("crawl")}
        step = FitFilter("good", CONFIG, found, negatives, tmp_path / name / "filters" / "good.npz")
        stage = Stage(tmp_path / name / "fit", ["key"])
        stage.run([step], Local(1))
        assert stage.counts(0) == {"positives": 200, "negatives": 200}
    names = ["good.npz", "good.report.json"]
    made = [[(tmp_path / each / "filters" / name).read_bytes() for name in names] for each in ("one", "two")]
    assert made[0] == made[1]
    assert sorted(path.name for path in (tmp_path / "one" / "filters").iterdir()) == names
    report = orjson.loads(made[0][1])
    assert report["sources"] == {"positives": {"books": 30, "web": 170}, "negatives": {"crawl": 200}}
    filter_ = QualityFilter.load(tmp_path / "one" / "filters" / "good.npz")
    assert filter_.alpha == 9 and orjson.loads(orjson.dumps(filter_.report)) == report
    scores = [filter_.score(text) for kind in ("good", "bad") for text in texts(kind, 50, seed=99)]
    assert sum(score > 0.5 for score in scores[:50]) > 40 > 10 > sum(score > 0.5 for score in scores[50:])


def test_too_few_examples_are_refused_with_the_filters_name(tmp_path: Path) -> None:
    found = examples(tmp_path, [0, 1, 2, 3, 4])
    step = FitFilter("good", CONFIG, {"books": found["books"]}, {"crawl": found["crawl"]}, tmp_path / "good.npz")
    with pytest.raises(InputError, match=r"^filters\.good\.positives: 30 documents are too few"):
        list(step.run())
    assert not (tmp_path / "good.npz").exists()
