"""Our stream of training data against others: the same tokens, in turn on the same machine.

    python benchmarks/stream.py [--out benchmarks/results] [--rounds 15] [--data DIR] [--cold] [--scale]
    python benchmarks/stream.py --rounds 1 --tokens 2M          for trying it out

Every measurement is a process of its own (benchmarks/stream_contenders.py). A round measures each contender once, in an
order that is rotated from round to round. `make stream-bench-env` builds the environment of those that clash with
ours. What breaks is named in the result and stops nothing else.
"""

import argparse
import json
import os
import re
import shlex
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from compare import METHOD, Ratio, paired_ratio
from step import machine
from stream_contenders import BATCH, WINDOW, Job
from stream_data import FORMATS
from stream_large import cold, scale
from stream_process import BrokenError, measure

HERE = Path(__file__).resolve().parent
OTHER_PYTHON = HERE.parent / ".stream-bench-venv" / "bin" / "python"
OURS = ("thalweg", "numpy", "hf")
"""Kinds of contenders that run in our own environment."""
FORMAT = {"numpy": "flat", "hf": "arrow", "grain": "arrayrecord"}
"""Where it is not the name of the kind."""
SPEED, OF_NUMPY, QUICKER, RESUME_AT, GIVE_UP = 2.5, 0.8, 10.0, 3000, 3
WHAT = (
    "Every number is from a process of its own, and all deliver int64 tensors [8, 2049]. The first batch is timed from "
    "after the imports on, from when torch and NumPy were imported and the contender was not, and from the start of "
    "the process. Resuming is timed as the first batch is, at a batch in "
    "the middle, as the contender documents it; it is exact if that batch is, value by value, the one that an "
    "undisturbed process delivered there. Tokens a second are those after 21 batches over {seconds} s, of streams that "
    "end over nine tenths of their pass at most; ours and NumPy's go on. Megatron's also holds labels, masks and "
    "positions, which the others leave to the training. Memory is the most that a process and its workers held at a "
    "time that is no file's (RssAnon, looked at every 20 ms; pages that workers share with their parent count for "
    "each), imports included; over the imports is what came on top. Files are local, uncompressed and in the page "
    "cache; caches and indices that a library keeps on disk are there. Tokens are made up: Zipf's law, log-normal "
    "documents."
)


Value = Callable[[dict[str, Any]], float]
"""What is taken from the answer of a process."""


@dataclass
class Cell:
    """A contender with so many workers, and what it did in each round; None where it failed."""

    contender: str
    workers: int
    reference: dict[str, Any] = field(default_factory=dict)
    run: list[dict[str, Any] | None] = field(default_factory=list)
    resume: list[dict[str, Any] | None] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The library."""
        return self.contender.split()[0]

    @property
    def name(self) -> str:
        """What it is called in the result."""
        return f"{self.contender}, {self.workers} workers" if self.workers else self.contender

    def values(self, task: str, value: Value) -> list[float]:
        """What was measured in all rounds that did not fail."""
        return [value(each) for each in getattr(self, task) if each]

    def middle(self, task: str, value: Value) -> float:
        """The median, NaN where there is none."""
        values = self.values(task, value)
        return statistics.median(values) if values else float("nan")

    def exact(self) -> str:
        """Whether it resumed where it should."""
        found = [each["digest"] == self.reference.get("digest") for each in self.resume if each]
        return "-" if not found else "yes" if all(found) else "**no**"


def cells(only: Iterable[str] | None) -> list[Cell]:
    """What is measured; workers where a contender has such a thing."""
    every = [Cell("thalweg", 0), Cell("numpy", 0)]
    for contender in ("litdata", "mds", "megatron", "hf", "hf stream", "grain"):
        every += [Cell(contender, workers) for workers in (0, 2)]
    return every if only is None else [each for each in every if each.kind in only]


class Bench:
    """Data, cells and the rounds over them."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        """`folder` is where data, states and the words of all processes go."""
        self.options, self.folder = options, folder
        self.cells = cells(options.only)
        self.log = folder / "words.log"
        self.batches = options.tokens // WINDOW // BATCH
        self.resume_at = min(RESUME_AT, self.batches // 2)

    def python(self, kind: str) -> Path:
        """The interpreter that has what a contender imports."""
        return Path(sys.executable) if kind in OURS else self.options.other_python

    def write(self) -> None:
        """Writes each format that is not there; a cell without data is left out."""
        broken: dict[str, str] = {}
        formats = {FORMAT.get(each.kind, each.kind): self.python(each.kind) for each in self.cells}
        for name, python in {"flat": Path(sys.executable), **formats}.items():
            assert name in FORMATS
            say(f"writing {name}")
            if not python.exists():
                broken[name] = "has no environment: make stream-bench-env"
                continue
            command: list[str | Path] = [python, HERE / "stream_data.py", name, self.folder, str(self.options.tokens)]
            told = measure(command, self.log, timeout=1800)
            if "error" in told:
                broken[name] = f"its data could not be written ({told['error']})"
        for cell in self.cells:
            if (format := FORMAT.get(cell.kind, cell.kind)) in broken:
                cell.failures.append(f"{cell.name}: {broken[format]}")

    def warm(self) -> None:
        """Reads all files once, so that they are in the page cache."""
        for path in (self.folder / str(self.options.tokens)).rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    while file.read(2**24):
                        pass

    def do(self, cell: Cell, task: str) -> dict[str, Any] | None:
        """One process; None if it failed, or this task of the cell has failed too often."""
        if sum(each.startswith(f"{cell.name}: {task} ") for each in cell.failures) >= GIVE_UP:
            return None
        job = Job(
            contender=cell.contender,
            workers=cell.workers,
            task=task,
            folder=str(self.folder / str(self.options.tokens)),
            batches=self.batches,
            resume_at=self.resume_at,
            seconds=self.options.seconds,
            state=str(self.folder / f"{cell.name}.state"),
            started=time.monotonic(),
        )
        script = HERE / "stream_contenders.py"
        told = measure([self.python(cell.kind), "-P", script, json.dumps(asdict(job))], self.log, self.options.timeout)
        if "error" in told:
            cell.failures.append(f"{cell.name}: {task} failed ({told['error']})")
            say(cell.failures[-1])
            return None
        return told

    def measure(self) -> None:
        """An undisturbed run of each, then all rounds."""
        able = [each for each in self.cells if not each.failures]
        for cell in able:
            cell.reference = self.do(cell, "reference") or {}
            say(f"{cell.name}: {cell.reference.get('version', 'no reference')}")
        for turn in range(self.options.rounds):
            at = turn % max(len(able), 1)
            for cell in able[at:] + able[:at]:
                cell.run.append(self.do(cell, "run"))
                cell.resume.append(self.do(cell, "resume") if cell.reference else None)
            say(f"round {turn + 1} of {self.options.rounds}")

    def report(self) -> list[str]:
        """What each did, what it means and what broke."""
        versions = sorted({cell.reference["version"] for cell in self.cells if cell.reference})
        lines = [
            f"## {self.options.tokens / 1e6:g} M tokens, batches of {BATCH} x {WINDOW}",
            "",
            f"Resumed at batch {self.resume_at} of {self.batches}. " + "; ".join(versions) + ".",
            "",
            *table(self.cells),
            "",
            *verdicts(self.cells),
        ]
        broken = Counter(each for cell in self.cells for each in cell.failures)
        named = [
            f"- {each}, {times} of {self.options.rounds}" if times > 1 else f"- {each}"
            for each, times in broken.items()
        ]
        return lines + (["What broke:", "", *named, ""] if broken else [])


def say(words: str) -> None:
    """Tells how far it is."""
    print(words, file=sys.stderr, flush=True)


def table(cells: list[Cell]) -> list[str]:
    """Medians of each cell."""
    lines = [
        "| contender | workers | M tokens/s | first batch, ms | with its imports | from the start | resumed, ms "
        "| with its imports | exactly | anonymous MB | over the imports |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | :---: | ---: | ---: |",
    ]
    for cell in cells:
        lines.append(
            f"| {cell.contender} | {cell.workers} | {cell.middle('run', rate) / 1e6:.1f} "
            f"| {1e3 * cell.middle('run', first):.1f} | {1e3 * cell.middle('run', with_imports):.0f} "
            f"| {1e3 * cell.middle('run', from_start):.0f} | {1e3 * cell.middle('resume', first):.1f} "
            f"| {1e3 * cell.middle('resume', with_imports):.0f} | {cell.exact()} "
            f"| {cell.middle('run', peak) / 1e6:.0f} | {cell.middle('run', over_imports) / 1e6:.0f} |"
        )
    return [line.replace(" nan ", " - ") for line in lines]


def rate(told: dict[str, Any]) -> float:
    """Tokens a second."""
    return float(told["rate"])


def first(told: dict[str, Any]) -> float:
    """Seconds from after the imports to the first batch."""
    return float(told["first"])


def with_imports(told: dict[str, Any]) -> float:
    """Seconds from when torch was there to the first batch."""
    return float(told["with_imports"])


def from_start(told: dict[str, Any]) -> float:
    """Seconds from the start of the process to the first batch."""
    return float(told["from_start"])


def peak(told: dict[str, Any]) -> float:
    """Bytes of memory."""
    return float(told["peak"])


def over_imports(told: dict[str, Any]) -> float:
    """Bytes of memory over what the imports took, at least one page."""
    return float(max(told["peak"] - told["imported"], 4096))


def times_as_much(above: Cell, below: Cell, task: str, value: Value) -> Ratio | None:
    """How many times as much one is as the other, over the rounds in which neither failed."""
    pairs = [(a, b) for a, b in zip(getattr(above, task), getattr(below, task), strict=True) if a and b]
    return paired_ratio([value(a) for a, _ in pairs], [value(b) for _, b in pairs]) if pairs else None


def verdicts(cells: list[Cell]) -> list[str]:
    """Ours against the fastest library, NumPy and the three that start the slowest."""
    measured = [each for each in cells if each.values("run", rate)]
    alone = {each.contender: each for each in measured if each.workers == 0}
    if (ours := alone.get("thalweg")) is None:
        return []
    rows: list[tuple[str, Ratio | None, float]] = []
    libraries = [each for each in measured if each.kind not in ("thalweg", "numpy")]
    if libraries:
        fastest = max(libraries, key=lambda cell: cell.middle("run", rate))
        rows.append((f"tokens/s, ours over {fastest.name}", times_as_much(ours, fastest, "run", rate), SPEED))
    if numpy := alone.get("numpy"):
        rows.append(("tokens/s, ours over NumPy", times_as_much(ours, numpy, "run", rate), OF_NUMPY))
    for task, words in (("run", "first batch"), ("resume", "resuming")):
        for value, since in ((first, ""), (with_imports, " with its imports")):
            for cell in slowest(libraries, task, value):
                ratio = times_as_much(cell, ours, task, value)
                rows.append((f"time, {words}{since}, {cell.name} over ours", ratio, QUICKER))
    if numpy:
        rows.append(("memory, NumPy over ours", times_as_much(numpy, ours, "run", peak), 1.0))
        over = times_as_much(numpy, ours, "run", over_imports)
        rows.append(("memory over the imports, NumPy over ours", over, 1.0))
    lines = [
        f"| {words} | {ratio} | at least {target:g}: **{ratio.at_least(target)}** |"
        for words, ratio, target in rows
        if ratio
    ]
    return ["| | ratio (95 %) | target |", "| --- | --- | --- |", *lines, ""] if lines else []


def slowest(libraries: list[Cell], task: str, value: Value) -> list[Cell]:
    """The three libraries that take the longest to begin, each in its quickest way and without workers."""
    quickest: dict[str, Cell] = {}
    for cell in libraries:
        if cell.workers == 0 and cell.values(task, value):
            best = quickest.setdefault(cell.kind, cell)
            if cell.middle(task, value) < best.middle(task, value):
                quickest[cell.kind] = cell
    return sorted(quickest.values(), key=lambda cell: -cell.middle(task, value))[:3]


def count(words: str) -> int:
    """2M or 2_000_000."""
    match = re.fullmatch(r"([0-9][0-9_.]*)([kMG]?)", words)
    if match is None:
        raise argparse.ArgumentTypeError(f"{words} is no number like 2M")
    return round(float(match[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[match[2]])


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="pairs; at least 6 for an interval")
    parser.add_argument("--tokens", type=count, default=count("100M"), help="of the three sources together")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a throughput measurement at most")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds after which a process is ended")
    parser.add_argument(
        "--data",
        type=Path,
        help="folder that keeps the data and, in words.log, what all processes said; a temporary one otherwise",
    )
    kinds = {each.kind for each in cells(None)}
    parser.add_argument("--only", nargs="*", help="kinds of contenders; none for --cold and --scale alone")
    parser.add_argument("--other-python", type=Path, default=OTHER_PYTHON, help="interpreter of the others")
    parser.add_argument("--cold", action="store_true", help="also a cold page cache")
    parser.add_argument("--cold-tokens", type=count, default=count("1.2G"), help="of that file, 2 bytes each")
    parser.add_argument("--scale", action="store_true", help="also start-up on 10^12 tokens")
    parser.add_argument("--out", type=Path, help="folder for DATE-stream-cpu.md and .json")
    options = parser.parse_args(arguments)
    if unknown := set(options.only or []) - kinds:
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(sorted(kinds))}")
    if options.tokens < 40 * BATCH * WINDOW * 2:
        parser.error("--tokens: give at least 1.4M, so that something is left behind the warm-up")
    return options


def main() -> None:
    """Measures, prints, and writes where it is told to."""
    options = parse(sys.argv[1:])
    where = machine("cpu", len(os.sched_getaffinity(0)))
    command = shlex.join(["python", "benchmarks/stream.py", *sys.argv[1:]])
    report = [f"# Streams of training data, {date.today()}", "", f"`{command}` on {where}.", "", METHOD, ""]
    raw: dict[str, Any] = {"date": str(date.today()), "command": command, "machine": where}
    with tempfile.TemporaryDirectory(prefix="thalweg-stream-") as temporary:
        folder = (options.data or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(options, folder)
        if bench.cells:
            bench.write()
            bench.warm()
            bench.measure()
            report += [WHAT.format(seconds=f"{options.seconds:g}"), "", *bench.report()]
            raw["cells"] = [asdict(each) for each in bench.cells]
        for wanted, part in ((options.cold, cold), (options.scale, scale)):
            if wanted:
                try:
                    lines, raw[part.__name__] = part(options, folder)
                except BrokenError as error:
                    lines = [f"## What broke: {part.__name__}", "", f"{error}.", ""]
                report += lines
    text = "\n".join(report)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        stem = options.out / f"{date.today()}-stream-cpu"
        stem.with_suffix(".md").write_text(text)
        stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
