import json
import re
from pathlib import Path

from corpora import prose, recipe
from data_pipeline.prepare import prepare


def test_the_report_tells_what_each_step_kept_and_dropped_and_runs_no_text(tmp_path: Path) -> None:
    texts = [prose(n, 40) for n in range(30)] + ["<script>alert(1)</script>", "short", " "]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    steps = [{"kind": "short", "characters": 30}, {"kind": "short", "characters": 10}]
    asked = recipe({"a": {"kind": "jsonl", "paths": [tmp_path / "a.jsonl"], "steps": steps}})
    prepare(asked, tmp_path / "out", workers=1)
    source = json.loads((tmp_path / "out/prepare.json").read_text())["sources"]["a"]
    assert (source["read"], source["documents"], source["dropped"]) == (33, 30, {"empty": 1, "short": 2})
    assert source["funnel"] == [["read", 33], ["with text", 32], ["short 1", 30], ["short 2", 30]]
    assert sum(number for _, number in source["histograms"]["length"]["read"]) == 32
    assert sum(number for _, number in source["histograms"]["length"]["kept"]) == 30
    assert [each["text"] for each in source["samples"]["short 1"]["dropped"]] in (
        ["<script>alert(1)</script>", "short"],
        ["short", "<script>alert(1)</script>"],
    )
    assert len(source["samples"]["short 1"]["kept"]) == 10 and "dropped" not in source["samples"]["short 2"]
    page = (tmp_path / "out/prepare.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page)  # nothing is fetched
    assert "90.9 %" in page
