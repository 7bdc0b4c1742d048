"""Loss on the held-out part of each source, on the same windows whatever the number of processes."""

import logging

import numpy as np
import torch

from data_pipeline.source import Source
from model.objective import task
from training.callback import Callback, StepResult
from training.collectives import gather_rows
from training.config import ValidationConfig
from training.run import Run

log = logging.getLogger("thalweg.validation")


class Validation(Callback):
    """Takes the first windows of each source, dealt to the ranks in turn."""

    def __init__(self, config: ValidationConfig) -> None:
        self._config = config

    def on_start(self, run: Run) -> None:
        if self._config.every_tokens is None:
            return
        self._sources = [source for source in run.stream.held_out if source.windows]
        missing = set(run.stream.names) - {source.name for source in self._sources}
        for name in sorted(missing) if run.engine.rank == 0 else []:
            log.warning("source %s has no held-out window of %d tokens: not validated", name, run.stream.n_ctx)

    def on_step(self, run: Run, result: StepResult) -> None:
        every = self._config.every_tokens
        if every is None or not self._sources:
            return
        before = run.tokens - result.tokens
        if before // every < run.tokens // every or run.finished:
            with run.phase.inside("validation"):
                measured = self.measure(run)
            if measured is not None:
                run.fields["validation_loss_by_source"] = measured

    @torch.no_grad()
    def measure(self, run: Run) -> dict[str, float] | None:
        """Mean loss in nats per token of each source with held-out windows; None where a signal asks for the end."""
        most = max(1, self._config.tokens_per_source // run.stream.n_ctx)
        run.engine.network.eval()
        losses: dict[str, float] = {}
        for source in self._sources:
            loss = self._loss(run, source, min(most, source.windows))
            if loss is None:
                break
            losses[source.name] = loss
        run.engine.network.train()
        return losses if len(losses) == len(self._sources) else None

    def _loss(self, run: Run, source: Source, windows: int) -> float | None:
        """Every rank runs the same number of forwards, since a sharded network gathers its weights in each."""
        place, micro = run.engine.place, run.config.micro_batch
        mine = list(range(place.data_rank, windows, place.data_size))
        summed, most = 0.0, -(-windows // place.data_size)
        for at in range(0, most, micro):
            run.phase.move()
            if not run.finished and run.is_asked_to_end():  # the last one belongs to a run that is done
                return None
            chosen = mine[at : at + micro]
            # Always as many rows, though some are filler: each shape would be compiled for itself.
            tokens = np.zeros((min(micro, most), run.stream.n_ctx + 1), dtype=np.int64)
            if chosen:
                source.read(np.array(chosen), tokens, np.arange(len(chosen)))
            filler = [0] * (len(tokens) - len(chosen))
            _, losses = run.engine(*task(run.model, torch.from_numpy(tokens), run.stream.seed, chosen + filler))
            if place.counts:
                summed += float(losses[: len(chosen)].double().sum())
        return (
            float(gather_rows(torch.tensor([[summed]], dtype=torch.float64, device=run.engine.device)).sum()) / windows
        )
