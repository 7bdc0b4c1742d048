"""Documents by their language."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from datatrove.data import Document

from data_pipeline.steps import language
from data_pipeline.steps.config import Language

TEXTS = {
    "en": "The river carries its sand to the sea, and nobody who lives on its banks has ever asked it why.",
    "de": "Der Fluss trägt seinen Sand zum Meer, und niemand, der an seinen Ufern wohnt, hat ihn je gefragt, warum.",
    "fr": "Le fleuve porte son sable vers la mer, et personne de ceux qui vivent sur ses rives n'a demandé pourquoi.",
    "ru": "Река несёт свой песок к морю, и никто из живущих на её берегах никогда не спрашивал её, зачем.",
    "zh": "河流把沙子带到大海，住在岸边的人从来没有问过它为什么。",
}


def applied(text: str, **options: object) -> tuple[str | None, Document]:
    document = Document(text=text, id="1")
    step = language.make(Language.model_validate({"kind": "language", "keep": ["en", "zh"]} | options))
    return step(document, Counter()), document


@pytest.mark.parametrize("code", TEXTS)
def test_only_what_is_listed_is_kept_and_all_is_labelled(code: str) -> None:
    for text in (TEXTS[code], "\n\n" + TEXTS[code].upper() if code == "zh" else TEXTS[code].replace(" ", "\n")):
        reason, document = applied(text)
        assert reason == (None if code in ("en", "zh") else "other_language")
        assert document.metadata["language"] == code and 0 < document.metadata["language_score"] <= 1


def test_what_is_no_language_is_unsure_or_another_one() -> None:
    assert applied("1 2 3 / 4 5 6 | a b c", least=0.99)[0] is not None
    assert applied("", least=0.5)[0] is not None
    assert applied(TEXTS["en"], least=1.0)[0] in (None, "unsure_language")


def test_a_long_text_is_what_it_begins_with() -> None:
    assert applied(TEXTS["en"] * 200 + TEXTS["ru"] * 2000)[0] is None


def test_real_pages_are_labelled_as_their_makers_count_them(shared_data: Path) -> None:
    with gzip.open(shared_data / "commoncrawl" / "CC-MAIN-2019-30-ccby.first497.jsonl.gz", "rt") as file:
        texts = [json.loads(line)["text"] for line in file]
    found = Counter(applied(text, least=0.0)[1].metadata["language"] for text in texts if text.strip())
    assert len(texts) == 497 and abs(found["en"] - 218) < 12
    assert abs(found["es"] - 70) < 8 and abs(found["it"] - 30) < 5
