"""What would go wrong, or be wasted, in a run that may well be as its author meant it: a line each, with the mend."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from data_pipeline.deal import Deal
from data_pipeline.mixture_table import Row
from data_pipeline.source import Source
from data_pipeline.stream import Stream
from model.config import ModelConfig
from planning.batches import WASTE_WARNING, Batches, waste
from planning.partition import Share
from training.config import CheckpointConfig, TrainConfig
from training.parallel_config import ParallelConfig
from training.zero_config import ZeroConfig

EPOCHS = 4
"""Repeating data so often is about as good as new data, and more often is not (Muennighoff et al. 2023, "Scaling
data-constrained language models", section 6)."""
_PADDING = _UNREAD = 0.05


def of_network(model: ModelConfig) -> Iterator[str]:
    """Of attention that is not what it says."""
    if model.attention == "alternating" and model.band >= model.n_ctx:
        yield (
            f"model.band: {model.band} is not below model.n_ctx {model.n_ctx}, so banded layers see all positions; "
            "lower it, or take attention dense"
        )


def of_batches(
    train: TrainConfig, n_ctx: int, groups: int, all_of_them: Batches, who: str = "processes"
) -> Iterator[str]:
    """Of batches that are dealt to so many groups, which are `who`."""
    full, needed = train.batch_tokens // n_ctx, groups * n_ctx
    if full < groups:
        yield (
            f"train.batch_tokens: {full} sequences are fewer than the {groups} {who} that share them, of which "
            f"{groups - full} compute filler alone; take {needed} tokens, or fewer GPUs"
        )
        return
    if all_of_them.too_small:
        yield (
            f"train.ramp.from_tokens: {all_of_them.too_small:,} steps, up to {all_of_them.tokens_too_small:,} tokens, "
            f"have fewer sequences than the {groups} {who} that share them; begin with {needed} tokens, or fewer GPUs"
        )
    if said := waste(Deal(full, groups, train.micro_batch), "train.batch_tokens", "every step", n_ctx):
        yield said
    elif all_of_them.filler > WASTE_WARNING:
        yield (
            f"train.ramp: {100 * all_of_them.filler:.0f}% of what the run computes is filler of its smaller batches; "
            "make the ramp shorter, or take fewer GPUs until its end"
        )


def of_schedule(train: TrainConfig, first: int) -> Iterator[str]:
    """Of learning rates; `first` are the tokens of the first batch."""
    if train.decay_end > train.tokens:
        yield (
            f"train.decay_tokens: {train.decay_end} lies behind train.tokens {train.tokens}, so the learning rate does "
            "not come to its end; leave it out, or train longer"
        )
    if 0 < train.warmup_tokens <= first:
        yield (
            f"train.warmup_tokens: {train.warmup_tokens} are no more than the first batch of {first}, so the rate is "
            "at its peak at once; give some hundred batches"
        )


def of_periods(periods: Mapping[str, int | None], tokens: int) -> Iterator[str]:
    """Of what comes every so many tokens and at the end, by key, in a run that ends after `tokens`."""
    for key, every in periods.items():
        if every is not None and every > tokens:
            yield f"{key}: {every} is more than the {tokens} tokens of the run, so it comes at the end alone; lower it"


def of_saving(config: CheckpointConfig, tokens: int) -> Iterator[str]:
    """Of a run, that ends after `tokens`, which a failure brings back to its beginning, or keeps less than is asked."""
    if config.every is None and (config.every_tokens is None or config.every_tokens > tokens):
        yield "checkpoint: saves at the end alone, and a failure before loses all; give every, or fewer every_tokens"
    if (kept := config.keep.every_tokens) is not None and kept > tokens:
        yield f"checkpoint.keep.every_tokens: {kept} is more than the {tokens} tokens of the run, so it keeps none"


def of_nodes(parallel: ParallelConfig, zero: ZeroConfig, of_node: int) -> Iterator[str]:
    """Of processes that should be neighbours, where each node has `of_node` of them."""
    sharing = {"parallel": parallel.sharing, "zero.hpz_partition_size": zero.hpz_partition_size or 1}
    for key, size in sharing.items():
        if of_node % size:
            yield (
                f"{key}: {size} processes share, and a machine has {of_node}: some of them exchange over the network, "
                "which is slow"
            )


def of_partition(held: Sequence[Share]) -> Iterator[str]:
    """Of parts that are filled up much."""
    whole, padding = sum(each.optimizer for each in held), sum(each.padding for each in held)
    if padding > _PADDING * whole:
        yield (
            f"zero: {100 * padding / whole:.0f}% of what {len(held)} processes keep for the optimizer is padding, the "
            "network is too small for so many; take fewer GPUs, or a lower stage"
        )


def of_data(stream: Stream, rows: Iterable[Row], last: int, wanted: int) -> Iterator[str]:
    """Of a run that reads up to the position `last`, and would up to `wanted` if it could; `rows` are its table."""
    end, n_ctx = stream.schedule.end, stream.n_ctx
    if end is not None and last < wanted:
        yield (
            f"data: the run ends after {last * n_ctx:,} tokens, {100 * last / wanted:.0f}% of train.tokens: "
            f"{end.reason}; give another mixture, more epochs or fewer tokens"
        )
    for phase, after in pairwise(stream.schedule.phases):
        if phase.until is not None and phase.until >= last:
            yield f"{after.key}: begins at {phase.until * n_ctx:,} tokens, behind the end of the run; leave it out"
    for row in rows:
        if row.phase is None and row.epochs is not None and row.epochs > EPOCHS:
            yield (
                f"data: source {row.source} is read {row.epochs:.1f} times, and what comes more than about {EPOCHS} "
                "times teaches less and less; give it more data or a smaller weight, or set data.max_epochs"
            )
    for source in stream.sources:
        if isinstance(source, Source) and source.tokens > 0:
            unread = 1 - source.windows * n_ctx / source.tokens
            if unread > _UNREAD:
                yield (
                    f"data: {100 * unread:.0f}% of the tokens of source {source.name} are in no sequence, its shards "
                    f"are short for n_ctx {n_ctx}; prepare it with a larger shard_tokens, or take a smaller n_ctx"
                )


def of_validation(stream: Stream) -> Iterator[str]:
    """Of sources that have nothing to be validated on."""
    there = {source.name for source in stream.held_out if source.windows}
    if missing := sorted(set(stream.names) - there):
        yield (
            f"validation: {', '.join(missing)}: no sequence of n_ctx {stream.n_ctx} is held out, so none is validated; "
            "prepare with a larger validation_fraction, or leave validation out"
        )
