"""All parts of a recipe together: on real corpora, and whenever and however often it is killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from corpora import contents, documents
from data_pipeline.manifest import Manifest
from data_pipeline.prepare import prepare
from data_pipeline.verifying import verify_folder
from whole_recipe import EXAMPLE, made, made_up

PROGRAM = """
import json, sys
from pathlib import Path
from data_pipeline.config import Recipe
from data_pipeline.prepare import prepare
if __name__ == "__main__":
    prepare(Recipe.model_validate(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, Manifest]:
    folder = tmp_path_factory.mktemp("whole")
    asked = made_up(folder / "corpora")
    return asked, folder / "out", prepare(made(asked), folder / "out", 1)


@pytest.mark.slow
def test_every_part_does_its_part(straight: tuple[dict[str, Any], Path, Manifest]) -> None:
    _, out, manifest = straight
    crawl, linked, text = (manifest.sources[name] for name in ("crawl", "linked", "text"))
    assert (crawl.read, linked.read, text.read) == (240, 240, 240)
    assert linked.dropped["not_linked"] == 240 - crawl.dropped["linked"] and crawl.dropped["linked"] == 9
    # All good pages of the crawl are near copies of the text; of the poor ones most are dropped by the filter.
    assert crawl.dropped["quality"] > 60 and 30 < crawl.dropped["fuzzy_duplicate"] <= 60
    assert "fuzzy_duplicate" not in text.dropped and manifest.filters["good"].auc > 0.99
    assert text.split["documents"] == 4 and text.documents == 240 - sum(text.dropped.values()) + text.split["pieces"]
    assert crawl.masked["email"] > 0 and verify_folder(out) == []
    report = json.loads((out / "prepare.json").read_text())
    assert report["evaluation_sets"]["mine"]["documents_cut"] == 4
    assert {(each["source"], each["twin"]) for each in report["duplicates"]["pairs"]} >= {("crawl", "text")}
    dropped = report["sources"]["crawl"]["samples"]["deduplicate"]["dropped"]
    assert len(dropped) == 10 and all(each["twin"].startswith("text: ") for each in dropped)
    kept = {name: " ".join(text for _, text, _ in documents(out, manifest, name)) for name in manifest.sources}
    assert not any(EXAMPLE in text for text in kept.values())
    assert "@example.org" in kept["linked"] and "@example.org" not in kept["crawl"]


@pytest.mark.slow
def test_killed_at_ten_moments_and_run_again(straight: tuple[dict[str, Any], Path, Manifest], tmp_path: Path) -> None:
    """Each time a little later than what was done before, by another number of workers: the same bytes."""
    asked, whole, _ = straight
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "recipe.json").write_text(made(asked).model_dump_json())
    out, moments = tmp_path / "out", random.Random(os.environ.get("PYTEST_SEED", "3"))
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "recipe.json"), str(out)]
    kills = 0
    while kills < 10:
        before = done(out)
        later = moments.randrange(3, 15)
        with (tmp_path / "said").open("w") as said:
            process = subprocess.Popen([*command, str(1 + kills % 3)], stderr=said, cwd=tmp_path)
        while process.poll() is None and done(out) < before + later:
            pass
        if process.poll() is not None:
            assert process.returncode == 0, (tmp_path / "said").read_text()
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills > 5
    prepare(made(asked), out, 4)
    assert contents(out) == contents(whole)


def done(out: Path) -> int:
    """Tasks of all stages; some may vanish meanwhile, as all of them do at the end."""
    return sum(len(marks) for folder, _, marks in os.walk(out / ".work") if Path(folder).name == "completions")


@pytest.mark.slow
def test_the_recipe_of_gpt3_on_real_corpora(shared_data: Path, tmp_path: Path) -> None:
    """With every file of a kind, the broken ones included, and by the command."""
    crawl = [shared_data / name for name in ("webpages", "warc", "commoncrawl")]
    steps = [{"kind": "short"}, {"kind": "language", "keep": ["en"]}, {"kind": "boilerplate"}]
    steps += [{"kind": "quality", "filter": "gpt3"}, {"kind": "mask"}]
    asked = {
        "tokenizer": {"path": str(shared_data / "bpe")},
        "damaged_files": "keep",
        "validation_fraction": 0.02,
        "links": {"reddit": {"kind": "reddit", "paths": [shared_data / "webtext/reddit-top-csv.tar.xz"]}},
        "filters": {"gpt3": {"positives": ["webtext", "wikipedia", "books"], "negatives": ["crawl_text"], "alpha": 2}},
        "deduplicate": {"precedence": ["books", "wikipedia", "webtext"]},
        "decontaminate": {
            "sets": {
                "lambada": {"paths": [shared_data / "evals/lambada_test.jsonl"]},
                "boolq": {"paths": [shared_data / "evals/boolq.jsonl"]},
            }
        },
        "sources": {
            "books": {"kind": "books", "paths": [shared_data / "books/gutenberg-raw"]},
            "wikipedia": {
                "kind": "mediawiki",
                "paths": [
                    shared_data / f"wikipedia/enwiki-{each}.xml.bz2"
                    for each in ("2014-latest-pages-articles1-shortened", "2022-head-unclosed")
                ],
            },
            "webtext": {"kind": "jsonl", "paths": [shared_data / "webtext/openwebtext-0000-0699.jsonl.gz"]},
            "wet": {"kind": "wet", "paths": crawl[2:], "steps": steps[:2]},
            "crawl_text": {"kind": "jsonl", "paths": crawl[2:], "steps": steps},
            "crawl": {"kind": "warc", "paths": crawl, "steps": [*steps, {"kind": "karma", "links": "reddit"}]},
        },
    }
    (tmp_path / "gpt3.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(asked, default=str))))
    command = [
        sys.executable,
        "-P",
        "-m",
        "launcher.cli",
        "prepare",
        "gpt3.yaml",
        "--out",
        "out",
        "--workers",
        "2",
        "--json",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stderr
    told, report = json.loads(ended.stdout), json.loads((tmp_path / "out/prepare.json").read_text())
    assert report["filters"]["gpt3"]["auc"] > 0.95
    wikipedia, webtext = report["sources"]["wikipedia"], report["sources"]["webtext"]
    assert 15 < wikipedia["dropped"]["fuzzy_duplicate"] < 30 and webtext["documents"] >= 695
    found = report["evaluation_sets"]
    assert found["boolq"]["documents_cut"] >= 5 and found["lambada"]["examples"] == 5153
    crawl_text = report["sources"]["crawl_text"]
    assert crawl_text["read"] == 497 and crawl_text["dropped"]["empty"] == 15
    scores = crawl_text["histograms"]["score"]
    assert sum(n for _, n in scores["dropped"]) == crawl_text["dropped"]["quality"] > sum(n for _, n in scores["kept"])
    assert told["sources"].keys() == asked["sources"].keys() and verify_folder(tmp_path / "out") == []
    for name, source in told["sources"].items():
        kept = source["read"] - sum(source["dropped"].values()) + source["split"].get("pieces", 0)
        assert kept == source["documents"] > 0, name
    shutil.rmtree(tmp_path / "out")
