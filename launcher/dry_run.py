"""A run before it is started: what each rank will hold, what it will read and write, and what would go wrong.

Nothing is built, written or fetched: the network has no memory, and neither GPUs nor the other ranks are needed.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.errors import InputError, MissingInputError
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
from planning.checkpoints import Checkpoints, checkpoints, closed, room
from planning.partition import Share, imbalance, parameter_groups, shares, state_bytes
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
            "ranks": self._ranks(),
            "batches": self.batches and asdict(self.batches),
            "schedule": self.schedule and [asdict(row) for row in self.schedule],
            "mixture": mixture,
            "first_batch": self.first_batch and [asdict(each) for each in self.first_batch],
            "last_batch": self.last_batch and [asdict(each) for each in self.last_batch],
            "checkpoints": self.checkpoints and asdict(self.checkpoints),
            "warnings": self.warnings,
            "errors": self.errors,
        }

    def _ranks(self) -> list[dict[str, Any]] | None:
        """Numbers and bytes of what each rank holds."""
        if self.held is None:
            return None
        stage, precision = self.config.zero.stage, self.config.train.precision
        told = [asdict(each) | {"bytes": state_bytes(each, stage, precision)} for each in self.held]
        return [told[rank // self.config.parallel.tensor] for rank in range(self.gpus)]


def dry_run(config: RunConfig, gpus: int, of_node: int = 0) -> DryRun:
    """Goes through all that can be known of a run on so many GPUs, a process each, before it is started.

    A node has `of_node` of them; 0 where nobody says.
    """
    found = DryRun(config, gpus)
    place = found.checked(lambda: config.parallel.place(0, gpus))
    _set_up(found, of_node)
    found.warn(mistakes.of_network(config.model))
    found.goes_on_from = checkpoint.latest(config.folder)
    done = found.checked(lambda: progress_at(config, found.goes_on_from)) or Progress()
    with _opened(found, place or Place(0, 1)) as stream:
        if place is not None:
            _hold(found, place)
            found.batches = _deal(found, place, done, stream)
            _save(found, place, found.batches)
        if stream is not None:
            _read(found, stream, done)
    return found


def _set_up(found: DryRun, of_node: int) -> None:
    """What the run asks of packages, machines and folders."""
    config, to = found.config, found.config.checkpoint.copy_to
    found.checked(lambda: check_installed(config.metrics.trackers, "metrics."))
    if to is not None:
        found.checked(lambda: Copies(str(to), config.checkpoint.storage))
    found.checked(lambda: check_processes(config.zero, found.gpus, of_node))
    if config.zero.quantized_gradients and not of_node:
        found.warn(["zero.quantized_gradients: needs two or more whole nodes; say gpus_per_node in site.yaml"])
    if of_node:
        found.warn(mistakes.of_nodes(config.parallel, config.zero, of_node))
    folders = {"run_dir": config.folder, "zero.nvme_path": config.zero.nvme_path, "checkpoint.copy_to": to}
    for key, folder in folders.items():
        if isinstance(folder, Path):
            found.warn(closed(key, folder))


def _hold(found: DryRun, place: Place) -> None:
    """What every rank has of the network and its optimizer."""
    config = found.config
    groups = parameter_groups(config.model, config.train, place)
    found.parameters = sum(int(group.sum()) for group in parameter_groups(config.model, config.train, Place(0, 1)))
    found.held = shares(groups, place.replicas, config.zero, config.train.precision)
    found.warn(mistakes.of_partition(found.held))


def _deal(found: DryRun, place: Place, done: Progress, stream: Stream | None) -> Batches:
    """The batches that are left, and the learning rate."""
    config = found.config
    train, n_ctx = config.train, config.model.n_ctx
    found.schedule = table(train, n_ctx, place.data_size)
    there = None if stream is None else reading.there(stream, done.stream)
    batches = count(train, n_ctx, place.data_size, done.sequences, there)
    who = "processes" if place.sharing == 1 else "groups of processes"
    found.warn(mistakes.of_batches(train, n_ctx, place.data_size, batches, who))
    found.warn(mistakes.of_schedule(train, found.schedule[0].batch_tokens))
    periods = {f"{key}.every_tokens": getattr(config, key).every_tokens for key in ("validation", "samples")}
    found.warn(mistakes.of_periods(periods, batches.end * n_ctx))
    found.warn(mistakes.of_saving(config.checkpoint, batches.end * n_ctx))
    steps = done.step + batches.steps
    if (step := config.profile.first_step) is not None and step > steps:
        found.warn([f"profile.from: {step} lies behind the last of {steps:,} steps; name an earlier one"])
    return batches


@contextmanager
def _opened(found: DryRun, place: Place) -> Iterator[Stream | None]:
    """The data; None where they are not there, or wrong."""
    config, folder = found.config, found.goes_on_from
    if (recipe := config.data.prepare) is not None:
        found.checked(lambda: _compare_recipe(found, recipe))
    if (missing := _not_there(config)) is not None:
        found.warn([missing])
        if folder is None and (begin := config.train.init_from) is not None:
            found.checked(lambda: refuse_other_network("train.init_from", checkpoint.find(str(begin)), config.model))
        yield None
        return
    origin = found.checked(lambda: checkpoint.origin_of(folder) if folder else None)
    stream = found.checked(
        lambda: open_stream(config.data, config.seed, config.model.n_ctx, place.data_rank, place.data_size, origin)
    )
    try:
        yield stream
    finally:
        if stream is not None:
            stream.close()


def _read(found: DryRun, stream: Stream, done: Progress) -> None:
    """What `train` checks of the data, the mixture, the first and the last batch."""
    config, batches = found.config, found.batches
    for work in _checks(config, stream, found.goes_on_from, done, found.gpus):
        found.checked(work)
    last = wanted = last_position(config, done)
    if batches is not None:
        last = done.stream.after(batches.end - batches.begin).position
    found.mixture = reading.mixture(stream, last)
    found.warn(mistakes.of_data(stream, found.mixture, last, wanted))
    if config.validation.every_tokens is not None:
        found.warn(mistakes.of_validation(stream))
    if batches is not None and batches.steps:
        size = batch_sequences(config.train, config.model.n_ctx, done.sequences)
        with suppress(InputError):  # that the data end before was said
            found.first_batch = reading.batch(stream, done.stream, 0, size)
            before = batches.end - batches.last - batches.begin
            found.last_batch = reading.batch(stream, done.stream, before, batches.last)


def _checks(
    config: RunConfig, stream: Stream, folder: Path | None, done: Progress, gpus: int
) -> Iterable[Callable[[], object]]:
    """Those that `train` makes of the data, each by itself, and of what it would miss later."""
    if isinstance(prepared := config.data.folder, Path):
        read = (*stream.sources, *(stream.held_out if config.validation.every_tokens else ()))
        yield lambda: reading.refuse_missing(read, prepared)
    yield lambda: check_vocabulary(config, stream.vocabulary)
    yield lambda: refuse_rollback_of_texts(config, stream)
    yield lambda: refuse_too_little_data(config, stream, done)
    if folder is not None:
        yield lambda: check(config, folder, stream, gpus)
    elif (begin := config.train.init_from) is not None:
        yield lambda: check_weights(begin, config.model, stream.vocabulary)


def _compare_recipe(found: DryRun, path: Path) -> None:
    """With the one that the data were prepared by, if they are there. Raises InputError where it is another one."""
    recipe, folder = load_recipe(path), found.config.data.folder
    if isinstance(folder, Path) and (folder / "manifest.json").exists():
        from data_pipeline.prepare import refuse_other_recipe

        try:
            refuse_other_recipe(recipe, folder)
        except MissingInputError as error:
            found.warn([f"data.prepare: {folder} is taken as it is: its recipe cannot be compared ({error})"])


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
