"""Evaluation examples are found in documents and cut out by GPT-3's rules, and nothing else is."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import decontaminate
from data_pipeline.decontaminate import HIT, CountGrams, CutOverlaps, Decontamination, FindOverlaps, read_hits, split
from data_pipeline.decontaminate_config import Decontaminate, EvaluationSet
from data_pipeline.documents import ReadDocuments, WriteDocuments, read_documents
from data_pipeline.engines.local import Local
from data_pipeline.errors import InputError
from data_pipeline.evaluation_sets import texts_of
from data_pipeline.executor import Stage, key_of
from data_pipeline.gram_table import Finder, GramTable
from data_pipeline.grams import grams
from task_documents import write_tasks

EXAMPLE = "which of these rivers carries more sand than all of the others taken together"
OTHER = "nobody has ever asked the sea what it does with everything that rivers bring it"


def filler(name: str, words: int = 200) -> str:
    """Text of words that stand nowhere else; 200 are about 1,400 characters."""
    return " ".join(f"{name}{number:04d}" for number in range(words))


@dataclass
class Result:
    documents: dict[str, str]
    origins: dict[str, dict]
    counts: Counter[str]
    report: dict[str, Any]


def run(
    folder: Path,
    tasks: list[list[str]],
    sets: dict[str, Path],
    workers: int = 1,
    groups: list[list[int]] | None = None,
    **rules: int,
) -> Result:
    """The texts that are left by id."""
    config = Decontaminate(sets={name: EvaluationSet(paths=[path]) for name, path in sets.items()}, **rules)
    files, groups = write_tasks(folder / "documents", tasks), groups or [[task] for task in range(len(tasks))]
    each, keys = Decontamination(config, folder / "work"), [key_of(texts) for texts in tasks]
    each.find([ReadDocuments([[task] for task in range(len(tasks))], files)], keys, Local(workers))
    out = [folder / "out" / f"{rank}" for rank in range(len(groups))]
    stage = Stage(folder / "cut", [key_of([(keys[task], each.key(task)) for task in group]) for group in groups])
    stage.run([ReadDocuments(groups, files), each.cut(len(groups)), WriteDocuments(out)], Local(workers))
    documents = [document for path in out for document in read_documents(path)]
    return Result(
        documents={origin["id"]: text for text, origin in documents},
        origins={origin["id"]: origin for _, origin in documents},
        counts=sum((stage.counts(rank) for rank in range(len(groups))), Counter()),
        report={name: each.model_dump() for name, each in each.report(len(groups)).items()},
    )


@pytest.fixture
def one_set(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "mine.txt").write_text(f"{EXAMPLE}\n{OTHER}\ntoo short\n")
    return {"mine": tmp_path / "mine.txt"}


def test_an_example_is_cut_wherever_it_stands(tmp_path: Path, one_set: dict[str, Path]) -> None:
    a, b, loud = filler("a"), filler("b"), f"«{EXAMPLE.upper().replace(' ', ' -  ')}»!"
    texts = [f"{loud} {b}", f"{a} {loud}\n{b}", f"{a}\n{loud}", a, EXAMPLE, f"{a} {EXAMPLE[9:]} {b}"]
    result = run(tmp_path, [texts], one_set)
    # A word of filler and its space take 6 characters: of the 33rd the window takes 2.
    kept = {"0/0#piece1": b[204:], "0/1#piece1": a[:-204], "0/1#piece2": b[204:], "0/2#piece1": a[:-204], "0/3": a}
    assert result.documents == kept | {"0/5": texts[5]}
    cut = len("".join(texts[:3])) - len("".join(kept[id] for id in kept if "#" in id))
    counts = {name: count for name, count in result.counts.items() if name.startswith(("split", "dropped"))}
    expected = {"split/documents": 3, "split/pieces": 1, "split/characters": cut}
    assert counts == expected | {"dropped/contaminated": 1}
    report = result.report["mine"]
    samples = report.pop("samples")
    assert report == {
        "examples": 3, "short": 1, "grams": 5, "grams_found": 2, "grams_common": 0, "examples_found": 1,
        "documents_cut": 3, "documents_dropped": 1,
    }  # fmt: skip
    assert [sample["id"] for sample in samples] == ["0/0", "0/1", "0/2", "0/4"]
    assert samples[1]["text"].startswith("«WHICH -  OF -  ") and samples[1]["text"] in texts[1]


def test_pieces_stay_in_one_split_and_the_rest_is_as_it_was(tmp_path: Path, one_set: dict[str, Path]) -> None:
    text = f"{filler('a')} {EXAMPLE} {filler('b')}"
    result = run(tmp_path, [[text, filler("c")]], one_set)
    whole = xxhash.xxh3_64_intdigest(text.encode())
    place = {"task": 0, "index": 0}
    assert result.origins["0/0#piece2"] == {"id": "0/0#piece2", **place, "hash": whole}
    assert result.origins["0/0#piece1"] == {"id": "0/0#piece1", **place, "hash": whole}
    assert result.origins["0/1"] == {"id": "0/1", "task": 0, "index": 1}


@pytest.mark.parametrize(("length", "stays"), [(199, False), (200, True)])
def test_short_pieces_are_dropped(tmp_path: Path, one_set: dict[str, Path], length: int, stays: bool) -> None:
    piece, window = "x" * length, "y" * 199
    result = run(tmp_path, [[f"{piece} {window} {EXAMPLE} {window} {filler('b')}"]], one_set)
    assert list(result.documents.values()) == [piece] * stays + [filler("b")]
    assert result.counts["split/short"] == (not stays) and result.counts["split/pieces"] == stays


@pytest.mark.parametrize(("pieces", "stays"), [(10, True), (11, False)])
def test_many_pieces_drop_the_document(tmp_path: Path, one_set: dict[str, Path], pieces: int, stays: bool) -> None:
    # One of them is short: a document is dropped for the pieces it falls into, not for those that are kept.
    fillers = [filler("a", 100), "", *(filler("abcdefghijkl"[at], 200) for at in range(2, pieces))]
    fillers[1] = f"{'y' * 199} short {'z' * 199}"
    result = run(tmp_path, [[f" {EXAMPLE} ".join(fillers)]], one_set)
    assert len(result.documents) == (9 if stays else 0)
    assert result.counts["dropped/contaminated"] == (not stays) and result.counts["split/short"] == stays
    assert result.report["mine"]["documents_dropped"] == (not stays)


@pytest.mark.parametrize(("documents", "is_cut"), [(10, True), (11, False)])
def test_what_many_documents_have_stays(tmp_path: Path, one_set: dict[str, Path], documents: int, is_cut: bool) -> None:
    # Twice in each document, and in several tasks: documents count, not places.
    text = f"{filler('a')} {EXAMPLE} {filler('b')} {EXAMPLE} {filler('c')}"
    result = run(tmp_path, [[text] * 5, [text] * (documents - 5), [f"{filler('d')} {OTHER} {filler('e')}"]], one_set)
    assert result.counts["split/documents"] == (documents if is_cut else 0) + 1
    assert all("#" in id or not is_cut for id in result.documents)
    report = result.report["mine"]
    # The example makes two n-grams of 13 words, the other one three.
    assert report["grams_found"] == 5 and report["grams_common"] == (0 if is_cut else 2)
    assert report["examples_found"] == 1 + is_cut


def test_real_examples_are_found_and_cut(shared_data: Path) -> None:
    paths = [path for path in sorted((shared_data / "evals").iterdir()) if "label" not in path.name]
    lines = {path.name: 6 for path in paths if "hellaswag" in path.name}
    sets = {path.name: EvaluationSet(paths=[path], lines=lines.get(path.name)) for path in paths}
    examples = {name: list(texts_of(name, each))[::5] for name, each in sets.items()}
    table = GramTable.of(examples, 13)
    finder, a, b = Finder(table), filler("a"), filler("b")
    for place, name in enumerate(sets):
        found = 0
        for example in examples[name][:: len(examples[name]) // 20 + 1]:
            planted = "  ".join(example.title().split())
            expected = [span for _, *span in naive(planted, 13)]
            for before, after in ((a + " ", " " + b), (a + "\n", ""), ("", "\n" + b)):
                text = before + planted + after
                numbers, hits = hits_in(text, finder)
                spans = [(begin + len(before), end + len(before)) for begin, end in expected]
                assert hits[["begin", "end"]].tolist() == spans, name
                pieces = split(text, hits, 200)
                assert not any(len(finder.find(piece)[0]) for piece in pieces)
                assert (not before or pieces[0].startswith(a[:-206])) and (not after or pieces[-1].endswith(b[206:]))
                assert not expected or place in table.sets_of(numbers)
            found += bool(expected)
        assert found, name


def hits_in(text: str, finder: Finder) -> tuple[Any, Any]:
    numbers, begins, ends = finder.find(text)
    hits = np.zeros(len(numbers), HIT)
    hits["begin"], hits["end"] = begins, ends
    return numbers, hits


def plain(word: str) -> str:
    """Said in another way than grams.py does."""
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", word).casefold())
    return "".join(each for each in apart if unicodedata.category(each)[0] in "LN")


def naive(text: str, n: int) -> list[tuple[tuple[str, ...], int, int]]:
    """Words, begin and end of each n-gram."""
    found = [(plain(match[0]), *match.span()) for match in re.finditer(r"\S+", text) if plain(match[0])]
    at = range(len(found) - n + 1)
    return [(tuple(word for word, _, _ in found[i : i + n]), found[i][1], found[i + n - 1][2]) for i in at]


WORDS = st.sampled_from(
    ["a", "b", "A,", "(b)", "ab", "é", "E\u0301!", "-", "…", "東京", "Ж", "ж", "ﬁ", "fi", "1", "İ", "ß"]
)
SPACES = st.sampled_from([" ", "\n", "  ", "\u00a0", "\u2028 ", "\x1c", "\t"])


@st.composite
def prose(draw: st.DrawFn, most: int) -> str:
    return "".join(word + space for word, space in draw(st.lists(st.tuples(WORDS, SPACES), max_size=most)))


@settings(max_examples=300)
@given(examples=st.lists(prose(8), max_size=4), text=prose(60), n=st.integers(2, 4), window=st.integers(0, 9))
def test_after_the_cut_no_overlap_is_left_and_nothing_else_is_lost(
    examples: list[str], text: str, n: int, window: int
) -> None:
    table = GramTable.of({"mine": examples}, n)
    wanted = {words for example in examples for words, _, _ in naive(example, n)}
    assert len(table.hashes) == len(wanted)
    expected = [(begin, end) for words, begin, end in naive(text, n) if words in wanted]
    _, hits = hits_in(text, Finder(table))
    assert hits[["begin", "end"]].tolist() == expected
    pieces = split(text, hits, window)
    assert not wanted & {words for piece in pieces for words, _, _ in naive(piece, n)}
    is_cut = np.zeros(len(text), bool)
    for begin, end in expected:
        is_cut[max(begin - window, 0) : end + window] = True
    for match in re.finditer(r"\S+", text):
        is_cut[slice(*match.span())] |= is_cut[slice(*match.span())].any()
    rest = "".join("\0" if cut else letter for letter, cut in zip(text, is_cut, strict=True))
    assert pieces == [piece.strip() for piece in re.split("\0+", rest) if piece.strip()]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Don't stop — it's well-known.", "dont stop its wellknown", True),
        ("one two\u00a0three", "one\ttwo\u3000three", True),
        ("naïve Straße ΣΑΣ ﬁn x²", "nai\u0308ve STRASSE σας fin x2", True),
        ("Zoë's café", "zoes cafe", True),
        ("zero\u200bwidth so\u00adft", "zerowidth soft", True),
        ("he has_won $5", "he haswon 5", True),
        ("a b", "b a", False),
        ("ab c", "a bc", False),
        ("Москва река", "Москва реки", False),
        ("१ २", "१ ३", False),
    ],
)
def test_what_counts_as_the_same_words(one: str, other: str, same: bool) -> None:
    n = len(other.split())
    [first], [second] = grams(one, n), grams(other, n)
    assert (first == second) == same


def test_long_texts_and_long_words(monkeypatch: pytest.MonkeyPatch) -> None:
    table = GramTable.of({"mine": [EXAMPLE]}, 13)
    begin = f"{filler('a', 30_000)} {'x' * 2_500_000} "
    for length in (65_530, 65_536, 131_080):
        text = f"{filler('c', 40_000)[:length]} {EXAMPLE}\u2003{filler('b', 9)}"
        for each in (text, begin + text):
            numbers, begins, ends = Finder(table).find(each)
            assert len(numbers) == 2 and (begins[0], ends[1]) == (each.index(EXAMPLE), each.index("\u2003"))


def test_documents_are_counted_across_files_and_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decontaminate, "_HITS_AT_A_TIME", 3)
    table = GramTable.of({"mine": ["a b c d", "c d e"]}, 2)
    with (tmp_path / "grams.npz").open("wb") as file:
        table.save(file)
    texts = [["a b c a b", "x", "b c d e", "a b"], [], ["d e d e d e d e", "a b c d e a b"]]
    hits = [tmp_path / f"{rank}.hits" for rank in range(3)]
    for rank, each in enumerate(texts):
        documents = [Document(text, "", metadata={"index": index}) for index, text in enumerate(each)]
        assert not list(FindOverlaps(tmp_path / "grams.npz", hits).run(documents, rank))
    assert [len(read_hits(path)) for path in hits] == [7, 0, 9]
    CountGrams(tmp_path / "grams.npz", hits, tmp_path / "counts.npy").run()
    [[first], [second], [third], [last]] = (grams(text, 2) for text in ("a b", "b c", "c d", "d e"))
    counts = dict(zip(table.hashes.tolist(), np.load(tmp_path / "counts.npy").tolist(), strict=True))
    assert counts == {first: 3, second: 3, third: 2, last: 3}


def test_the_result_does_not_depend_on_who_does_the_work(tmp_path: Path, one_set: dict[str, Path]) -> None:
    (tmp_path / "other.jsonl").write_text(f'{{"a": "{OTHER}"}}\n')
    sets = one_set | {"other": tmp_path / "other.jsonl"}
    tasks = [[f"{filler(name)} {each} {filler('z')}" for each in (EXAMPLE, "harmless", OTHER)] for name in "abc"]
    one = run(tmp_path / "one", tasks, sets)
    two = run(tmp_path / "two", tasks, sets, workers=2)
    grouped = run(tmp_path / "grouped", tasks, sets, groups=[[0, 1], [2]])
    assert one == two and (grouped.documents, grouped.report) == (one.documents, one.report)
    assert one.report["other"]["documents_cut"] == 3 and one.report["mine"]["documents_cut"] == 6
    files = {str(path.relative_to(tmp_path / "one")) for path in (tmp_path / "one" / "work").glob("hits/*")}
    files |= {"work/grams.npz", "work/counts.npy"} | {f"work/cuts/0000{rank}.jsonl" for rank in range(3)}
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_what_is_stopped_leaves_nothing_under_its_name(tmp_path: Path, one_set: dict[str, Path]) -> None:
    def broken() -> Iterator[Document]:
        yield Document(EXAMPLE, "", metadata={"task": 0, "index": 0})
        raise OSError

    run(tmp_path, [[EXAMPLE]], one_set)
    hits, cuts = [tmp_path / "hits"], [tmp_path / "cuts"]
    with pytest.raises(OSError):  # noqa: PT011
        list(FindOverlaps(tmp_path / "work" / "grams.npz", hits).run(broken()))
    assert not hits[0].exists()
    config = Decontaminate(sets={"mine": EvaluationSet(paths=[tmp_path])})
    found = [tmp_path / "work" / "hits" / "00000.hits"]
    with pytest.raises(OSError):  # noqa: PT011
        list(CutOverlaps(config, found, tmp_path / "work" / "counts.npy", cuts).run(broken()))
    assert not cuts[0].exists()


def test_sets_in_which_nothing_can_be_found_are_an_error(tmp_path: Path, one_set: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"decontaminate.sets: none of 3 examples has 16 words; lower ngram"):
        run(tmp_path, [["text"]], one_set, ngram=16)
