"""The rule filters of Gopher and C4."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from datatrove.data import Document
from pydantic import TypeAdapter

from data_pipeline.steps import rules
from data_pipeline.steps.config import StepConfig
from data_pipeline.steps.words import Words

SENTENCES = [
    "The keeper of the lighthouse had not spoken to anybody since the winter began.",
    "He wrote his letters with a pencil, and he never sent one that did not have a date.",
    "Whoever came to the island would find the door open and a lamp that burned on the table.",
    "It was said that he could tell the weather from the colour of the stones.",
    "Nobody believed it, but they all looked at the stones before they went out to sea.",
    "In spring the boats returned to the harbour, and with them the noise of the gulls.",
]
PROSE = "\n".join(SENTENCES)


def judged(text: str, kind: str, **options: object) -> tuple[str | None, str]:
    document = Document(text=text, id="1")
    config = TypeAdapter(StepConfig).validate_python({"kind": kind} | options)
    return rules.make(config)(document, Counter()), document.text


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (PROSE, "gopher_quality", None),
        (" ".join(PROSE.split()[:40]), "gopher_quality", "gopher_quality: short doc"),
        (PROSE.replace("the", "#"), "gopher_quality", "gopher_quality: too many hashes"),
        ("".join(f"- {each}\n" for each in SENTENCES), "gopher_quality", "gopher_quality: too many bullets"),
        (" ".join(["lamp", "stone", "gull"] * 30), "gopher_quality", "gopher_quality: few stop words"),
        (" ".join(f"{n}4821" for n in range(40)) + PROSE, "gopher_quality", "gopher_quality: below alpha threshold"),
        (PROSE, "gopher_repetition", None),
        (PROSE + "\n" + "\n".join(SENTENCES[:4] * 2), "gopher_repetition", "gopher_repetition: dup line frac"),
        (PROSE + " the stones said" * 60, "gopher_repetition", "gopher_repetition: top 2 gram"),
        (PROSE, "c4", None),
        (PROSE + "\nfunction f() { return 1 }.", "c4", "c4: curly bracket"),
        (PROSE + "\nLorem ipsum dolor sit amet.", "c4", "c4: lorem ipsum"),
        ("\n".join(SENTENCES[:3]), "c4", "c4: too few sentences"),
    ],
)
def test_what_each_rule_drops(text: str, kind: str, reason: str | None) -> None:
    assert judged(text, kind)[0] == reason


def test_c4_takes_lines_out_of_what_it_keeps() -> None:
    menu = f"Home | About | Contact\n{PROSE}\nThis page uses cookies to work.\nToo short."
    assert judged(menu, "c4") == (None, PROSE)
    assert judged(menu, "c4", terminal_punctuation=False)[1].startswith("Home | About")


def test_stop_words_of_another_language() -> None:
    german = "Der Wärter des Turms hatte seit dem Winter mit niemandem gesprochen, und er schrieb keine Briefe. " * 5
    assert judged(german, "gopher_quality")[0] == "gopher_quality: few stop words"
    assert judged(german, "gopher_quality", stop_words=["der", "und", "mit", "dem"])[0] is None


def test_words_and_sentences() -> None:
    words = Words()
    assert words.word_tokenize("It's a well-known 3.5 % (so?)") == [
        "It's",
        "a",
        "well-known",
        "3.5",
        "%",
        *"(",
        "so",
        *"?)",
    ]
    text = ' He said "no." Then, at 3.5, she left! Why'
    assert words.sent_tokenize(text) == ['He said "no."', "Then, at 3.5, she left!", "Why"]
    assert [text[begin:end] for begin, end in words.span_tokenize(text)] == words.sent_tokenize(text)
    assert words.word_tokenize(" ") == words.sent_tokenize("\n") == []


def test_real_pages_are_judged_without_a_failure(shared_data: Path) -> None:
    with gzip.open(shared_data / "commoncrawl" / "CC-MAIN-2019-30-ccby.first497.jsonl.gz", "rt") as file:
        texts = [text for line in file if (text := json.loads(line)["text"]).strip()]
    for kind in ("gopher_quality", "gopher_repetition", "c4"):
        reasons = Counter(judged(text, kind)[0] for text in texts)
        assert 0.1 < reasons[None] / len(texts) < 0.95 and len(reasons) > 2
