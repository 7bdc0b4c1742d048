"""What a run says of itself before its first step: size, data, batches and schedule."""

import logging
import os
from collections.abc import Iterator

from data_pipeline.deal import Deal
from data_pipeline.source import Source
from data_pipeline.stream import Stream
from launcher.config import RunConfig
from model.counts import count_parameters, training_flops
from planning.batches import waste
from planning.mistakes import of_nodes
from planning.reading import mixture
from training.batch_ramp import batch_sequences
from training.schedule_table import lines

log = logging.getLogger("thalweg.train")


def announce(config: RunConfig, stream: Stream, world_size: int, last_position: int) -> None:
    """Says what will be trained, on what, how it is dealt and how fast, before the first step.

    `last_position` is that of the order of data behind the last batch.
    """
    train = config.train
    log.info(
        "%s: %s parameters, %.3g FLOPs (6 per parameter and token) for %s tokens in %s",
        config.name,
        f"{count_parameters(config.model):,}",
        training_flops(config.model, train.tokens),
        f"{train.tokens:,}",
        train.precision,
    )
    for line in _mixture_lines(stream, last_position):
        log.info("  %s", line)
    _announce_layout(config, world_size)
    for size in sorted({batch_sequences(train, stream.n_ctx, 0), config.sequences}):
        _announce_batch(config, Deal(size, world_size // config.parallel.sharing, train.micro_batch))
    log.info("schedule: %s", train.schedule)
    for line in lines(train, stream.n_ctx):
        log.info("  %s", line)


def _announce_layout(config: RunConfig, world_size: int) -> None:
    """What processes share, if anything."""
    parallel, model = config.parallel, config.model
    shared = {"sequence": parallel.sequence, "tensor": parallel.tensor}
    dimensions = "".join(f" x {size} {name}" for name, size in shared.items() if size > 1)
    computed = []
    if parallel.sequence > 1:
        computed.append(f"{model.n_ctx // parallel.sequence} of a sequence's {model.n_ctx} positions")
    if parallel.tensor > 1:
        heads, width = model.n_head // parallel.tensor, model.ff_width // parallel.tensor
        computed.append(f"{heads} of a layer's {model.n_head} heads and {width} of its inner width of {model.ff_width}")
    if computed:
        data = world_size // parallel.sharing
        log.info(
            "layout: %d processes are %d data%s: each computes %s", world_size, data, dimensions, " and ".join(computed)
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    for said in of_nodes(parallel, config.zero, here):
        log.warning("%s", said)


def _announce_batch(config: RunConfig, deal: Deal) -> None:
    is_first = deal.sequences < config.sequences
    log.info(
        "%s: %d sequences on %d %s, %d forwards of at most %d sequences each, %.1f%% filler",
        "first batch" if is_first else "batch",
        deal.sequences,
        deal.world_size,
        "processes" if config.parallel.sharing == 1 else "groups of processes",
        len(deal.forwards),
        config.train.micro_batch,
        100 * deal.wasted,
    )
    key, what = ("train.ramp.from_tokens", "the first steps") if is_first else ("train.batch_tokens", "every step")
    if said := waste(deal, key, what, config.model.n_ctx):
        log.warning("%s", said)


def _mixture_lines(stream: Stream, last_position: int) -> Iterator[str]:
    """A table of what will be read, a line a source and phase."""
    n_ctx = stream.n_ctx
    sizes = {source.name: source.tokens for source in stream.sources if isinstance(source, Source)}
    began = None
    width = max(map(len, stream.names))
    for row in mixture(stream, last_position):
        if row.phase != began:
            began = row.phase
            whole = "the whole run" if stream.schedule.origin is None else "all since the fork"
            phase = whole if row.phase is None else f"phase {row.phase + 1}"
            yield f"{phase}: {row.sequences * n_ctx:,} tokens"
        epochs = "read as text" if row.epochs is None else f"{row.epochs:.2f} epochs of {sizes[row.source]:,} tokens"
        drawn = f"{row.windows * n_ctx:>20,} tokens in {row.windows:,} windows"
        yield f"  {row.source:{width}} {row.share:8.3%} {drawn}, {epochs}"
