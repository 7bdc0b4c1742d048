"""Deduplication over all its stages: what is dropped, for what, in favour of what."""

import json
import random
from collections import Counter
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import contents
from data_pipeline import deduplicate, deduplicate_files, deduplicate_match
from data_pipeline.config import FileSource, TableSource
from data_pipeline.deduplicate import Deduplication, DropDuplicates, Verdict, verdicts
from data_pipeline.deduplicate_config import Deduplicate
from data_pipeline.deduplicate_files import SignatureFiles
from data_pipeline.deduplicate_match import pairs, unite
from data_pipeline.engines.local import Local
from data_pipeline.errors import InputError
from data_pipeline.executor import key_of
from data_pipeline.minhash import Signature, fold, shingles, sign
from data_pipeline.reading import ReadFiles, Task
from planted import alike, words

Corpora = list[tuple[str, list[str]]]
"""Source and texts of each reading task."""


def ran(folder: Path, tasks: list[Task], workers: int = 1, **config: object) -> Deduplication:
    made = Deduplication(Deduplicate.model_validate(config), folder, [task.source for task in tasks])
    keys = [key_of([(name, path.stat().st_size) for path, name in task.files]) for task in tasks]
    made.find([ReadFiles(tasks, "keep")], keys, Local(workers))
    return made


def tasks_of(folder: Path, corpora: Corpora) -> list[Task]:
    """Each task a file of JSON lines, whose documents have the ids RANK.INDEX."""
    folder.mkdir(exist_ok=True)
    source = TableSource.model_validate({"kind": "jsonl", "paths": [folder], "id_key": "id"})
    tasks = []
    for rank, (name, texts) in enumerate(corpora):
        path = folder / f"{rank}.jsonl"
        rows = [json.dumps({"id": f"{rank}.{index}", "text": text}) + "\n" for index, text in enumerate(texts)]
        path.write_text("".join(rows))
        tasks.append(Task(name, source, ((path, path.name),)))
    return tasks


def told(made: Deduplication) -> list[list[Verdict]]:
    return [list(verdicts(path)) for path in made.verdicts]


def drops(made: Deduplication) -> dict[str, tuple[str, str]]:
    """Reason and twin of each dropped document, by their ids."""
    return {
        f"{rank}.{verdict.index}": (verdict.reason, f"{verdict.twin_rank}.{verdict.twin_index}")
        for rank, those in enumerate(told(made))
        for verdict in those
    }


def prose(seed: int, count: int = 60) -> str:
    return " ".join(words(count, random.Random(seed)))


def test_planted_near_duplicates_are_dropped_at_the_rate_of_theory(tmp_path: Path) -> None:
    """At each similarity within four standard deviations of the binomial; nothing else is dropped."""
    rng, count = random.Random(1), 400
    levels = [similarity / 20 for similarity in range(10, 20)]
    planted = [alike(similarity, 80, rng) for similarity in levels for _ in range(count)]
    corpora = [("a", [one for one, _ in planted]), ("b", [two for _, two in planted])]
    found = drops(ran(tmp_path / "out", tasks_of(tmp_path / "in", corpora)))
    assert found == {f"1.{n}": ("fuzzy_duplicate", f"0.{n}") for n in range(len(planted)) if f"1.{n}" in found}
    for at, similarity in enumerate(levels):
        share = sum(f"1.{n}" in found for n in range(at * count, (at + 1) * count)) / count
        theory = 1 - (1 - similarity**8) ** 14
        assert abs(share - theory) <= 4 * sqrt(theory * (1 - theory) / count) + 1 / count, similarity


def test_the_document_of_the_higher_source_stays_then_the_earlier_one(tmp_path: Path) -> None:
    same, near = prose(1), alike(0.95, 80, random.Random(4))
    corpora = [("crawl", [same, near[0]]), ("web", [prose(2), same]), ("books", [near[1]]), ("crawl", [same])]
    tasks = tasks_of(tmp_path / "in", corpora)
    by_recipe = drops(ran(tmp_path / "recipe", tasks))
    assert by_recipe == {
        "1.1": ("exact_duplicate", "0.0"),
        "3.0": ("exact_duplicate", "0.0"),
        "2.0": ("fuzzy_duplicate", "0.1"),
    }
    made = ran(tmp_path / "named", tasks, precedence=["books", "web"])
    assert drops(made) == {
        "0.0": ("exact_duplicate", "1.1"),
        "3.0": ("exact_duplicate", "1.1"),
        "0.1": ("fuzzy_duplicate", "2.0"),
    }
    assert told(made)[0][1] == Verdict(1, "fuzzy_duplicate", 2, 0, "books", "2.jsonl", "2.0")
    with pytest.raises(InputError, match=r"deduplicate.precedence: boks is none of the recipe's sources"):
        Deduplication(Deduplicate(precedence=["boks"]), tmp_path, ["books"])


def test_exact_duplicates_go_first_and_chains_end_at_what_stays(tmp_path: Path) -> None:
    """Each document of the chain is like the next one, the first and the last are not alike."""
    text = words(400, random.Random(4))
    chain = [" ".join(text[at : at + 240]) for at in range(0, 98, 14)]
    corpora = [("a", [chain[3].upper(), chain[6]]), ("b", [f" {chain[6]}\n", prose(3)]), ("c", chain[:6])]
    found = drops(ran(tmp_path / "out", tasks_of(tmp_path / "in", corpora), precedence=["c"]))
    assert found.pop("1.0") == ("exact_duplicate", "0.1")
    assert found == dict.fromkeys(["0.0", "0.1", *(f"2.{n}" for n in range(1, 6))], ("fuzzy_duplicate", "2.0"))
    ends = tasks_of(tmp_path / "ends", [("a", [chain[0], chain[6]])])
    assert drops(ran(tmp_path / "two", ends)) == {}


def test_two_texts_of_one_half_of_a_hash_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def weak(text: str, config: Deduplicate) -> Signature:
        made = sign(text, config)
        return made._replace(text=(7, made.text[1]))

    monkeypatch.setattr(deduplicate_files, "sign", weak)
    tasks = tasks_of(tmp_path / "in", [("a", [prose(1), prose(2), prose(1)]), ("b", [prose(3), prose(2)])])
    found = drops(ran(tmp_path / "out", tasks))
    assert found == {"0.2": ("exact_duplicate", "0.0"), "1.1": ("exact_duplicate", "0.1")}


def test_a_threshold_asks_more_than_a_shared_band(tmp_path: Path) -> None:
    """With 10 hashes, as GPT-3 had: nearly all pairs share one, and half of them 7 where the similarity is 0.7."""
    rng = random.Random(5)
    near, far = [alike(0.95, 80, rng) for _ in range(100)], [alike(0.3, 80, rng) for _ in range(100)]
    corpora = [("a", [one for one, _ in near + far]), ("b", [two for _, two in near + far])]
    tasks, hashes = tasks_of(tmp_path / "in", corpora), {"bands": 10, "rows": 1}
    every, some = (drops(ran(tmp_path / f"{least}", tasks, **hashes, threshold=least)) for least in (None, 0.7))
    assert len(every) > 190 and some.items() <= every.items()
    assert sum(int(number[2:]) < 100 for number in some) > 95 and sum(int(number[2:]) >= 100 for number in some) < 5
    config = Deduplicate(**hashes)
    for n, (one, two) in enumerate(near + far):
        share = (sign(one, config).hashes == sign(two, config).hashes).mean()
        assert (f"1.{n}" in some) == (share >= 0.7)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4), st.integers(1, 4))
def test_a_document_is_paired_with_the_lowest_that_it_is_like(keys: list[int], kinds: int, leaders: int) -> None:
    """Alike are numbers of one remainder, of which there are `kinds`."""

    def are_alike(candidates: np.ndarray) -> np.ndarray:
        return candidates[:, 0] % kinds == candidates[:, 1] % kinds

    expected = set()
    for n, key in enumerate(keys):
        bucket = [m for m in range(len(keys)) if keys[m] == key]
        led = list(dict.fromkeys(m % kinds for m in bucket))[:leaders]
        lowest = next(m for m in bucket if m % kinds == n % kinds)
        if n % kinds in led and lowest != n:
            expected.add((n, lowest))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deduplicate_match, "LEADERS", leaders)
        found = pairs(np.array(keys, np.uint64), np.arange(len(keys), dtype=np.uint32), are_alike)
    assert sorted(map(tuple, found.tolist())) == sorted(expected)


@given(st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30), max_size=3))
def test_groups_are_what_pairs_join_whatever_their_order(files: list[list[tuple[int, int]]]) -> None:
    parents, groups = np.arange(41, dtype=np.uint32), [{n} for n in range(41)]
    for some in files:
        unite(parents, np.array(some, np.uint32).reshape(-1, 2))
        for one, two in some:
            joined = groups[one] | groups[two]
            for each in joined:
                groups[each] = joined
    deduplicate._flatten(parents, 7)
    assert parents.tolist() == [min(group) for group in groups]


def test_a_long_chain_in_any_order_is_one_group() -> None:
    order, count = np.random.default_rng(6), 10_000
    parents, chain = np.arange(count), np.stack([np.arange(1, count), np.arange(count - 1)], axis=1)
    order.shuffle(chain)
    for some in np.array_split(chain, 5):
        unite(parents, some)
    deduplicate._flatten(parents)
    assert not parents.any()


def test_nothing_is_found_where_there_is_nothing(tmp_path: Path) -> None:
    assert told(ran(tmp_path / "empty", tasks_of(tmp_path / "a", [("a", []), ("b", [])]), threshold=0.5)) == [[], []]
    corpora = [("a", []), ("b", [prose(1), "", "*", "!"]), ("c", []), ("a", [prose(1)]), ("c", [])]
    found = drops(ran(tmp_path / "some", tasks_of(tmp_path / "b", corpora), threshold=0.5))
    assert found == {"1.0": ("exact_duplicate", "3.0")}


@pytest.fixture
def mixed(tmp_path: Path) -> list[Task]:
    """Of three sources in five tasks, with duplicates of each kind across all of them."""
    rng = random.Random(7)
    texts = [text for _ in range(60) for text in (*alike(0.9, 80, rng), prose(rng.randrange(30)))]
    rng.shuffle(texts)
    return tasks_of(tmp_path / "in", [(name, texts[at::5]) for at, name in enumerate("abcab")])


def test_parts_make_no_difference(tmp_path: Path, mixed: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    made = ran(tmp_path / "one", mixed, precedence=["b"])
    reasons = Counter(verdict.reason for those in told(made) for verdict in those)
    assert reasons["exact_duplicate"] >= 20 and reasons["fuzzy_duplicate"] >= 50
    monkeypatch.setattr(deduplicate, "PART", 50)
    monkeypatch.setattr(deduplicate_files, "CHUNK", 7)
    ran(tmp_path / "four", mixed, precedence=["b"])
    assert len(list((tmp_path / "four" / "pairs").iterdir())) == 15 * 4
    for what in ("groups", "verdicts"):
        assert contents(tmp_path / "four" / what) == contents(tmp_path / "one" / what), what


@pytest.mark.slow
def test_workers_make_no_difference(tmp_path: Path, mixed: list[Task]) -> None:
    for workers in (1, 2, 4):
        ran(tmp_path / f"{workers}", mixed, workers, threshold=0.6)
        for what in ("signatures", "pairs", "groups", "verdicts"):
            assert contents(tmp_path / f"{workers}" / what) == contents(tmp_path / "1" / what), (workers, what)


def test_tasks_that_break_off_leave_nothing_behind_and_run_again(tmp_path: Path, mixed: list[Task]) -> None:
    documents = list(ReadFiles(mixed, "keep").run(None, 0))

    def broken() -> object:
        yield from documents[:20]
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        list(SignatureFiles(tmp_path / "out" / "signatures", 0).write(broken(), Deduplicate()))
    assert all(path.name.startswith(".") for path in (tmp_path / "out" / "signatures").iterdir())
    _, fresh = ran(tmp_path / "out", mixed), ran(tmp_path / "fresh", mixed)
    assert contents(tmp_path / "out" / "signatures") == contents(tmp_path / "fresh" / "signatures")
    before = told(fresh)
    [(path, _)] = mixed[1].files
    path.write_text(json.dumps({"id": "new", "text": "Something else."}) + "\n")
    assert told(ran(tmp_path / "out", mixed)) == told(ran(tmp_path / "again", mixed)) != before


def test_the_block_drops_what_verdicts_say(tmp_path: Path, mixed: list[Task]) -> None:
    made = ran(tmp_path / "out", mixed)
    placed = []
    for rank in (3, 0):
        for index, document in enumerate(ReadFiles(mixed, "keep").run(None, rank)):
            document.metadata |= {"task": rank, "index": index}
            placed.append(document)
    block = DropDuplicates(made.verdicts)
    stay = [f"{document.metadata['task']}.{document.metadata['index']}" for document in block.run(iter(placed))]
    found = drops(made)
    expected = [name for name in (f"{d.metadata['task']}.{d.metadata['index']}" for d in placed) if name not in found]
    assert stay == expected and 0 < len(stay) < len(placed)
    counted = {name: int(block.stats[name].total) for name in ("dropped/exact_duplicate", "dropped/fuzzy_duplicate")}
    reasons = Counter(reason for name, (reason, _) in found.items() if name[0] in "03")
    assert counted == {f"dropped/{reason}": count for reason, count in reasons.items()}


def read(tasks: list[tuple[str, str, Path]]) -> list[Task]:
    """Source, kind and file of each."""
    return [
        Task(source, FileSource.model_validate({"kind": kind, "paths": [path]}), ((path, path.name),))
        for source, kind, path in tasks
    ]


@pytest.mark.slow
def test_articles_of_two_years_are_twins(tmp_path: Path, shared_data: Path) -> None:
    """96 articles are in both excerpts; as many are found as theory expects of their exact similarities."""
    dumps = ("enwiki-2014-latest-pages-articles1-shortened.xml.bz2", "enwiki-2022-head-unclosed.xml.bz2")
    tasks = read([(dump[7:11], "mediawiki", shared_data / "wikipedia" / dump) for dump in dumps])
    old, new = (list(ReadFiles(tasks, "keep").run(None, rank)) for rank in (0, 1))
    first, second = told(ran(tmp_path / "out", tasks))
    twins = {new[verdict.index].metadata["url"]: old[verdict.twin_index].metadata["url"] for verdict in second}
    assert not first and all(url == twin for url, twin in twins.items()), "no other article is taken for one"

    texts = [{document.metadata["url"]: document.text for document in those} for those in (old, new)]
    both = {url: jaccard(texts[0][url], texts[1][url]) for url in texts[0].keys() & texts[1].keys()}
    assert len(both) == 96 and {url for url, similarity in both.items() if similarity >= 0.9} <= twins.keys()
    chances = [1 - (1 - similarity**8) ** 14 for similarity in both.values()]
    assert abs(len(twins) - sum(chances)) < 3 * sqrt(sum(chance * (1 - chance) for chance in chances))


def jaccard(one: str, two: str) -> float:
    first, second = (set(shingles(fold(text), 5)) for text in (one, two))
    return len(first & second) / len(first | second)


@pytest.mark.slow
def test_books_that_are_held_twice_are_twins(tmp_path: Path, shared_data: Path) -> None:
    """Eight of twelve raw e-texts are in the other collection, similar by 0.92 to 0.99; the next is similar by 0.10."""
    books = shared_data / "books"
    raw = sorted((books / "gutenberg-raw").iterdir())
    tasks = read([("classic", "books", books / "classic-books.tar.xz"), *(("raw", "books", path) for path in raw)])
    made = ran(tmp_path / "out", tasks)
    found = {raw[rank - 1].name: verdict.twin_id for rank, those in enumerate(told(made)) for verdict in those}
    assert {name: Path(twin).stem.partition("__")[2] for name, twin in found.items()} == {
        "11-0.txt.gz": "Alices_Adventures_in_Wonderland",
        "1342.txt.gz": "Pride_and_Prejudice",
        "2701-0.txt.gz": "Moby-Dick",
        "345-8.txt.gz": "Dracula",
        "35-0.txt.gz": "The_Time_Machine",
        "36-0.txt.gz": "War_of_the_Worlds",
        "76-0.txt.gz": "Adventures_of_Huckleberry_Finn",
        "84-0.txt.gz": "Frankenstein",
    }
