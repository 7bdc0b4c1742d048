"""Which sequences of a step's batch, and which documents in them, stand behind a spike."""

from typing import Any

import torch
from torch import Tensor

from data_pipeline.errors import InputError
from data_pipeline.loader import RankBatch
from data_pipeline.source import Source
from training.collectives import gather_rows
from training.run import Run

NAMED = 8
"""Sequences that are named with their documents; all others lie in the range of positions."""


def culprits(run: Run, batch: RankBatch, losses: Tensor) -> dict[str, Any]:
    """The positions [start, stop) of the global batch, its sources, and those sequences whose loss is the worst.

    Losses that are not finite come first, the highest after them. `losses` [N] are those of this rank's sequences.
    Every rank must call it; all are told the same, but the documents are on rank 0 alone.
    """
    located = batch.located
    known = torch.stack(
        [torch.from_numpy(each) for each in (located.position, located.source, located.epoch, located.window)], dim=1
    )
    kept = losses.detach().double().view(torch.int64)[:, None].cpu()
    mine = torch.cat([known, kept], dim=1)[: None if run.engine.place.counts else 0]
    rows = gather_rows(mine.to(run.engine.device)).cpu()
    values = rows[:, 4].contiguous().view(torch.float64)
    order = torch.argsort(values.nan_to_num(torch.inf, torch.inf, torch.inf), descending=True, stable=True).tolist()
    names = run.stream.names
    return {
        "positions": [int(rows[:, 0].min()), int(rows[:, 0].max()) + 1],
        "sources": {name: int((rows[:, 1] == at).sum()) for at, name in enumerate(names) if (rows[:, 1] == at).any()},
        "sequences": [_described(run, rows[at].tolist(), float(values[at])) for at in order[:NAMED]],
    }


def _described(run: Run, row: list[int], loss: float) -> dict[str, Any]:
    position, number, epoch, window, _ = row
    source = run.stream.sources[number]
    said: dict[str, Any] = {"position": position, "source": source.name, "loss": loss}
    if not isinstance(source, Source):
        return said
    shard, start = source.place(window)
    said |= {"epoch": epoch, "window": window, "shard": shard.name, "offset": start}
    return said | ({"documents": _documents(source, window)} if run.engine.rank == 0 else {})


def _documents(source: Source, window: int) -> list[dict[str, Any]]:
    try:
        found = source.documents(window)
    except (InputError, OSError):  # the list cannot be read: no reason to end a run whose tokens can
        return []
    origins = [{"id": each.id, "file": each.file, "offset": each.offset, "url": each.url} for each in found]
    return [{key: value for key, value in origin.items() if value is not None} for origin in origins]
