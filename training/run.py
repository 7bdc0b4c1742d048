"""What a run is made of while it runs: the state that the loop moves on and its callbacks read."""

from dataclasses import dataclass, field
from typing import Any

from data_pipeline.stream import Stream, StreamState
from model.config import ModelConfig
from training.batch_ramp import batch_sequences
from training.config import TrainConfig
from training.engine import Engine
from training.ledger import Ledger
from training.run_folder import RunFolder


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
    progress: Progress = field(default_factory=Progress)
    waited: float = 0.0
    """Seconds for which this rank has waited for data since it started."""
    fields: dict[str, Any] = field(default_factory=dict)
    """What callbacks add to the next line of metrics.jsonl."""

    @property
    def tokens(self) -> int:
        """Tokens consumed so far."""
        return self.progress.sequences * self.stream.n_ctx

    @property
    def finished(self) -> bool:
        """Whether all tokens that were asked for are consumed, or the order of data holds no other batch."""
        next_batch = batch_sequences(self.config, self.stream.n_ctx, self.progress.sequences)
        return self.tokens >= self.config.tokens or not self.stream.holds(self.progress.stream, next_batch)
