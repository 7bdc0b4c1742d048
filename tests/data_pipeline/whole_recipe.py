"""A made-up recipe in which all parts of preparing have something to do."""

import json
import random
from pathlib import Path
from typing import Any

from corpora import page, recipe, record, response, write_members

EXAMPLE = "Which of these rivers carries more sand than all of the others of this country taken together, and why so?"

SYLLABLES = ("ri", "ver", "san", "do", "mar", "te", "lu", "no", "ba", "kel")
GOOD = [first + second + third for first in SYLLABLES for second in SYLLABLES for third in ("", "s")]
POOR = ("buy", "cheap", "click", "login", "cart", "sale", "free", *(f"item{n}" for n in range(200)))


def good(number: int) -> str:
    """A text of a kind that the quality filter is to keep."""
    return " ".join(random.Random(number).choices(GOOD, k=90)) + "."


def poor(number: int) -> str:
    """A text as crawls are full of."""
    return " ".join(random.Random(-number - 1).choices(POOR, k=90)) + "."


def made_up(folder: Path) -> dict[str, Any]:
    """A recipe whose sources have near copies of each other and an example of an evaluation set."""
    folder.mkdir()
    for part in range(4):
        texts = [good(n) for n in range(part * 60, part * 60 + 60)]
        texts[0] = f"{texts[0]} {texts[1]} {EXAMPLE} {texts[2]}"
        rows = [json.dumps({"text": text, "id": f"{part}/{n}"}) for n, text in enumerate(texts)]
        (folder / f"{part}.jsonl").write_text("\n".join(rows) + "\n")
        pages = [good(part * 60 + n) if n % 4 == 0 else poor(part * 60 + n) for n in range(60)]
        records = []
        for n, text in enumerate(pages):
            whole = record("response", response(page(f"{text} Mail a{n}@example.org.")), 100 * part + n)
            records.append(whole.replace(b"https://pages.example/", f"http://site{n % 7}.org/".encode()))
        write_members(folder / f"{part}.warc.gz", records)
    links = [{"url": f"http://site3.org/{100 + n}", "score": 5} for n in range(60)]
    (folder / "RS.jsonl").write_text("".join(json.dumps(each) + "\n" for each in links))
    (folder / "set.txt").write_text(f"{EXAMPLE}\n")
    steps = [{"kind": "short", "characters": 50}, {"kind": "mask"}]
    return {
        "validation_fraction": 0.1,
        "shard_tokens": 4000,
        "links": {"reddit": {"kind": "reddit", "paths": [folder / "RS.jsonl"]}},
        "filters": {"good": {"positives": ["text"], "negatives": ["crawl"], "features": 2**12, "alpha": 1}},
        "deduplicate": {"precedence": ["text"]},
        "decontaminate": {"sets": {"mine": {"paths": [folder / "set.txt"]}}, "shortest": 50},
        "sources": {
            "crawl": {
                "kind": "warc",
                "paths": [folder / "*.warc.gz"],
                "steps": [
                    {"kind": "linked", "links": "reddit", "keep": "others"},
                    *steps,
                    {"kind": "quality", "filter": "good"},
                ],
            },
            "linked": {
                "kind": "warc",
                "paths": [folder / "*.warc.gz"],
                "steps": [{"kind": "linked", "links": "reddit"}],
            },
            "text": {"kind": "jsonl", "paths": [folder / "[0-9].jsonl"], "id_key": "id"},
        },
    }


def made(asked: dict[str, Any]) -> Any:
    others = {name: value for name, value in asked.items() if name != "sources"}
    return recipe(asked["sources"], **others)
