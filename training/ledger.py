"""What the run has consumed: proof of the order of data, and loss and share of each source."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_pipeline.data_hash import begin, extend
from data_pipeline.loader import RankBatch
from data_pipeline.stream import Stream
from training.collectives import gather_rows


@dataclass
class Settled:
    """Consumption of all ranks over some steps: by source the sum of losses, in nats, and the sequences."""

    loss: dict[str, float]
    sequences: dict[str, int]

    @property
    def mean_loss(self) -> float:
        """Mean over all sequences."""
        return sum(self.loss.values()) / max(sum(self.sequences.values()), 1)

    @property
    def loss_by_source(self) -> dict[str, float]:
        """Mean over the sequences of each source that had any."""
        return {name: self.loss[name] / count for name, count in self.sequences.items() if count}


class Ledger:
    """Keeps each rank's entries and settles them between ranks when somebody needs the sum.

    An entry is made of what was handed to the network, never computed from the stream again.
    """

    def __init__(self, stream: Stream, device: torch.device) -> None:
        self._names, self._device, self._n_ctx = stream.mixture.names, device, stream.n_ctx
        self._entries: list[Tensor] = []
        self._settled = self._nothing()
        self.data_hash = begin(stream.manifest_hash, stream.n_ctx)
        self.sequences_by_source = dict.fromkeys(self._names, 0)

    def enter(self, batch: RankBatch, losses: Tensor) -> None:
        """Notes one step of this rank; `losses` [N] are those of its real sequences, on the device."""
        known = np.stack([batch.located.source, batch.located.window, np.array(batch.token_hashes, np.int64)], axis=1)
        entry = torch.from_numpy(known.reshape(-1, 3)).to(self._device)
        self._entries.append(torch.cat([entry, losses.detach().double().view(torch.int64)[:, None]], dim=1))

    def settle(self) -> None:
        """Brings the entries of all ranks together, in global order. Every rank must call it."""
        for entry in self._entries:
            rows = gather_rows(entry).cpu()
            losses = rows[:, 3].contiguous().view(torch.float64).tolist()
            read = [(self._names[source], window, tokens) for source, window, tokens in rows[:, :3].tolist()]
            self.data_hash = extend(self.data_hash, read)
            for (name, _, _), loss in zip(read, losses, strict=True):
                self._settled.loss[name] += loss
                self._settled.sequences[name] += 1
                self.sequences_by_source[name] += 1
        self._entries.clear()

    def take(self) -> Settled:
        """Settles, and hands over what was settled since it was last taken. Every rank must call it."""
        self.settle()
        taken, self._settled = self._settled, self._nothing()
        return taken

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
