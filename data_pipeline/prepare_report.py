"""What became of the documents, for a person to judge: prepare.json, and prepare.html with the same in figures."""

from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml

from data_pipeline.durable import write_whole
from data_pipeline.manifest import Manifest
from data_pipeline.samples import Sample
from data_pipeline.steps.quality import BINS

Report = dict[str, Any]


def summary(manifest: Manifest) -> Report:
    """The numbers of a manifest."""
    sources = {
        name: {
            "read": source.read,
            "dropped": source.dropped,
            "masked": source.masked,
            "split": source.split,
            "documents": source.documents,
            "tokens": source.tokens,
            "validation_documents": sum(shard.documents for shard in source.splits["validation"]),
            "shards": sum(len(shards) for shards in source.splits.values()),
        }
        for name, source in manifest.sources.items()
    }
    links = {name: entry.model_dump(exclude={"domains"}) for name, entry in manifest.links.items()}
    tokenizer = manifest.tokenizer.model_dump(exclude={"file"})
    return {"tokenizer": tokenizer, "sources": sources, **({"links": links} if links else {})}


def write(
    out: Path,
    manifest: Manifest,
    counts: Mapping[str, Counter[str]],
    samples: Mapping[str, dict[str, dict[str, list[Sample]]]],
    **parts: Report,
) -> None:
    """Writes both files into `out`: counts and samples by source, and of other `parts` what they tell."""
    report = {"recipe_hash": manifest.recipe_hash, **summary(manifest)}
    for name, source in report["sources"].items():
        source["funnel"] = funnel(counts[name], source["documents"], parts)
        source["histograms"] = histograms(counts[name])
        source["samples"] = samples[name]
    report |= {name: part for name, part in parts.items() if part}
    write_whole(out / "prepare.json", orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
    write_whole(out / "prepare.html", _page(report))


def funnel(counts: Counter[str], documents: int, parts: Report) -> list[tuple[str, int]]:
    """What is left of a source behind each part of the work, in their order, and at the end its `documents`."""
    with_text = sum(number for name, number in counts.items() if name.startswith("length/read/"))
    steps = [(name.removeprefix("left/"), number) for name, number in counts.items() if name.startswith("left/")]
    rows = [("read", counts["read"])]
    by_address = counts["dropped/linked"] + counts["dropped/not_linked"]
    if steps[:1] == [("linked", with_text)] and by_address:  # before their text was looked for
        rows.append(("linked", counts["read"] - by_address))
        steps = steps[1:]
    rows += [("with text", with_text), *steps]
    if "duplicates" in parts:
        twins = counts["dropped/exact_duplicate"] + counts["dropped/fuzzy_duplicate"]
        rows.append(("deduplicate", rows[-1][1] - twins))
    return [*rows, ("decontaminate", documents)] if "evaluation_sets" in parts else rows


def histograms(counts: Counter[str]) -> dict[str, dict[str, list[tuple[float, int]]]]:
    """Histograms by name and kind: of counts `NAME/KIND/BIN` the bins, ascending, with their numbers."""
    found: dict[str, dict[str, list[tuple[float, int]]]] = {}
    for name, number in counts.items():
        if name.startswith(("length/", "score/")):
            what, kind, at = name.split("/")
            found.setdefault(what, {}).setdefault(kind, []).append((float(at), number))
    for what, kinds in found.items():  # all kinds on one axis, without a gap
        all_bins = [at for bins in kinds.values() for at, _ in bins]
        axis = np.arange(0, 1, 1 / BINS) if what == "score" else np.arange(min(all_bins), max(all_bins) + 1)
        for bins in kinds.values():
            there = {round(at, 2): number for at, number in bins}
            bins[:] = [(at, there.get(at, 0)) for at in axis.round(2).tolist()]
    return found


def _page(report: Report) -> str:
    from jinja2 import Environment, StrictUndefined  # a run that only looks at a manifest need not wait for it

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["length"] = lambda value: _short(2**value)
    environment.filters["binned"] = _binned
    environment.filters["yaml"] = lambda value: yaml.safe_dump(value, sort_keys=False, width=120)
    template = files("data_pipeline").joinpath("prepare_report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(report=report)


def _binned(histograms: dict[str, list[int]]) -> dict[str, list[tuple[float, int]]]:
    """Of numbers in equal parts of 0 to 1 the parts' beginnings with them."""
    return {kind: [(at / len(bins), number) for at, number in enumerate(bins)] for kind, bins in histograms.items()}


def _short(number: float) -> str:
    for unit, size in (("M", 2**20), ("k", 2**10)):
        if number >= size:
            return f"{number / size:.0f}{unit}"
    return f"{number:.0f}"
