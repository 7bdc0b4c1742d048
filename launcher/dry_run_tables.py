"""A dry run for a terminal."""

from collections.abc import Iterator

from rich.table import Table

from launcher.dry_run import DryRun
from launcher.status import duration
from model.counts import training_flops
from planning.checkpoints import readable
from planning.partition import Share, imbalance, state_bytes
from planning.reading import SequenceId
from training.zero_config import ZeroConfig

GB = 1e9
SHOWN = 8
"""Sequences of a batch; --json has them all."""
PARTS = {
    "parameters": "parameters",
    "gradients": "gradients, fp32",
    "raw_gradients": "gradients, bf16",
    "stepped_gradients": "gradients to step with, on cpu",
    "optimizer": "fp32 weights and two moments",
    "padding": "of these padding",
    "persistent": "small parameters, whole",
    "secondary": "second copy of parameters",
}


def tables(run: DryRun) -> Iterator[Table | str]:
    """All that is known, one after the other; tables and lines."""
    config, parallel = run.config, run.config.parallel
    shared = {"sequence": parallel.sequence, "tensor": parallel.tensor}
    layout = "".join(f" x {size} {name}" for name, size in shared.items() if size > 1)
    yield (
        f"{config.name} on {run.gpus:,} GPUs ({run.gpus // parallel.sharing:,} data{layout}), ZeRO stage "
        f"{config.zero.stage} in {config.train.precision}: {run.parameters:,} parameters, "
        f"{training_flops(config.model, config.train.tokens):.3g} FLOPs"
    )
    if run.goes_on_from is not None:
        yield f"goes on from {run.goes_on_from}"
    if run.held is not None:
        yield _partition(run, run.held)
    if run.schedule is not None and run.batches is not None:
        yield _schedule(run)
        left = " left" if run.batches.begin else ""
        yield f"{run.batches.steps:,} steps{left}, {run.batches.filler:.1%} of what they compute is filler"
    if run.mixture is not None:
        yield _mixture(run)
    for name, batch in (("first", run.first_batch), ("last", run.last_batch)):
        if batch is not None:
            yield f"{name} batch, {len(batch):,} sequences as source/epoch/window: {_ids(batch)}"
    if run.checkpoints is not None:
        yield _checkpoints(run)


def _partition(run: DryRun, held: list[Share]) -> Table:
    """A line for each part; numbers of the rank that has least and of the one that has most."""
    shown = Table(title=f"What a rank holds; the fullest steps {imbalance(held):.2%} more than the mean")
    _columns(shown, "numbers of", "least", "most", "all ranks", "GB a rank")
    zero, precision = run.config.zero, run.config.train.precision
    for name, said in PARTS.items():
        counts = [getattr(each, name) for each in held]
        if any(counts):
            taken = max(state_bytes(each, zero.stage, precision).get(name, 0) for each in held)
            total = sum(counts) * (run.gpus // len(held))
            numbers = [f"{each:,}" for each in (min(counts), max(counts), total)]
            shown.add_row(said + _place(zero, precision, name), *numbers, f"{taken / GB:.3g}" if taken else "")
    return shown


def _place(zero: ZeroConfig, precision: str, name: str) -> str:
    """Where a part lies, if not on the GPU."""
    places = {"parameters": zero.offload_parameters, "optimizer": zero.offload_optimizer}
    if zero.offload_optimizer != "none" and (zero.stage == 3 or (zero.stage == 2 and precision == "fp32")):
        places["gradients"] = "cpu"
    return "" if places.get(name, "none") == "none" else f", on {places[name]}"


def _schedule(run: DryRun) -> Table:
    shown = Table(title="Batch and learning rate")
    _columns(shown, "at token", "learning rate", "batch, tokens", "sequences", "forwards", "filler")
    for row in run.schedule or ():
        counts = (row.batch_tokens, row.sequences, row.forwards)
        shown.add_row(f"{row.tokens:,}", f"{row.lr:.3e}", *(f"{each:,}" for each in counts), f"{row.filler:.1%}")
    return shown


def _mixture(run: DryRun) -> Table:
    shown = Table(title="What the run reads, from its beginning to its end")
    _columns(shown, "phase and source", "share", "tokens", "sequences", "epochs")
    for row in run.mixture or ():
        phase = "the whole run" if row.phase is None else f"phase {row.phase + 1}"
        epochs = "read as text" if row.epochs is None else f"{row.epochs:.2f}"
        tokens = row.windows * run.config.model.n_ctx
        shown.add_row(f"{phase}: {row.source}", f"{row.share:.2%}", f"{tokens:,}", f"{row.windows:,}", epochs)
    return shown


def _ids(batch: list[SequenceId]) -> str:
    shown = [
        each.source if each.window is None else f"{each.source}/{each.epoch}/{each.window}" for each in batch[:SHOWN]
    ]
    return ", ".join(shown) + (" …" if len(batch) > SHOWN else "")


def _checkpoints(run: DryRun) -> str:
    held, config = run.checkpoints, run.config.checkpoint
    assert held is not None
    often = f"{held.written:,}"
    if config.every is not None:
        by_tokens = "" if config.every_tokens is None else f" and every {config.every_tokens:,} tokens"
        often = f"one every {duration(config.every)}{by_tokens}, and one at the end"
    return (
        f"checkpoints: {often}, {readable(held.bytes)} in {held.files:,} files and folders each; at most "
        f"{held.most:,} at a time, {readable(held.most_bytes)}"
    )


def _columns(shown: Table, first: str, *others: str) -> None:
    shown.add_column(first)
    for each in others:
        shown.add_column(each, justify="right", no_wrap=True)
