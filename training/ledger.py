"""What the run has consumed: proof of the order of data, and loss and share of each source."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_pipeline.data_hash import begin, extend
from data_pipeline.loader import RankBatch
from data_pipeline.source import Source
from data_pipeline.stream import Stream, StreamState
from training.collectives import gather_rows


@dataclass
class Settled:
    """Consumption of all ranks over some steps: by source the sum of losses, in nats, and the sequences.

    Sequences whose loss is not finite are counted apart: one of them would make all sums so.
    """

    loss: dict[str, float]
    sequences: dict[str, int]
    not_finite: int = 0

    @property
    def mean_loss(self) -> float | None:
        """Mean over all sequences; None where there are none."""
        count = sum(self.sequences.values())
        return sum(self.loss.values()) / count if count else None

    @property
    def loss_by_source(self) -> dict[str, float]:
        """Mean over the sequences of each source that had any."""
        return {name: self.loss[name] / count for name, count in self.sequences.items() if count}


class Ledger:
    """Keeps each rank's entries and settles them between ranks when somebody needs the sum.

    An entry is made of what was handed to the network, never computed from the stream again.
    """

    def __init__(self, stream: Stream, device: torch.device, counts: bool = True) -> None:
        """A rank whose sequences another one notes, too, does not count."""
        self._names, self._device, self._n_ctx, self._counts = stream.names, device, stream.n_ctx, counts
        self._schedule = stream.schedule
        self._windows = {source.name: source.windows for source in stream.sources if isinstance(source, Source)}
        self._entries: list[Tensor] = []
        self._settled = self._nothing()
        self.data_hash = begin(stream.identity, stream.n_ctx)
        self.sequences_by_source = dict.fromkeys(self._names, 0)

    def enter(self, batch: RankBatch, losses: Tensor) -> None:
        """Notes one step of this rank; `losses` [N] are those of its real sequences, on the device."""
        known = np.stack([batch.located.source, batch.located.window, batch.token_hashes], axis=1)
        entry = torch.from_numpy(known.reshape(-1, 3)).to(self._device)
        entry = torch.cat([entry, losses.detach().double().view(torch.int64)[:, None]], dim=1)
        self._entries.append(entry if self._counts else entry[:0])

    def settle(self) -> None:
        """Brings the entries of all ranks together, in global order. Every rank must call it."""
        for entry in self._entries:
            rows = gather_rows(entry).cpu()
            losses = rows[:, 3].contiguous().view(torch.float64).tolist()
            read = [(self._names[source], window, tokens) for source, window, tokens in rows[:, :3].tolist()]
            self.data_hash = extend(self.data_hash, read)
            for (name, _, _), loss in zip(read, losses, strict=True):
                self.sequences_by_source[name] += 1
                if not math.isfinite(loss):
                    self._settled.not_finite += 1
                    continue
                self._settled.loss[name] += loss
                self._settled.sequences[name] += 1
        self._entries.clear()

    def take(self) -> Settled:
        """Settles, and hands over what was settled since it was last taken. Every rank must call it."""
        self.settle()
        taken, self._settled = self._settled, self._nothing()
        return taken

    def restore(self, data_hash: str, sequences_by_source: dict[str, int]) -> None:
        """Goes on from what was settled when a checkpoint was written; what came after it is forgotten."""
        self._entries.clear()
        self._settled = self._nothing()
        self.data_hash = data_hash
        # A source that was still to come may have been taken out of the mixture since. What was read stays.
        read = {name: count for name, count in sequences_by_source.items() if count}
        self.sequences_by_source = dict.fromkeys(self._names, 0) | read

    def _nothing(self) -> Settled:
        return Settled(dict.fromkeys(self._names, 0.0), dict.fromkeys(self._names, 0))

    @property
    def tokens_by_source(self) -> dict[str, int]:
        """Tokens of each source up to the last settlement."""
        return {name: count * self._n_ctx for name, count in self.sequences_by_source.items()}

    @property
    def share_by_source(self) -> dict[str, float]:
        """Share of each source in all tokens up to the last settlement."""
        total = max(sum(self.sequences_by_source.values()), 1)
        return {name: count / total for name, count in self.sequences_by_source.items()}

    def target_share_by_source(self, state: StreamState) -> dict[str, float]:
        """The share of each source that was asked for, over all that comes before `state`."""
        target = self._schedule.target(state.position) / max(state.position, 1)
        return dict(zip(self._names, target.tolist(), strict=True))

    @property
    def epochs_by_source(self) -> dict[str, float]:
        """How often each source was read up to the last settlement; those read as text are left out."""
        return {name: self.sequences_by_source[name] / max(count, 1) for name, count in self._windows.items()}

    def statement(self, state: StreamState) -> dict[str, dict[str, float]]:
        """What the model has seen of each source up to `state`, which was settled."""
        shares, targets = self.share_by_source, self.target_share_by_source(state)
        epochs, tokens = self.epochs_by_source, self.tokens_by_source
        return {
            name: {"tokens": tokens[name], "share": shares[name], "target_share": targets[name]}
            | ({"epochs": epochs[name]} if name in epochs else {})
            for name in self._names
        }
