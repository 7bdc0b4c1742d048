"""GPT-3's quality filter: what it scores, what it keeps and what its report says."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest

from data_pipeline.errors import InputError
from data_pipeline.quality import QualityFilter, draw, hasher, keeps
from data_pipeline.quality_config import FilterConfig
from data_pipeline.quality_fit import fit, fit_alpha
from filters import texts

RIVER = 24_154
"""The column of "river" among 2^18: MurmurHash3, as in all files of this version."""


def hand_made(**others: Any) -> QualityFilter:
    coefficients = np.zeros(2**18, np.float32)
    coefficients[RIVER] = 3.0
    return QualityFilter(coefficients, -1.0, **{"alpha": 9.0, "seed": 0, "report": {}} | others)


def test_a_score_is_the_logistic_function_of_hashed_words() -> None:
    assert hasher(2**18).transform([["river"]]).indices.tolist() == [RIVER]
    length = math.hypot(math.log(3), math.log(2))
    expected = 1 / (1 + math.exp(1 - 3 * math.log(3) / length))
    assert hand_made().score("River, RIVER: sea!") == pytest.approx(expected, rel=1e-12)
    assert hand_made().score(" \n?") == hand_made().score("sea") == pytest.approx(1 / (1 + math.e))
    assert hand_made().score("sea " * 5000 + "river") == hand_made().score("sea")


@pytest.mark.parametrize("alpha", [0.01, 3.0, 9.0, 2000.0])
def test_what_is_kept_is_distributed_as_numpys_pareto(alpha: float) -> None:
    uniform = [draw(f"document {number}", "keep", 7) for number in range(20_000)]
    pareto = np.random.default_rng(0).pareto(alpha, 20_000)
    for score in (0.0, 0.3, 0.8, 0.99, 1.0):
        kept, theory = np.mean([keeps(score, each, alpha) for each in uniform]), (2 - score) ** -alpha
        allowed = 4 * math.sqrt(2 * theory * (1 - theory) / 20_000)
        assert abs(kept - theory) <= allowed and abs(kept - np.mean(pareto > 1 - score)) <= allowed


def test_draws_are_uniform_and_those_of_other_purposes_and_seeds_independent() -> None:
    names = [f"document {number} " * (1 + number % 40) for number in range(10_000)]
    draws = np.array([[draw(name, *key) for name in names] for key in (("keep", 0), ("keep", 1), ("example", 0))])
    assert all(kstest(each, "uniform").pvalue > 0.001 for each in draws) and draws.max() < 1
    assert abs(np.corrcoef(draws) - np.eye(3)).max() < 0.04


def test_another_seed_keeps_others_and_a_higher_score_keeps_all_of_a_lower_one() -> None:
    def kept(score: float, seed: int) -> set[int]:
        return {n for n in range(2000) if hand_made(seed=seed, alpha=2.0).keeps(score, f"document {n}")}

    assert kept(0.2, 0) < kept(0.6, 0) and kept(0.6, 0) != kept(0.6, 1)
    assert len(kept(1.0, 0)) == 2000


@pytest.mark.parametrize("alpha", [2.0, 9.0, 20.0])
def test_the_alpha_of_scores_that_were_drawn_by_it_is_found(alpha: float) -> None:
    drawn = np.random.default_rng(1).pareto(alpha, 8_000)
    assert fit_alpha(1 - drawn) == pytest.approx(alpha, rel=0.04)


def test_a_filter_is_one_file_that_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fit(texts("good", 300), texts("bad", 300), features=2**12, seed=3)
    made.save(tmp_path / "a" / "one.npz")
    read = QualityFilter.load(tmp_path / "a" / "one.npz")
    assert (read.intercept, read.alpha, read.seed) == (made.intercept, made.alpha, 3)
    assert [read.score(text) for text in texts("bad", 20, 1)] == [made.score(text) for text in texts("bad", 20, 1)]
    assert json.dumps(read.report) == json.dumps(made.report)
    whole = (tmp_path / "a" / "one.npz").read_bytes()
    fit(texts("good", 300), texts("bad", 300), features=2**12, seed=3).save(tmp_path / "two.npz")
    assert (tmp_path / "two.npz").read_bytes() == whole
    monkeypatch.setattr(np, "savez", lambda file, **arrays: file.write(whole[:1000]) / 0)
    with pytest.raises(ZeroDivisionError):
        made.save(tmp_path / "a" / "one.npz")
    assert (tmp_path / "a" / "one.npz").read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"text", None, "cut", "other version"])
def test_what_is_no_filter_is_refused_with_its_name(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "broken.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        hand_made().save(path)
        whole = path.read_bytes()
        path.write_bytes(
            whole[:5000] if content == "cut" else whole.replace(b'"format_version": 1', b'"format_version": 2')
        )
    with pytest.raises(InputError, match=r"broken\.npz: (cannot be read|is no quality filter|is broken)"):
        QualityFilter.load(path)


def test_the_report_tells_of_documents_that_were_held_out() -> None:
    report = fit(texts("good", 900), texts("bad", 600), features=2**12, alpha=4.0).report
    trained, held_out = report["trained"], report["held_out"]
    assert {side: trained[side] + held_out[side] for side in trained} == {"positives": 900, "negatives": 600}
    assert 0.15 < held_out["positives"] / 900 < 0.25 and 0.15 < held_out["negatives"] / 600 < 0.25
    assert {side: sum(counts) for side, counts in report["histograms"].items()} == held_out | {
        "kept_negatives": round(report["kept"]["negatives"] * held_out["negatives"])
    }
    assert sum(part["documents"] for part in report["calibration"]) == sum(held_out.values())
    assert report["kept"]["positives"] == pytest.approx(report["kept_in_theory"]["positives"], abs=0.12)
    assert dict(report["words"]["positives"])["river"] > 0 > dict(report["words"]["negatives"])["login"]


def test_what_cannot_be_told_apart_is_not() -> None:
    """Documents that were held out are not trained on: else they would be told apart."""
    report = fit(texts("good", 500, seed=1), texts("good", 500, seed=2), features=2**12).report
    assert 0.35 < report["auc"] < 0.65


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"positives": ["a"]}, "give positives and negatives"),
        ({"positives": ["a"], "negatives": ["b", "a"]}, "a: among positives and negatives"),
        ({"positives": ["a", "a"], "negatives": ["b"]}, "names a source twice"),
        ({"positives": ["a"], "negatives": ["b"], "alpha": 0}, "greater than 0"),
        ({"path": "/a.npz", "negatives": ["b"], "seed": 3}, "leave out negatives, seed"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FilterConfig.model_validate(fields)
    trained_before = FilterConfig.model_validate({"path": "/a.npz"})
    assert FilterConfig.model_validate(trained_before.model_dump(mode="json")) == trained_before


def test_webtext_is_told_from_raw_crawl(shared_data: Path) -> None:
    def read(name: str) -> dict[str, None]:
        with gzip.open(shared_data / name, "rt") as file:
            return dict.fromkeys(text for line in file if (text := json.loads(line)["text"]).strip())

    positives = read("webtext/openwebtext-0000-0699.jsonl.gz")
    negatives = read("commoncrawl/CC-MAIN-2019-30-ccby.first497.jsonl.gz")
    report = fit(positives, negatives, features=2**18).report
    assert report["held_out"]["positives"] > 100 and report["held_out"]["negatives"] > 60
    assert report["auc"] > 0.95
    off = [part["documents"] * abs(part["score"] - part["positives"]) for part in report["calibration"]]
    assert sum(off) / sum(report["held_out"].values()) < 0.1
    assert report["distance_to_positives"]["kept_negatives"] < 0.1 < 0.5 < report["distance_to_positives"]["negatives"]
