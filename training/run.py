"""What a run is made of while it runs: the state that the loop moves on and its callbacks read."""

import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.stream import Stream, StreamState
from model.config import ModelConfig
from training.batch_ramp import batch_sequences
from training.collectives import largest
from training.config import TrainConfig
from training.engine import Engine
from training.ledger import Ledger
from training.phase import Phase
from training.run_folder import RunFolder
from training.signals import Signals


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    sequences: int = 0
    stream: StreamState = field(default_factory=StreamState)
    text_states: dict[str, Any] = field(default_factory=dict)
    """Where this rank stands in the sources that are read as text."""


@dataclass
class Run:
    """One rank's view of a run."""

    config: TrainConfig
    model: ModelConfig
    engine: Engine
    stream: Stream
    ledger: Ledger
    folder: RunFolder
    signals: Signals
    progress: Progress = field(default_factory=Progress)
    waited: float = 0.0
    """Seconds for which this rank has waited for data since it started."""
    fields: dict[str, Any] = field(default_factory=dict)
    """What callbacks add to the next line of metrics.jsonl."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What callbacks remember from step to step, alike on every rank: a checkpoint holds it, as JSON."""
    checkpoint: Path | None = None
    """The last one that this life wrote, or else the one that it went on from."""
    ended_by: str | None = None
    """What asked the run to end, a signal or `thalweg stop`, once all ranks know of it."""
    phase: Phase = field(default_factory=Phase)
    """What this rank is doing now."""

    @property
    def tokens(self) -> int:
        """Tokens consumed so far."""
        return self.progress.sequences * self.stream.n_ctx

    @property
    def finished(self) -> bool:
        """Whether all tokens that were asked for are consumed, or the order of data holds no other batch."""
        next_batch = batch_sequences(self.config, self.stream.n_ctx, self.progress.sequences)
        return self.tokens >= self.config.tokens or not self.stream.holds(self.progress.stream, next_batch)

    def is_asked_to_end(self) -> bool:
        """Whether any rank received a signal that asks for the end, or a request to stop. Every rank must call it."""
        number = int(largest([self.signals.number], self.engine.device)[0])
        if number and self.ended_by is None:
            if request := self.signals.stop_request:  # rank 0 knows of it, which speaks for all
                self.ended_by = f"thalweg stop ({request.by})"
            else:
                self.ended_by = signal.Signals(number).name
                self.folder.event("signal", self.progress.step, self.tokens, signal=self.ended_by)
        return bool(number)

    def note_beginning(self, event: str, **details: Any) -> None:
        """An event that says where in the data the steps behind it begin: `thalweg inspect` finds them by it."""
        self.folder.event(
            event,
            self.progress.step,
            self.tokens,
            **details,
            **asdict(self.progress.stream),
            origin=origin.as_json() if (origin := self.stream.schedule.origin) else None,
            batch_tokens=self.config.batch_tokens,
            ramp=self.config.ramp.model_dump() if self.config.ramp else None,
            data=self.stream.identity,
            processes=self.engine.world_size,
            sharing=self.engine.place.sharing,
        )
