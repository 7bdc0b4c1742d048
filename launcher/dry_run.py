"""A run before it is started: what each rank will hold, what it will read and write, and what would go wrong.

Nothing is built, written or fetched: the network has no memory, and neither GPUs nor the other ranks are needed.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.errors import InputError
from data_pipeline.mixture_table import Row as MixtureRow
from data_pipeline.opening import open_stream
from data_pipeline.stream import Stream
from launcher.config import RunConfig, load_recipe
from launcher.init_from import check_weights, refuse_other_network
from launcher.resume import check
from launcher.track import check_installed
from launcher.train import (
    check_vocabulary,
    last_position,
    progress_at,
    refuse_rollback_of_texts,
    refuse_too_little_data,
)
from model.counts import training_flops
from planning import mistakes, reading
from planning.batches import Batches, Row, count, table
from planning.checkpoints import Checkpoints, checkpoints, room
from planning.partition import Share, imbalance, parameter_groups, shares
from training import checkpoint
from training.batch_ramp import batch_sequences
from training.copies import Copies
from training.deepspeed_config import check_processes
from training.parallel_config import Place
from training.run import Progress

T = TypeVar("T")


@dataclass
class DryRun:
    """What came out; None is what could not be told, and `errors` or `warnings` say why."""

    config: RunConfig
    gpus: int
    errors: list[str] = field(default_factory=list)
    """For which `train` would refuse to begin."""
    warnings: list[str] = field(default_factory=list)
    goes_on_from: Path | None = None
    parameters: int = 0
    """The vocabulary's padding included."""
    held: list[Share] | None = None
    """By each of the ranks that hold the same pieces of layers; those that share layers hold as much."""
    schedule: list[Row] | None = None
    batches: Batches | None = None
    checkpoints: Checkpoints | None = None
    mixture: list[MixtureRow] | None = None
    first_batch: list[reading.SequenceId] | None = None
    last_batch: list[reading.SequenceId] | None = None

    def checked(self, work: Callable[[], T]) -> T | None:
        """The result of `work`; None, with an error noted, where it finds a mistake."""
        try:
            return work()
        except InputError as error:
            self.errors += [line for line in str(error).splitlines() if line not in self.errors]
        return None

    def warn(self, said: Iterable[str]) -> None:
        """Notes what each line says."""
        self.warnings += said

    def as_json(self) -> dict[str, Any]:
        """As one JSON object."""
        parallel, n_ctx = self.config.parallel, self.config.model.n_ctx
        ranks = None if self.held is None else [asdict(self.held[rank // parallel.tensor]) for rank in range(self.gpus)]
        mixture = (
            None if self.mixture is None else [asdict(row) | {"tokens": row.windows * n_ctx} for row in self.mixture]
        )
        return {
            "name": self.config.name,
            "gpus": self.gpus,
            "layout": {"data": self.gpus // parallel.sharing} | parallel.model_dump(),
            "stage": self.config.zero.stage,
            "precision": self.config.train.precision,
            "parameters": self.parameters,
            "training_flops": training_flops(self.config.model, self.config.train.tokens),
            "goes_on_from": self.goes_on_from and str(self.goes_on_from),
            "imbalance": None if self.held is None else imbalance(self.held),
            "ranks": ranks,
            "batches": self.batches and asdict(self.batches),
            "schedule": self.schedule and [asdict(row) for row in self.schedule],
            "mixture": mixture,
            "first_batch": self.first_batch and [asdict(each) for each in self.first_batch],
            "last_batch": self.last_batch and [asdict(each) for each in self.last_batch],
            "checkpoints": self.checkpoints and asdict(self.checkpoints),
            "warnings": self.warnings,
            "errors": self.errors,
        }


def dry_run(config: RunConfig, gpus: int) -> DryRun:
    """Goes through all that can be known of a run on so many GPUs, a process each, before it is started."""
    found = DryRun(config, gpus)
    found.checked(lambda: check_installed(config.metrics.trackers, "metrics."))
    if (to := config.checkpoint.copy_to) is not None:
        found.checked(lambda: Copies(str(to), config.checkpoint.storage))
    place = found.checked(lambda: config.parallel.place(0, gpus))
    found.checked(lambda: check_processes(config.zero, gpus))
    found.warn(mistakes.of_network(config.model))
    found.warn(mistakes.of_saving(config.checkpoint))
    found.goes_on_from = checkpoint.latest(config.folder)
    done = found.checked(lambda: progress_at(config, found.goes_on_from)) or Progress()
    if place is not None:
        _hold(found, place)
        _deal(found, place, done)
    _read(found, place or Place(0, 1), done)
    if place is not None and found.batches is not None:
        _save(found, place, found.batches)
    return found


def _hold(found: DryRun, place: Place) -> None:
    """What every rank has of the network and its optimizer."""
    config = found.config
    groups = parameter_groups(config.model, config.train, place)
    found.parameters = sum(int(group.sum()) for group in parameter_groups(config.model, config.train, Place(0, 1)))
    found.held = shares(groups, place.replicas, config.zero, config.train.precision)
    found.warn(mistakes.of_partition(found.held))


def _deal(found: DryRun, place: Place, done: Progress) -> None:
    """The batches that are left, and the learning rate."""
    config = found.config
    train, n_ctx = config.train, config.model.n_ctx
    found.schedule = table(train, n_ctx, place.data_size)
    found.batches = count(train, n_ctx, place.data_size, done.sequences)
    who = "processes" if place.sharing == 1 else "groups of processes"
    found.warn(mistakes.of_batches(train, n_ctx, place.data_size, found.batches, who))
    periods = {
        "validation.every_tokens": config.validation.every_tokens,
        "samples.every_tokens": config.samples.every_tokens,
        "checkpoint.every_tokens": config.checkpoint.every_tokens,
        "checkpoint.keep.every_tokens": config.checkpoint.keep.every_tokens,
    }
    found.warn(mistakes.of_schedule(train, n_ctx, periods, found.schedule[0].batch_tokens))
    steps = done.step + found.batches.steps
    if (step := config.profile.first_step) is not None and step > steps:
        found.warn([f"profile.from: {step} lies behind the last of {steps:,} steps; name an earlier one"])


def _read(found: DryRun, place: Place, done: Progress) -> None:
    """The data, where they are there: what `train` checks of them, the mixture, the first and the last batch."""
    config, folder = found.config, found.goes_on_from
    if (recipe := config.data.prepare) is not None:
        found.checked(lambda: load_recipe(recipe))
    if (missing := _not_there(config)) is not None:
        found.warn([missing])
        if folder is None and (begin := config.train.init_from) is not None:
            found.checked(lambda: refuse_other_network("train.init_from", checkpoint.find(str(begin)), config.model))
        return
    stream = found.checked(lambda: _opened(config, place, folder))
    if stream is None:
        return
    try:
        for work in _checks(config, stream, folder, done, found.gpus):
            found.checked(work)
        last = last_position(config, done)
        found.mixture = reading.mixture(stream, last)
        found.warn(mistakes.of_data(stream, found.mixture, last))
        if config.validation.every_tokens is not None:
            found.warn(mistakes.of_validation(stream))
        if (all_of_them := found.batches) is not None and all_of_them.steps:
            before_last = all_of_them.end - all_of_them.last - done.sequences
            size = batch_sequences(config.train, config.model.n_ctx, done.sequences)
            with suppress(InputError):  # that the data end before was said
                found.first_batch = reading.batch(stream, done.stream, 0, size)
                found.last_batch = reading.batch(stream, done.stream, before_last, all_of_them.last)
    finally:
        stream.close()


def _opened(config: RunConfig, place: Place, folder: Path | None) -> Stream:
    origin = checkpoint.origin_of(folder) if folder else None
    return open_stream(config.data, config.seed, config.model.n_ctx, place.data_rank, place.data_size, origin)


def _checks(
    config: RunConfig, stream: Stream, folder: Path | None, done: Progress, gpus: int
) -> Iterable[Callable[[], object]]:
    """Those that `train` makes of the data, each by itself."""
    yield lambda: check_vocabulary(config, stream.vocabulary)
    yield lambda: refuse_rollback_of_texts(config, stream)
    yield lambda: refuse_too_little_data(config, stream, done)
    if folder is not None:
        yield lambda: check(config, folder, stream, gpus)
    elif (begin := config.train.init_from) is not None:
        yield lambda: check_weights(begin, config.model, stream.vocabulary)


def _not_there(config: RunConfig) -> str | None:
    """What to say of a prepared folder that is not there, as on the machine on which a run is written."""
    data = config.data
    if not isinstance(data.folder, Path) or (data.folder / "manifest.json").exists():
        return None
    known = "neither mixture nor epochs nor vocabulary are checked"
    if data.prepare is not None:
        return f"data.prepare: {data.folder} is not there yet: {known}; prepare it before, with `thalweg prepare`"
    return (
        f"data.path: {data.folder} is not there: {known}; look again where it is, or prepare it with `thalweg prepare`"
    )


def _save(found: DryRun, place: Place, left: Batches) -> None:
    """The checkpoints, and the disk that they go to."""
    config, there = found.config, len(checkpoint.complete(found.config.folder / "checkpoints"))
    found.checkpoints = checkpoints(
        config.checkpoint, found.parameters, place, config.train, config.model.n_ctx, left, there
    )
    found.warn(room(config.folder, found.checkpoints, there))
