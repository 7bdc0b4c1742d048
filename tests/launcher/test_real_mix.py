"""The acceptance run on real corpora: Common Crawl, web pages, Wikipedia and books at GPT-3's shares."""

import json
from pathlib import Path

import pytest
import yaml

from processes import metrics, thalweg


@pytest.mark.slow
def test_a_real_mix_is_prepared_and_trained_on_with_exact_shares(shared_data: Path, tmp_path: Path) -> None:
    recipe = {
        "tokenizer": {"path": "${DATA}/bpe"},
        "sources": {
            "common_crawl": {"kind": "wet", "paths": ["${DATA}/commoncrawl/*.wet.gz"]},
            "webtext": {"kind": "warc", "paths": ["${DATA}/webpages/*.warc.gz"]},
            "books": {"kind": "books", "paths": ["${DATA}/books"]},
            "wikipedia": {"kind": "mediawiki", "paths": ["${DATA}/wikipedia/enwiki-*.xml.bz2"]},
        },
    }
    shares = {"common_crawl": 0.60, "webtext": 0.22, "books": 0.16, "wikipedia": 0.03}
    run = {
        "name": "real",
        "model": {"n_layer": 1, "n_head": 2, "d_model": 32, "n_ctx": 64},
        "data": {"path": "prepared", "mixture": shares},
        "train": {"tokens": 40960, "batch_tokens": 1024, "lr": 3e-3},
        "zero": {"stage": 2},
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    out, _ = thalweg("prepare", "data.yaml", "--out", "prepared", "--json", cwd=tmp_path, DATA=str(shared_data))
    for source in json.loads(out)["sources"].values():
        assert source["read"] == source["documents"] + sum(source["dropped"].values()) and source["tokens"] > 50_000
    thalweg("verify", "prepared", cwd=tmp_path)
    thalweg("launch", "run.yaml", "--processes", 2, cwd=tmp_path)
    lines = metrics(tmp_path / "runs" / "real")
    for line in lines:
        for name, share in shares.items():
            assert abs(line["tokens_by_source"][name] - share / 1.01 * line["tokens"]) < 1.01 * 64
    assert lines[-1]["step"] == 40 and lines[-1]["loss"] < lines[0]["loss"] - 1
