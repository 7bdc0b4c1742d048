from typing import Any

import pytest
from pydantic import ValidationError

from data_pipeline.config import DataConfig, Recipe

TOKENIZER = {"train": {"vocab_size": 300}}
BOOKS = {"kind": "books", "paths": ["x.txt"]}


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"tokenizer": TOKENIZER, "sources": {"a": BOOKS, "A": BOOKS}}, "upper and lower case alone"),
        ({"tokenizer": TOKENIZER, "sources": {"a/b": BOOKS}}, "named by letters, digits"),
        (
            {"tokenizer": TOKENIZER, "sources": {"a": {"kind": "wet", "sample": "docstrings"}}},
            "kind books, not wet",
        ),
        ({"tokenizer": TOKENIZER, "sources": {"a": {"kind": "wet"}}}, "give either paths or sample"),
        ({"tokenizer": {**TOKENIZER, "hub": "x"}, "sources": {"a": BOOKS}}, "not hub and train"),
        ({"tokenizer": {}, "sources": {"a": BOOKS}}, "not none"),
    ],
)
def test_recipes_that_cannot_be_are_refused(recipe: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Recipe.model_validate(recipe)


def test_a_run_names_a_folder_or_a_recipe() -> None:
    with pytest.raises(ValidationError, match="give path"):
        DataConfig.model_validate({"mixture": {"a": 1}})
    data = DataConfig.model_validate({"prepare": "recipes/mine.yaml", "mixture": {"a": 1}})
    assert data.folder.parts[-2:] == ("prepared", "mine")


@pytest.mark.parametrize(
    "wrong",
    [{"path": "https://me:hush@h/p"}, {"storage": "hush"}, {"storage": ["hush"]}, {"storage": {"secret": "hush"}}],
)
def test_what_a_mistaken_section_says_of_itself_holds_no_secret(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        DataConfig.model_validate({"mixture": {"a": 1}, "prepare": "x.yaml"} | wrong)
    assert "hush" not in str(error.value)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"filters": {"f": {"path": "f.npz"}}}, "filters.f: .*names it"),
        ({"links": {"l": {"kind": "reddit", "paths": ["RS.zst"]}}}, "links.l: .*names it"),
        ({"deduplicate": {"precedence": ["b"]}}, "deduplicate.precedence: b is none"),
        ({"steps": [{"kind": "quality", "filter": "g"}]}, "g is none of the recipe's filters"),
        ({"steps": [{"kind": "karma", "links": "g"}]}, "g is none of the recipe's links"),
        ({"steps": [{"kind": "language", "keep": ["english"]}]}, "language.keep.0"),
    ],
)
def test_what_is_named_and_not_there_or_there_and_not_named_is_refused(asked: dict[str, Any], said: str) -> None:
    source = {"kind": "jsonl", "paths": ["a.jsonl"], "steps": asked.pop("steps", [])}
    with pytest.raises(ValidationError, match=said):
        Recipe.model_validate({"tokenizer": {"hub": "x"}, "sources": {"a": source}, **asked})
