"""What became of the documents, for a person to judge: prepare.json, and prepare.html with the same in figures."""

from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, StrictUndefined

from data_pipeline.durable import write_whole
from data_pipeline.manifest import Manifest
from data_pipeline.samples import Sample

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
    links = {name: entry.model_dump() for name, entry in manifest.links.items()}
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
    report = summary(manifest)
    for name, source in report["sources"].items():
        source["funnel"] = funnel(counts[name])
        source["histograms"] = histograms(counts[name])
        source["samples"] = samples[name]
    report |= {name: part for name, part in parts.items() if part}
    write_whole(out / "prepare.json", orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
    write_whole(out / "prepare.html", _page(report))


def funnel(counts: Counter[str]) -> list[tuple[str, int]]:
    """What is left of a source behind each of its steps, in their order."""
    first = [("read", counts["read"]), ("with text", counts["read"] - _before_steps(counts))]
    return first + [(name.removeprefix("left/"), number) for name, number in counts.items() if name.startswith("left/")]


def _before_steps(counts: Counter[str]) -> int:
    """Documents that readers dropped, and those that are empty: all whose length was not counted."""
    return counts["read"] - sum(number for name, number in counts.items() if name.startswith("length/read/"))


def histograms(counts: Counter[str]) -> dict[str, dict[str, list[tuple[float, int]]]]:
    """Histograms by name and kind: of counts `NAME/KIND/BIN` the bins, ascending, with their numbers."""
    found: dict[str, dict[str, list[tuple[float, int]]]] = {}
    for name, number in counts.items():
        if name.startswith(("length/", "score/")):
            what, kind, at = name.split("/")
            found.setdefault(what, {}).setdefault(kind, []).append((float(at), number))
    for bins in found.get("length", {}).values():  # without a gap
        there = dict(bins)
        bins[:] = [(float(at), there.get(float(at), 0)) for at in range(int(min(there)), int(max(there)) + 1)]
    return {what: {kind: sorted(bins) for kind, bins in kinds.items()} for what, kinds in found.items()}


def _page(report: Report) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["length"] = lambda value: _short(2**value)
    environment.filters["binned"] = _binned
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
