"""Evaluation sets as texts, one an example: of files, or of lm-eval's tasks."""

import csv
import importlib
import io
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_pipeline.decontaminate_config import EvaluationSet
from data_pipeline.errors import InputError, MissingInputError
from data_pipeline.finding import each_once, files_of_kind
from data_pipeline.readers.files import Damaged, open_file
from data_pipeline.readers.tables import json_rows

log = logging.getLogger("thalweg.prepare")

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".lst")
PACKED = ("", ".gz", ".zst", ".xz", ".bz2")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")

Record = tuple[str, Any]
"""Where it stands, for errors, and what it is: strings, perhaps in lists and dictionaries."""


def files_of(name: str, config: EvaluationSet) -> list[Path]:
    """The files of a set, sorted; none of one of tasks.

    Raises InputError where there is nothing at a path, or a file is of no known kind.
    """
    files: list[Path] = []
    for path in config.paths:
        found = files_of_kind(path, tuple(kind + packed for kind in KINDS for packed in PACKED), log)
        if not found:
            raise MissingInputError(
                f"decontaminate.sets.{name}.paths: {path}: no such file, or no file matches; mend it"
            )
        files += found
    for file in files:
        _kind_of(file)
    return each_once(files)


def texts_of(name: str, config: EvaluationSet) -> Iterator[str]:
    """The text of each example, its strings one to a line.

    Raises InputError, which names the file or task and the record, for what cannot be read.
    """
    if config.tasks:
        records = _of_tasks(name, config.tasks)
    else:
        records = (record for file in files_of(name, config) for record in _of_file(file, config.lines))
    is_empty = True
    for where, record in records:
        is_empty = False
        yield _text(where, record, config.keys)
    if is_empty:
        raise InputError(f"decontaminate.sets.{name}: has no example; leave it out, or name others")


def _text(where: str, record: Any, keys: list[str] | None) -> str:
    if keys is not None and isinstance(record, dict):
        if missing := [key for key in keys if key not in record]:
            raise InputError(f"{where} has no {', '.join(missing)}, it has {', '.join(record)}; mend keys")
        record = [record[key] for key in keys]
    elif keys is not None:
        raise InputError(f"{where} has no {', '.join(keys)}, since it has no keys at all; leave keys out")
    return "\n".join(_strings(record))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def _kind_of(path: Path) -> str:
    kinds = [kind for kind in KINDS for packed in PACKED if path.name.endswith(kind + packed)]
    if not kinds:
        raise InputError(f"{path}: is of no known kind; an evaluation set is a {', '.join(KINDS)}, packed or not")
    return kinds[0]


def _of_file(path: Path, lines: int | None) -> Iterator[Record]:
    kind = _kind_of(path)
    try:
        values: Iterable[Any] = json_rows(path) if kind.startswith(".json") else _of_text(path, kind, lines)
        for number, value in enumerate(values, 1):
            if value is None:
                raise InputError(f"{path}: record {number} is no JSON; mend it; a file is JSON lines or an array")
            yield f"{path}: record {number}", value
    except Damaged as damage:
        raise InputError(f"{path}: {damage.reason}; fetch it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); mend it or leave it out") from None


def _of_text(path: Path, kind: str, lines: int | None) -> Iterable[Any]:
    with open_file(path) as stream:
        data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {line} is no UTF-8; store the file as UTF-8") from None
    if kind in (".csv", ".tsv"):
        return _rows(path, text, kind)
    return _examples(path, text.replace("\r\n", "\n"), lines)


def _rows(path: Path, text: str, kind: str) -> Iterator[dict[str, str]]:
    # Quotes in tab-separated files are text, as a rule.
    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == ".tsv" else {"strict": True}
    reader = csv.DictReader(io.StringIO(text, newline=""), **options)
    number = 0
    try:
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                raise InputError(f"{path}: record {number} has not as many columns as the first row; mend it")
            yield row
    except csv.Error as error:
        raise InputError(f"{path}: record {number + 1} cannot be read ({error}); mend it") from None


def _examples(path: Path, text: str, lines: int | None) -> list[str]:
    if lines is None:
        text = text.strip()
        examples = _BLANK_LINES.split(text)
        return examples if len(examples) > 1 else text.split("\n") if text else []
    all_lines = text.removesuffix("\n").split("\n") if text else []
    if over := len(all_lines) % lines:
        record = len(all_lines) // lines + 1
        raise InputError(f"{path}: record {record} has {over} lines in place of {lines}; mend it, or lines")
    return ["\n".join(all_lines[at : at + lines]) for at in range(0, len(all_lines), lines)]


def _of_tasks(name: str, tasks: list[str]) -> Iterator[Record]:
    """The documents of lm-eval's tasks that a model is tried on: GPT-3 took test and development sets."""
    where = f"decontaminate.sets.{name}.tasks"
    try:
        lm_eval = importlib.import_module("lm_eval.tasks")
    except ImportError as error:
        raise InputError(f"{where}: lm-eval cannot be imported ({error}); pip install lm-eval, or give paths") from None
    try:
        for task_name, task in lm_eval.TaskManager().load(list(tasks))["tasks"].items():
            splits = [(task.has_validation_docs, task.validation_docs), (task.has_test_docs, task.test_docs)]
            documents = (document for has_docs, docs in splits if has_docs() for document in docs())
            for number, document in enumerate(documents, 1):
                yield f"{task_name}: record {number}", document
    except (GeneratorExit, InputError):
        raise
    except Exception as error:  # each task has its own code, and data sets their own errors
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(f"{where}: cannot be read by lm-eval ({reason}); check the names and the network") from None
