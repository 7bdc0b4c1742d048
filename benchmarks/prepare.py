"""`thalweg prepare` against datatrove's own blocks for the same steps: whole runs, steps, tokenising, memory.

    python benchmarks/prepare.py [DATA] [--out benchmarks/results] [--rounds 15] [--only whole steps tokenising memory]

Whole runs are processes of their own, started and ended, on one core; contenders take turns, in an order that is
rotated from round to round. DATA is the folder of shared data. `make prepare-bench` installs what datatrove needs
besides our requirements and runs it all.
"""

import argparse
import itertools
import json
import os
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compare import METHOD, Ratio, paired_ratio
from prepare_contenders import PAGES, ROWS, counts_of_ours, write_recipe
from prepare_copies import write_copies
from prepare_process import Used, run
from step import machine

from data_pipeline.tokenizer import from_path

HERE = Path(__file__).resolve().parent
WHOLE, TOKENISING, MEMORY = 2, 10, 1.1
"""Targets: at least 2 times as fast, at least 10, at most 1.1 times the memory."""
OURS = {"thalweg": "resiliparse", "thalweg, trafilatura": "trafilatura"}
"""Contenders by extractor."""
STOCK = {"datatrove": "spacy", "datatrove, regex": "regex"}
"""Contenders by words."""
PACKAGES = (
    *("datatrove", "trafilatura", "resiliparse", "fastwarc", "warcio", "spacy", "gigatoken", "tokenizers"),
    *("xxhash", "rensa"),
)
SHARD_TOKENS = 2**20
COPIES = 10
DIFFERS = """\
Same steps: WARC and JSONL files, main text, rules of Gopher (repetition, quality) and C4, near-duplicates by MinHash
(14 bands of 8, words of 5), GPT-2's tokens into shards. No language is asked for: datatrove's filter fetches a model.
What differs:

* `thalweg` takes resiliparse for the main text, its default, and `thalweg, trafilatura` what datatrove's block takes,
  though by other settings: datatrove's asks for precision, leaves out pieces that it has seen on other pages, gives
  each page one second at most, and works in a process of its own to which pages are sent.
* datatrove's rules and its signatures take spaCy's words, its default for English; `datatrove, regex` takes ours, by a
  regular expression. Ours call the same rules.
* datatrove finds out what is HTML by libmagic, where we ask the header.
* Ours writes documents as zstandard, and datatrove as gzip; ours also makes hashes, samples and a report.
* datatrove is helped: trafilatura is imported before its first page, or the import takes the second of that page and of
  those after it; its hash gets bytes, as xxhash 4 refuses the strings that it gives; its shuffling is off.
"""


class Bench:
    """The measurements, in a folder of their own."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self._options, self._work = options, work
        self._tokenizer, self._inputs = work / "tokenizer.json", work / "inputs"
        from_path(options.data / "bpe").save(str(self._tokenizer))
        for kind, files in ((PAGES, options.pages), (ROWS, options.rows)):
            (self._inputs / kind).mkdir(parents=True)
            for name in files:
                shutil.copy(options.data / name, self._inputs / kind)

    def whole(self) -> dict[str, Any]:
        """Wall and CPU seconds, peak memory and counts of each contender, a number a round."""
        names = [*OURS, *STOCK]
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for turn in range(self._options.rounds):
            at = turn % len(names)
            for name in names[at:] + names[:at]:
                used, counts = self._ours(name) if name in OURS else self._stock(name)
                found[name].append(asdict(used) | {"counts": counts})
            print(f"whole: round {turn + 1} of {self._options.rounds}", file=sys.stderr, flush=True)
        sizes = {kind: sum(path.stat().st_size for path in (self._inputs / kind).iterdir()) for kind in (PAGES, ROWS)}
        return {"bytes": sizes, "rounds": found}

    def _ours(self, name: str) -> tuple[Used, dict[str, int]]:
        write_recipe(
            self._work / "recipe.yaml", self._inputs, self._options.data / "bpe", OURS[name], self._options.deduplicate
        )
        used = self._prepare(out := self._empty("out"))
        return used, counts_of_ours(out)

    def _prepare(self, out: Path) -> Used:
        command = ["-m", "launcher.cli", "prepare", self._work / "recipe.yaml", "--out", out, "--workers", "1"]
        return run(command, self._work / "log")

    def _stock(self, name: str) -> tuple[Used, dict[str, Any]]:
        out = self._empty("out")
        flags = ["--words", STOCK[name], *(["--deduplicate"] if self._options.deduplicate else [])]
        command = [HERE / "prepare_contenders.py", self._inputs, self._tokenizer, out, *flags]
        used = run(command, self._work / "log")
        return used, json.loads((out / "counts.json").read_text())

    def _empty(self, name: str) -> Path:
        shutil.rmtree(self._work / name, ignore_errors=True)
        return self._work / name

    def steps(self) -> dict[str, Any]:
        """CPU seconds of parts by contender, and the peak of a process that does one."""
        flags = ["--deduplicate"] if self._options.deduplicate else []
        told = self._parts("steps", self._inputs, *flags, "--rounds", str(self._options.rounds))
        peaks: dict[str, dict[str, int]] = {part: {} for part in told["seconds"]}
        for part, name in ((part, name) for part, contenders in told["seconds"].items() for name in contenders):
            peaks[part][name] = self._peak(*flags, "--part", part, "--contender", name)
        return told | {"peaks": peaks, "base": self._peak()}

    def _peak(self, *flags: str) -> int:
        command = [HERE / "prepare_parts.py", "once", self._inputs, self._tokenizer, self._work / "once.json", *flags]
        return run(command, self._work / "log").peak

    def tokenising(self) -> dict[str, Any]:
        """CPU seconds by corpus and contender, and whether ids are equal."""
        return self._parts("tokenising", self._options.data, "--rounds", str(self._options.rounds))

    def _parts(self, what: str, inputs: Path, *flags: str) -> dict[str, Any]:
        found = self._work / f"{what}.json"
        run([HERE / "prepare_parts.py", what, inputs, self._tokenizer, found, *flags], self._work / "log")
        told: dict[str, Any] = json.loads(found.read_text())
        return told

    def memory(self) -> dict[str, Any]:
        """Peaks of ours on `--copies` copies of the files and on ten times as many."""
        found: dict[str, Any] = {"files": [], "documents": [], "peaks": []}
        few, many = self._options.copies, COPIES * self._options.copies
        for copies in (few, many):
            found["files"].append(write_copies(self._inputs, self._work / f"copies-{copies}", copies))
        for turn in range(self._options.memory_rounds):
            peaks = []
            for copies in (few, many):
                inputs, recipe = self._work / f"copies-{copies}", self._work / "recipe.yaml"
                more = {"shard_tokens": SHARD_TOKENS}
                write_recipe(
                    recipe, inputs, self._options.data / "bpe", "resiliparse", self._options.deduplicate, **more
                )
                peaks.append(self._prepare(out := self._empty("out")).peak)
                found["documents"] = [*found["documents"], counts_of_ours(out)["kept"]][-2:]
            found["peaks"].append(peaks)
            print(f"memory: round {turn + 1} of {self._options.memory_rounds}", file=sys.stderr, flush=True)
        return found


def whole_report(found: dict[str, Any]) -> list[str]:
    """Whole runs."""
    rounds, size = found["rounds"], sum(found["bytes"].values())
    lines = [
        f"{found['bytes'][PAGES] / 1e6:.1f} MB of WARC and {found['bytes'][ROWS] / 1e6:.1f} MB of JSONL, as they lie.",
        "",
        "| contender | seconds | CPU seconds | MB a second of one core | peak MB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, each in rounds.items():
        wall, cpu, peak = (statistics.median(one[key] for one in each) for key in ("wall", "cpu", "peak"))
        lines.append(f"| {name} | {wall:.1f} | {cpu:.1f} | {size / cpu / 1e6:.2f} | {peak / 1e6:.0f} |")
    lines += ["", "| | ratio (95 %) | target |", "| --- | --- | --- |"]
    for key, unit in (("wall", "seconds"), ("cpu", "CPU seconds")):
        for stock, ours in itertools.product(STOCK, OURS):
            ratio = paired_ratio(*([one[key] for one in rounds[name]] for name in (stock, ours)))
            target = _target(ratio, WHOLE) if STOCK[stock] == "spacy" else ""
            lines.append(f"| {unit}, {stock} over {ours} | {ratio} | {target} |")
    return [*lines, "", *_funnels(rounds), ""]


def _funnels(rounds: dict[str, list[dict[str, Any]]]) -> list[str]:
    """How many documents each step left: least to most of all rounds."""
    steps = {step: None for each in rounds.values() for one in each for step in one["counts"]}
    lines = [f"| documents left by | {' | '.join(rounds)} |", f"| --- |{' ---: |' * len(rounds)}"]
    for step in steps:
        counts = [sorted({one["counts"][step] for one in each if step in one["counts"]}) for each in rounds.values()]
        cells = [" to ".join(f"{count:,}" for count in (found[:1] + found[1:][-1:])) or "-" for found in counts]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return lines


def _target(ratio: Ratio, least: float) -> str:
    return f"at least {least}: **{ratio.at_least(least)}**"


def steps_report(found: dict[str, Any]) -> list[str]:
    """Steps alone."""
    lines = [
        f"CPU seconds over the same {found['documents']} documents, {found['text_bytes'] / 1e6:.1f} MB of text, in "
        f"memory; of reading and extraction over {found['pages_bytes'] / 1e6:.1f} MB of WARC files. Tokenising to "
        "shards begins with opening the tokenizer, which `thalweg prepare` does once a process and this in each round, "
        "and ours with a comparison to `tokenizers` on the beginnings of 200 documents, once a task. Peaks are "
        f"of processes that do a part once; one that reads the documents alone has {found['base'] / 1e6:.0f} MB.",
        "",
        "| part | contender | CPU seconds | MB a second | documents a second | peak MB | datatrove over it (95 %) |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for part, contenders in found["seconds"].items():
        size = found["pages_bytes" if part.startswith("reading") else "text_bytes"]
        for name, seconds in contenders.items():
            median = statistics.median(seconds)
            ratio = "" if name == "datatrove" else str(paired_ratio(contenders["datatrove"], seconds))
            documents = "" if part.startswith("reading") else f"{found['documents'] / median:.0f}"
            speed, peak = f"{size / median / 1e6:.2f}", f"{found['peaks'][part][name] / 1e6:.0f}"
            lines.append(f"| {part} | {name} | {median:.2f} | {speed} | {documents} | {peak} | {ratio} |")
    return [*lines, ""]


def tokenising_report(found: dict[str, Any]) -> list[str]:
    """Tokenising alone."""
    files, seconds = found["files"].values(), found["seconds"]
    different = sum(each["different"] for each in files)
    documents = sum(each["documents"] for each in files)
    lines = [
        f"Ids are those of `encode_batch` in {documents - different:,} of {documents:,} documents, those of "
        f"{sum(not each['different'] for each in files)} of {len(files)} files in all. Timed are texts of "
        "each corpus, evenly spaced, of about 4 MB together. One thread "
        "(RAYON_NUM_THREADS=1, TOKENIZERS_PARALLELISM=false, one core); each round with new tokenizers, so that their "
        "caches are empty, in the batches of `thalweg prepare`. gigatoken's seconds include those of making an array "
        "for each document; those of the others do not.",
        "",
        "| corpus | MB | gigatoken, MB/s | encode_batch, MB/s | encode_batch_fast, MB/s |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    sizes = found["timed_bytes"]
    names = next(iter(seconds.values()))
    totals = {
        name: [sum(each) for each in zip(*(one[name] for one in seconds.values()), strict=True)] for name in names
    }
    for name, contenders in [*seconds.items(), ("all", totals)]:
        size = sizes.get(name, sum(sizes.values())) / 1e6
        speeds = " | ".join(f"{size / statistics.median(each):.1f}" for each in contenders.values())
        lines.append(f"| {name} | {size:.1f} | {speeds} |")
    lines += ["", "| | ratio (95 %) | target |", "| --- | --- | --- |"]
    for name in list(totals)[1:]:
        ratio = paired_ratio(totals[name], totals["gigatoken"])
        lines.append(f"| {name} over gigatoken | {ratio} | {_target(ratio, TOKENISING)} |")
    return [*lines, ""]


def memory_report(found: dict[str, Any]) -> list[str]:
    """Memory as the corpus grows."""
    few, many = zip(*found["peaks"], strict=True)
    ratio = paired_ratio(many, few)
    files, documents = found["files"], found["documents"]
    return [
        "Peak of `thalweg prepare` with one worker on copies of the same files under other names, each with words of "
        f"its own throughout; shards of {SHARD_TOKENS:,} tokens. {files[0]} files, {documents[0]:,} documents that are "
        f"kept: {statistics.median(few) / 1e6:.0f} MB. {files[1]} files, {documents[1]:,} documents: "
        f"{statistics.median(many) / 1e6:.0f} MB.",
        "",
        "| | ratio (95 %) | target |",
        "| --- | --- | --- |",
        f"| peak, {COPIES} times the files over once | {ratio} | at most {MEMORY}: **{ratio.at_most(MEMORY)}** |",
        "",
    ]


REPORTS = {
    "whole": ("Whole runs", whole_report),
    "steps": ("Steps alone", steps_report),
    "tokenising": ("Tokenising alone", tokenising_report),
    "memory": ("Memory", memory_report),
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = Path(os.environ.get("THALWEG_DATA", "../shared/data"))
    parser.add_argument("data", nargs="?", type=Path, default=where, help="the real corpora; or THALWEG_DATA")
    pages = [f"webpages/{name}.warc.gz" for name in ("newspaper", "mercury-parser")]
    parser.add_argument("--pages", nargs="+", default=pages, help="WARC files of DATA")
    rows = ["webtext/openwebtext-0000-0699.jsonl.gz"]
    parser.add_argument("--rows", nargs="+", default=rows, help="JSONL files of DATA")
    parser.add_argument("--rounds", type=int, default=15, help="at least 6 for an interval")
    parser.add_argument("--memory-rounds", type=int, default=6)
    parser.add_argument("--copies", type=int, default=2, help="of the files, in the smaller of the runs for memory")
    parser.add_argument("--without-deduplication", dest="deduplicate", action="store_false")
    parser.add_argument("--only", nargs="+", choices=REPORTS, default=list(REPORTS))
    parser.add_argument("--out", type=Path, help="folder for DATE-prepare-cpu.md and .json")
    options = parser.parse_args(arguments)
    options.data = options.data.resolve()  # a recipe takes paths as relative to its own folder
    return options


def main() -> None:
    """Measures, prints, and writes where it is told to."""
    options = parse(sys.argv[1:])
    where = machine("cpu", 1)
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    command = shlex.join(["python", "benchmarks/prepare.py", *sys.argv[1:]])
    report = [f"# Preparing, {date.today()}", "", f"`{command}` on {where}; {versions}.", "", METHOD, "", DIFFERS]
    raw: dict[str, Any] = {"date": str(date.today()), "command": command, "machine": where, "versions": versions}
    with tempfile.TemporaryDirectory(dir=options.out and options.out.resolve()) as name:
        bench = Bench(options, Path(name))
        for what in options.only:
            raw[what] = getattr(bench, what)()
            title, words = REPORTS[what]
            report += [f"## {title}", "", *words(raw[what])]
            if options.out:  # after each part: the next may take an hour
                stem = options.out / f"{date.today()}-prepare-cpu"
                stem.with_suffix(".md").write_text("\n".join(report))
                stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")
    print("\n".join(report))


if __name__ == "__main__":
    main()
