"""Evaluation sets in all their formats become one text an example."""

import bz2
import gzip
import json
import lzma
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import zstandard

from data_pipeline.decontaminate_config import EvaluationSet
from data_pipeline.errors import InputError
from data_pipeline.evaluation_sets import texts_of


def texts(*paths: Path, **options: Any) -> list[str]:
    return list(texts_of("mine", EvaluationSet(paths=paths, **options)))


def test_of_a_record_all_strings_count_or_those_that_are_named(tmp_path: Path) -> None:
    record = {"id": 7, "choices": ["one", {"text": "two", "gold": True}], "query": "Which?", "none": None}
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(record) + "\n\n" + json.dumps({"query": "Why?", "choices": []}))
    assert texts(path) == ["one\ntwo\nWhich?", "Why?"]
    assert texts(path, keys=["query", "choices"]) == ["Which?\none\ntwo", "Why?"]
    with pytest.raises(InputError, match=r"set.jsonl: record 2 has no id, it has query, choices; mend keys"):
        texts(path, keys=["query", "id"])


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress, "": bytes}


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("set.json", '[\n {"a": "one\\ntwo"},\n {"a": "three"}]'),
        ("set.json", '"one\\ntwo"\n"three"\n'),
        ("set.csv", 'n,a\r\n1,"one\r\ntwo"\r\n2,three\r\n'),
        ("set.tsv", '\ufeffa\tb\n"one\ttwo\nthree\t\n'),
        ("set.txt", "one\r\ntwo\r\n \r\n\r\nthree\r\n"),
        ("set.lst", "one two\nthree"),
    ],
)
def test_files_of_every_kind(tmp_path: Path, name: str, text: str, packed: str) -> None:
    path = tmp_path / (name + packed)
    path.write_bytes(PACKERS[packed](text.encode()))
    expected = [["one", "two"], ["three"]]
    assert [re.findall("[a-z]+", each) for each in texts(path)] == expected
    assert [re.findall("[a-z]+", each) for each in texts(tmp_path)] == expected


def test_lines_of_an_example(tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    path.write_text("a\n1\nb\u2028\n\nc\n2\nd\n\n")
    assert texts(path, lines=4) == ["a\n1\nb\u2028\n", "c\n2\nd\n"]
    with pytest.raises(InputError, match=r"set.txt: record 3 has 2 lines in place of 3; mend it, or lines"):
        texts(path, lines=3)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"a": "b"}\n{"a": \n', "record 2 is no JSON"),
        ("a.json", b'[{"a": "b"},\n', "is a JSON array that is broken"),
        ("a.json", b'{\n"a": "b"}', "record 1 is no JSON"),
        ("a.jsonl", b"\n", "decontaminate.sets.mine: has no example"),
        ("a.txt", b"", "decontaminate.sets.mine: has no example"),
        ("a.txt", b"good\nb\xe4d", "line 2 is no UTF-8"),
        ("a.csv", b"a,b\n1,2\n1\n", "record 2 has not as many columns"),
        ("a.csv", b'a,b\n1,"2', "record 1 cannot be read"),
        ("a.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-9], "a.txt.gz: .*; fetch it again"),
        ("a.jsonl.Z", b"", "is of no known kind"),
    ],
)
def test_errors_name_file_and_record(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as raised:
        texts(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_path_with_nothing_at_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"decontaminate.sets.mine.paths: .*no such file"):
        texts(tmp_path / "none")


def test_tasks_need_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(InputError, match=r"decontaminate.sets.mine.tasks: .*pip install lm-eval"):
        list(texts_of("mine", EvaluationSet(tasks=["hellaswag"])))


class StandInTask:
    """As a task of lm-eval 0.4.13 is, in what is asked of it."""

    def has_validation_docs(self) -> bool:
        return True

    def has_test_docs(self) -> bool:
        return True

    def validation_docs(self) -> list[dict]:
        return [{"question": "Why?", "answers": {"text": ["So."]}}]

    def test_docs(self) -> list[dict]:
        return [{"question": "When?"}]


def test_validation_and_test_documents_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    class TaskManager:
        def load(self, names: list[str]) -> dict:
            return {"tasks": {name: {"one": StandInTask()}[name] for name in names}, "groups": {}, "group_map": {}}

    module = ModuleType("lm_eval.tasks")
    module.TaskManager = TaskManager  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lm_eval", ModuleType("lm_eval"))
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", module)
    assert list(texts_of("mine", EvaluationSet(tasks=["one"]))) == ["Why?\nSo.", "When?"]
    with pytest.raises(InputError, match="one: record 2 has no answers, it has question"):
        list(texts_of("mine", EvaluationSet(tasks=["one"], keys=["answers"])))
    with pytest.raises(InputError, match=r"tasks: cannot be read by lm-eval .*KeyError: 'two'"):
        list(texts_of("mine", EvaluationSet(tasks=["two"])))


def test_all_real_sets_are_read_with_their_number_of_examples(shared_data: Path) -> None:
    rows = re.findall(r"^\| ((?:evals|gpt-3-paper/data)/\S+) \| .*? \| .*? \| (\d+) \|", manifest(shared_data), re.M)
    assert len(rows) == 33
    for name, examples in rows:
        path = shared_data / name
        found = texts(path, lines=6 if "hellaswag" in name else None)
        assert len(found) == int(examples) and all(text.strip() for text in found), name


def manifest(shared_data: Path) -> str:
    return (shared_data / "MANIFEST.md").read_text()
