"""Where runs stand, read from their folders alone: whoever sees the disk sees the run, wherever its processes are."""

import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from data_pipeline.errors import InputError
from launcher.slurm import submission
from launcher.yaml_file import read_yaml
from training.fence import Sign, newest_life
from training.history import ending, last_life
from training.run_folder import read_lines

RUNS = Path("runs")
"""Looked into where no folder is named."""
TAIL = 256 * 1024
"""Bytes of metrics.jsonl that are read, from its end: it may have hundreds of millions."""
RECENT = 20
"""At most so many lines of it tell how fast the run is."""
LONGEST = 80
"""Characters of a reason in the table; --json has it whole."""
BEGINNINGS = ("start", "resume")
STATES = {"end": "ended", "stop": "stopped", "signal": "stopped", "error": "failed", "stall": "failed"}
"""By the event that says why a life ended."""
OF_A_JOB = {"finished": "ended", "again": "waiting", "ended": "stopped"}
"""By what a job says will follow."""


@dataclass(frozen=True)
class Status:
    """One run. What is not known, or does not apply, is None."""

    run: str
    state: str
    """waiting (no life has begun, or the next one is in a queue), starting, running, ended, stopped, failed or lost."""
    job: str | None
    nodes: list[str] | None
    processes: int | None
    step: int | None
    tokens: int | None
    tokens_asked: int | None
    tokens_per_second: float | None
    loss: float | None
    eta_seconds: float | None
    last_event: str | None
    last_event_seconds: float | None
    """Since then."""
    last_life: str | None
    """Why the last life that is over ended; of a run that goes on, the one before."""

    @property
    def share(self) -> float | None:
        """Of the tokens that were asked for."""
        return self.tokens / self.tokens_asked if self.tokens is not None and self.tokens_asked else None

    def as_json(self) -> dict[str, Any]:
        """As one JSON object."""
        return asdict(self) | {"share": self.share}


def statuses(run_dirs: list[Path]) -> list[Status]:
    """Of the runs named, or of all in `runs/`. Raises InputError for what is no run, and where there is none."""
    if run_dirs:
        return [status_of(each) for each in run_dirs]
    found = sorted(each for each in RUNS.glob("*") if _is_run(each))
    if not found:
        raise InputError(f"{RUNS}: holds no run; name the folders of runs")
    return [status_of(each) for each in found]


def _is_run(folder: Path) -> bool:
    signs = (folder / "events.jsonl", folder / submission.FOLDER / "submission.json")
    return any(each.is_file() for each in signs) or any((folder / "checkpoints").glob(".life-*"))


def status_of(run_dir: Path) -> Status:
    """Where a run stands. Raises InputError for a folder that is no run."""
    if not _is_run(run_dir):
        raise InputError(f"{run_dir}: is no run; name the folder of a run, such as {RUNS}/NAME")
    events, sign = read_lines(run_dir / "events.jsonl"), newest_life(run_dir)
    state, why = judge(events, sign)
    begun = [line for line in events if line["event"] in BEGINNINGS]
    slurm = _job(events)
    metrics = read_lines(run_dir / "metrics.jsonl", TAIL)
    if begun:  # what an earlier life did behind the place where this one went on does not count
        metrics = [line for line in metrics if line["life"] == begun[-1]["life"]]
    stands = metrics[-1] if metrics else begun[-1] if begun else {}
    asked, speed = _tokens_asked(run_dir), _tokens_per_second(metrics)
    tokens, goes_on = stands.get("tokens"), state == "running"
    return Status(
        run=str(run_dir),
        state=state,
        job=str(slurm["job"]) if "job" in slurm else None,
        nodes=slurm.get("nodes"),
        processes=begun[-1].get("processes") if begun else None,
        step=stands.get("step"),
        tokens=tokens,
        tokens_asked=asked,
        tokens_per_second=speed if goes_on else None,
        loss=stands.get("loss"),
        eta_seconds=max(asked - tokens, 0) / speed if goes_on and asked and tokens is not None and speed else None,
        last_event=events[-1]["event"] if events else None,
        last_event_seconds=max(time.time() - events[-1]["time"], 0.0) if events else None,
        last_life=_why_before(events, state) if state in ("running", "starting") else why,
    )


def _job(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What the job said of itself whose life the newest one is; empty where it was started without one."""
    has_begun = False
    for line in reversed(events):
        if line["event"] == "life":
            return dict(line)
        if line["event"] == "life_end" and has_begun:
            return {}
        has_begun = has_begun or line["event"] in BEGINNINGS
    return {}


def judge(events: list[dict[str, Any]], sign: Sign | None) -> tuple[str, str | None]:
    """The state of a run, by its events and its newest life; and why that is over, if it is.

    A life writes events and says when it began by one and the same clock.
    """
    own = [line for line in events if sign is None or line["time"] >= sign.told.get("time", 0.0)]
    has_begun = any(line["event"] in BEGINNINGS for line in own)
    if sign is not None and sign.is_alive:
        return ("running" if has_begun else "starting"), None
    end = ending(own)
    if end is None and not has_begun and (sign is None or sign.has_let_go):
        end = ending(last_life(events))  # it had nothing to do, or was told so: the run is as it was before
    if own and own[-1]["event"] == "life":
        return "starting", None
    if end is not None:
        return _state(end), _why(end)
    if sign is None or [line["event"] for line in own] == ["fork"]:
        return ("lost", "unknown") if has_begun else ("waiting", None)
    if sign.has_let_go:
        return "failed", "left without a word in events.jsonl: see its log"
    if sign.has_died:
        return "failed", f"killed without a word ({sign.name})"
    return "lost", f"no sign of life of {sign.name} for {duration(sign.silent)}"


def _state(end: dict[str, Any]) -> str:
    if end["event"] != "life_end":
        return STATES[end["event"]]
    return "failed" if end["is_failure"] and end["then"] == "ended" else OF_A_JOB[end["then"]]


def _why(end: dict[str, Any]) -> str:
    """An event that ended a life, for a person."""
    match end["event"]:
        case "end":
            return "done"
        case "stop":
            return f"thalweg stop ({end.get('by', 'unknown')})"
        case "signal":
            return str(end.get("signal", "signal"))
        case "life_end":
            return str(end["reason"])
        case "stall":
            return f"stood still for {duration(end.get('seconds', 0.0))}: stalls/{end.get('folder', '')}"
    return f"error: {' '.join(str(end.get('reason', 'unknown')).split())}"


def _why_before(events: list[dict[str, Any]], state: str) -> str | None:
    """Why the life before the one that goes on ended; None where there was none."""
    begun = [at for at, line in enumerate(events) if line["event"] in BEGINNINGS]
    if state == "starting":
        begun.append(len(events))
    if len(begun) < 2:
        return None
    before = events[begun[-2] : begun[-1]]
    if (end := ending(before)) is not None:
        return _why(end)
    return next((line["reason"] for line in before if line["event"] == "life"), "ended without a word")


def _tokens_asked(run_dir: Path) -> int | None:
    try:
        tokens = read_yaml(run_dir / "config.yaml").get("train", {}).get("tokens")
    except (InputError, AttributeError):  # it is not there, or was torn: one run must not hide the others
        return None
    return tokens if isinstance(tokens, int) else None


def _tokens_per_second(lines: list[dict[str, Any]]) -> float | None:
    """Over the last lines of a life, the first one left out: it has what was compiled in it."""
    recent = [(before, line) for before, line in pairwise(lines[-RECENT - 1 :]) if line["tokens"] > before["tokens"]]
    seconds = sum((line["tokens"] - before["tokens"]) / line["tokens_per_second"] for before, line in recent)
    if seconds:
        return float(sum(line["tokens"] - before["tokens"] for before, line in recent) / seconds)
    return float(lines[-1]["tokens_per_second"]) if lines else None


def duration(seconds: float) -> str:
    """In its two largest units."""
    for size, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} {seconds % size // part:.0f} {smaller}"
    return f"{seconds // 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def table(runs: list[Status]) -> Table:
    """A line a run."""
    shown = Table(box=None, pad_edge=False)
    for column in ("run", "state", "job", "nodes", "processes", "step", "tokens", "tokens/s", "loss", "ETA"):
        is_number = column in ("processes", "step", "tokens", "tokens/s", "loss", "ETA")
        shown.add_column(column, justify="right" if is_number else "left", no_wrap=True)
    shown.add_column("last event", no_wrap=True)
    shown.add_column("why the last life ended", no_wrap=True, max_width=LONGEST)
    for run in runs:
        share = f" ({run.share:.0%})" if run.share is not None else ""
        age = f", {duration(run.last_event_seconds)} ago" if run.last_event_seconds is not None else ""
        cells = (
            run.run,
            run.state,
            run.job or "-",
            ",".join(run.nodes) if run.nodes else "-",
            _number(run.processes),
            _number(run.step),
            _number(run.tokens) + share,
            _number(run.tokens_per_second, ",.0f"),
            _number(run.loss, ".4f"),
            duration(run.eta_seconds) if run.eta_seconds is not None else "-",
            f"{run.last_event}{age}" if run.last_event else "-",
            run.last_life or "-",
        )
        shown.add_row(*map(Text, cells))  # as it is: reasons hold brackets, which rich would read
    return shown


def _number(value: float | None, form: str = ",") -> str:
    return "-" if value is None else format(value, form)
