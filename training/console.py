"""What a person sees of a run: a progress line on a terminal, plain lines elsewhere, a table at the end."""

import logging
import math
from collections import deque
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from training.callback import Callback
from training.run import Run

log = logging.getLogger("thalweg.train")

RECENT_LINES = 10


class ConsoleReport(Callback):
    """Receives the lines of the metrics and shows them; of use on rank 0 only."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT_LINES)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=console
        )

    def on_start(self, run: Run) -> None:
        self._total = run.config.tokens
        if self._live:
            self._task = self._bar.add_task("starting", total=self._total, completed=run.tokens)
            self._bar.start()

    @property
    def _live(self) -> bool:
        return self._console.is_terminal and not self._console.quiet

    def show(self, line: dict[str, Any]) -> None:
        """Shows one line of metrics."""
        self._recent.append(line)
        step, loss, speed = (
            f"step {line['step']}",
            f"loss {_number(line['loss'], '.4f')}",
            f"{line['tokens_per_second']:,.0f} tokens/s",
        )
        if self._live:
            self._bar.update(self._task, description=f"{step}  {loss}  {speed}", completed=line["tokens"])
        else:
            done = f"tokens {line['tokens']:,}/{self._total:,}"
            settings = f"lr {line['lr']:.2e}  norm {_number(line['grad_norm'], '.3f')}"
            log.info("  ".join([step, done, loss, settings, speed, *_sources(line), *_waits(line)]))
        if validation := line.get("validation_loss_by_source"):
            log.info("step %s  validation loss  %s", line["step"], _by_source(validation))

    def on_close(self, run: Run) -> None:
        self._bar.stop()

    def on_end(self, run: Run) -> None:
        self._bar.stop()
        if run.engine.rank == 0 and self._recent:
            self._console.print(self._table(run))

    def _table(self, run: Run) -> Table:
        last, steps = self._recent[-1], len(self._recent)
        table = Table(title=f"What the model has seen by step {last['step']}")
        for column in ("source", "asked for", "seen", "tokens", "epochs", "train loss", "held-out loss"):
            table.add_column(column, justify="left" if column == "source" else "right")
        statement = run.ledger.statement(run.progress.stream)
        for name, seen in statement.items():
            losses = [line["loss_by_source"][name] for line in self._recent if name in line["loss_by_source"]]
            held_out = last.get("validation_loss_by_source", {}).get(name)
            table.add_row(
                name,
                f"{seen['target_share']:.3%}",
                f"{seen['share']:.3%}",
                f"{seen['tokens']:,}",
                f"{seen['epochs']:.2f}" if "epochs" in seen else "-",
                f"{sum(losses) / len(losses):.3f}" if losses else "-",
                f"{held_out:.3f}" if held_out is not None else "-",
            )
        table.caption = f"losses in nats per token; train loss: mean of the last {steps} lines of metrics.jsonl"
        return table


def _number(value: float | None, form: str) -> str:
    return format(value, form) if value is not None and math.isfinite(value) else "not finite"


def _sources(line: dict[str, Any]) -> list[str]:
    """Of each source the loss since the line before, its share so far beside the one asked for, and its epochs."""
    losses, epochs = line["loss_by_source"], line["epochs_by_source"]
    parts = []
    for name, share in line["share_by_source"].items():
        loss = f"{losses[name]:.3f}" if name in losses else "-"
        read = f" {epochs[name]:.2f} epochs" if name in epochs else ""
        parts.append(f"{name} {loss} {share:.1%}/{line['target_share_by_source'][name]:.1%}{read}")
    return parts


def _waits(line: dict[str, Any]) -> list[str]:
    """A word on the wait for data, where there was one that a person would want to know of."""
    if line["data_wait_seconds"] < 0.1:
        return []
    reads = line["data_read_seconds_by_source"]
    slowest = max(reads, key=reads.__getitem__)
    return [f"waited {line['data_wait_seconds']:.1f} s for data ({slowest} was read for {reads[slowest]:.1f} s)"]


def _by_source(losses: dict[str, float]) -> str:
    return "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
