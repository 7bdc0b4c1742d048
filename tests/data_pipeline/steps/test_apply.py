"""Steps in a recipe: what they drop is counted, and what is kept does not depend on who does the work."""

import json
from pathlib import Path

import pytest

from corpora import contents, documents, prose, read_all, recipe, record, response, write_members
from data_pipeline.config import FileSource
from data_pipeline.prepare import prepare

STEPS = [{"kind": "short", "characters": 60}, {"kind": "language", "keep": ["en"]}, {"kind": "mask"}]
ENGLISH = "Nobody who lives on the banks of the river has ever asked it where it carries all of its sand, number {}."
GERMAN = "Niemand, der an den Ufern des Flusses wohnt, hat ihn je gefragt, wohin er all seinen Sand trägt, Nummer {}."


@pytest.fixture
def sources(tmp_path: Path) -> dict:
    for name in ("a", "b"):
        texts = [ENGLISH.format(n) + f" Mail {name}{n}@example.org." for n in range(30)]
        texts += [GERMAN.format(n) for n in range(20)] + ["Home | About"] * 10 + [" "]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {
        "filtered": {"kind": "jsonl", "paths": [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], "steps": STEPS},
        "whole": {"kind": "jsonl", "paths": [tmp_path / "a.jsonl"]},
    }


def test_what_is_dropped_is_counted_with_its_step(tmp_path: Path, sources: dict) -> None:
    manifest = prepare(recipe(sources), tmp_path / "one", workers=1)
    filtered, whole = manifest.sources["filtered"], manifest.sources["whole"]
    assert (filtered.read, filtered.documents) == (122, 60)
    assert filtered.dropped == {"empty": 2, "short": 20, "other_language": 40}
    assert filtered.masked == {"email": 60} and whole.masked == {}
    assert whole.dropped == {"empty": 1} and whole.documents == 60
    texts = [text for _, text, _ in documents(tmp_path / "one", manifest, "filtered")]
    assert all(text.endswith("Mail |||EMAIL_ADDRESS|||.") for text in texts) and len(texts) == 60
    prepare(recipe(sources), tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_recipe_with_other_steps_is_another_one(tmp_path: Path, sources: dict) -> None:
    first = prepare(recipe(sources), tmp_path / "one")
    sources["filtered"]["steps"] = STEPS[:2]
    assert prepare(recipe(sources), tmp_path / "two").recipe_hash != first.recipe_hash


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"kind": "langage", "keep": ["en"]}, "steps"),
        ({"kind": "language"}, "keep"),
        ({"kind": "short", "characters": 0}, "characters"),
    ],
)
def test_a_step_that_is_not_known_or_not_whole_is_refused(sources: dict, step: dict, said: str) -> None:
    sources["whole"]["steps"] = [step]
    with pytest.raises(ValueError, match=said):
        recipe(sources)


def test_pages_are_extracted_as_the_recipe_says(tmp_path: Path) -> None:
    """Both leave out what is around the text; only for WARC."""
    article = "".join(f"<p>{prose(n, 40)}</p>" for n in range(6))
    around = "<nav><ul><li><a href='/'>Start</a></li><li><a href='/b'>Products</a></li></ul></nav>"
    html = f"<html><head><title>t</title></head><body>{around}<article>{article}</article></body></html>"
    path = write_members(tmp_path / "a.warc.gz", [record("response", response(html.encode()))])
    for extractor in ("resiliparse", "trafilatura"):
        source = FileSource.model_validate({"kind": "warc", "paths": [path], "extractor": extractor})
        [document], _ = read_all(path, source)
        assert all(prose(n, 40) in document.text for n in range(6)) and "Products" not in document.text
    with pytest.raises(ValueError, match="extractor is of kind warc"):
        FileSource.model_validate({"kind": "wet", "paths": [path], "extractor": "trafilatura"})
