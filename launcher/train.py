"""One rank of a run: builds everything that the loop needs, and runs it."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.errors import InputError
from data_pipeline.opening import open_stream
from data_pipeline.stream import Stream
from data_pipeline.vocabulary import Vocabulary
from launcher.announce import announce
from launcher.config import RunConfig
from launcher.init_from import check_weights, pinned, weights_from
from launcher.prepare import ensure_prepared
from launcher.resume import check, choose
from launcher.track import check_installed
from training.batch_ramp import batch_sequences, sequences_at_end
from training.errors import AskedToEnd
from training.signals import Signals

if TYPE_CHECKING:
    from torch import Tensor

    from model.gpt import GPT
    from training.callback import Callback
    from training.phase import Phase
    from training.run import Progress, Run
    from training.run_folder import RunFolder

log = logging.getLogger("thalweg.train")


def check_run(config: RunConfig, resume: str, world_size: int) -> tuple[Stream, Path | None, list[str]]:
    """The stream of a run, the checkpoint that it goes on from, and what has changed since that was written.

    Checks all that can be checked without ranks.
    """
    check_installed(config.metrics.trackers, "metrics.")
    from training.checkpoint import origin_of

    place = config.parallel.place(int(os.environ.get("RANK", "0")), world_size)
    ensure_prepared(config.data)
    folder = choose(config, resume)
    origin = origin_of(folder) if folder else None
    stream = open_stream(config.data, config.seed, config.model.n_ctx, place.data_rank, place.data_size, origin)
    refuse_rollback_of_texts(config, stream)
    check_vocabulary(config, stream.vocabulary)
    if folder is None and config.train.init_from is not None:
        check_weights(config.train.init_from, config.model, stream.vocabulary)
    changes = check(config, folder, stream, world_size) if folder else []
    refuse_too_little_data(config, stream, progress_at(config, folder))
    return stream, folder, changes


def refuse_rollback_of_texts(config: RunConfig, stream: Stream) -> None:
    """Raises InputError where data would be left out that cannot be."""
    if stream.texts and "rollback" in (config.spikes.not_finite, config.spikes.outlier):
        raise InputError(
            f"spikes: rollback leaves out places in the order of data, which {', '.join(stream.texts)}, read as text, "
            "does not have; prepare it, or take skip"
        )


def check_vocabulary(config: RunConfig, vocabulary: Vocabulary) -> None:
    """Raises InputError where the network has no place for the ids of the data."""
    if vocabulary.size > config.model.vocab_size:
        raise InputError(
            f"model.vocab_size: is {config.model.vocab_size}, but the tokenizer of {vocabulary.path} "
            f"has {vocabulary.size} entries; set it to {vocabulary.size} or more"
        )
    if config.model.end_of_text not in (None, vocabulary.end_of_text):
        raise InputError(
            f"model.end_of_text: is {config.model.end_of_text}, but {vocabulary.end_of_text} in the tokenizer of "
            f"{vocabulary.path}; leave it out"
        )


def progress_at(config: RunConfig, folder: Path | None) -> "Progress":
    """How far a run has come that goes on from `folder`, or begins; with what it has decided to leave out since."""
    from training import skipped
    from training.checkpoint import read_progress
    from training.run import Progress

    if folder is None:
        return Progress()
    done = read_progress(folder)[1]
    return replace(done, stream=skipped.leaving_out(done.stream, skipped.read(config.folder)))


def last_position(config: RunConfig, done: "Progress") -> int:
    """The position in the order of data behind the last whole batch of a run that goes on from `done`."""
    coming = sequences_at_end(config.train, config.model.n_ctx, done.sequences) - done.sequences
    return done.stream.after(coming).position


def refuse_too_little_data(config: RunConfig, stream: Stream, done: "Progress") -> None:
    """Raises InputError where the order of data ends before the run does, unless that is what was asked for.

    From where the run stands, and in whole batches.
    """
    end, n_ctx = stream.schedule.end, config.model.n_ctx
    if end is None:
        return
    needed = last_position(config, done)
    least = done.stream.position or batch_sequences(config.train, n_ctx, done.sequences)
    if end.position >= (least if stream.schedule.stops else needed):
        return
    raise InputError(
        f"data: the order of data ends after {end.position * n_ctx:,} tokens: {end.reason}; train.tokens takes "
        f"{needed * n_ctx:,} in whole batches; give another mixture, more epochs or fewer tokens"
        + ("" if config.data.exhausted == "redistribute" else ", or another data.exhausted")
    )


def train_rank(config: RunConfig, resume: str, signals: Signals) -> None:
    """Trains as the rank that the environment names.

    Raises AskedToEnd when a signal asked for the end and the run is saved.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    stream, folder, changes = check_run(config, resume, world_size)
    if folder is None:
        config = pinned(config)
    if rank == 0:
        announce(config, stream, world_size, last_position(config, progress_at(config, folder)))
        for change in changes:
            log.info("changed since %s: %s", folder and folder.name, change)

    # Importing and starting the engine takes seconds: not before everything else is known to be right.
    from training.phase import Phase
    from training.run_folder import RunFolder
    from training.watchdog import start_watching

    phase = Phase()
    watching = start_watching(config.watch, config.folder, rank, world_size, phase)
    # Before the engine, whose start takes long: a run that another life writes is refused at once.
    run_folder = RunFolder(config.folder, writes=rank == 0, takeover_after=config.checkpoint.takeover_after)
    try:
        run = _built(config, stream, folder, run_folder, signals, phase)
        _carry_out(config, resume, folder, run, watching)
    finally:
        stream.close()
        run_folder.close()
    run.engine.close()
    if run.ended_by is not None:
        done = f"saved at step {run.progress.step}" if run.progress.step else "ended before the first step"
        raise AskedToEnd(f"{run.ended_by}: {done}; run the same command again to go on")


def _built(
    config: RunConfig, stream: Stream, folder: Path | None, run_folder: "RunFolder", signals: Signals, phase: "Phase"
) -> "Run":
    """Network, optimizer and engine, with the weights that a run begins from; those of its checkpoint come later."""
    import torch

    from model.gpt import GPT
    from training.compilation import compile_blocks
    from training.engine import build_engine
    from training.ledger import Ledger
    from training.optimizer import build_optimizer
    from training.run import Run
    from training.tensor_parallel import split_layers

    model = config.model.model_copy(update={"end_of_text": stream.vocabulary.end_of_text})
    with torch.device("meta"):  # the engine takes the weights one by one and keeps what is this rank's
        network = GPT(model, config.train.activation_checkpointing)
    place = config.parallel.place(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    if place.tensor > 1:
        split_layers(network, place)
    if compile_blocks(network, config.train.compile, config.zero.stage):
        log.info("compile: blocks are compiled at the first step, which takes a minute or so")
    phase.enter("starting the engine")
    engine = build_engine(
        network,
        build_optimizer(network, config.train),
        zero=config.zero.of_run(config.folder),
        precision=config.train.precision,
        micro_batch=config.train.micro_batch,
        grad_clip=config.train.grad_clip,
        place=place,
        values=_first_values(config, network, folder, phase),
    )
    ledger = Ledger(stream, engine.device, engine.place.counts)
    return Run(config.train, model, engine, stream, ledger, run_folder, signals, phase=phase)


def _first_values(
    config: RunConfig, network: "GPT", folder: Path | None, phase: "Phase"
) -> Iterator[tuple[str, "Tensor"]]:
    """Name and value of each parameter, one at a time; of no meaning where those of a checkpoint come later."""
    from training.building import zeros

    values = network.drawn(config.seed)
    if folder is not None:
        values = zeros(network)
    elif config.train.init_from is not None:
        values = weights_from(config.train.init_from, network, config.seed)
        log.info("begins from the weights of %s", config.train.init_from)
    for each in values:
        phase.move()
        yield each
        del each  # or it would be there while the next one is made


def _carry_out(config: RunConfig, resume: str, folder: Path | None, run: "Run", watching: "Sequence[Callback]") -> None:
    """Goes on from the checkpoint, trains, and says what became of it."""
    from launcher.features import features
    from training import checkpoint
    from training.collectives import gather_objects
    from training.errors import RunError
    from training.loop import train

    stream, rank = run.stream, run.engine.rank
    describing = checkpoint.Describing(
        run.model, config.dump(), stream.vocabulary.json, config.zero.stage, config.train.precision
    )
    try:
        run.phase.enter("reading the checkpoint" if folder else "meeting the other ranks")
        now = choose(config, resume) if rank == 0 else None  # from here on nobody else writes there
        told = gather_objects((stream.identity, folder and folder.name, now and now.name))
        _refuse_other_ranks([(identity, name) for identity, name, _ in told])
        _refuse_late_checkpoint(config.folder, *told[0][1:])
        if folder is not None:
            checkpoint.load(run, folder)
            log.info("resumed from %s at step %d, %s tokens", folder, run.progress.step, f"{run.tokens:,}")
        if not run.finished:
            run.folder.describe(config.dump(), run.engine.world_size)
            came_from = {"checkpoint": folder.name} if folder else {}
            run.note_beginning("resume" if folder else "start", **came_from, **_job_step())
            run.phase.enter("starting the loop")
            train(run, [*features(config, describing, run), *watching])
            if run.ended_by is None:
                seen = run.ledger.statement(run.progress.stream)
                run.folder.event("end", run.progress.step, run.tokens, seen=seen, data_hash=run.ledger.data_hash)
                log.info("done: %s, metrics in %s", config.folder, config.folder / "metrics.jsonl")
        elif run.tokens >= config.train.tokens:
            log.info("the run has consumed its %s tokens: raise train.tokens to go on", f"{config.train.tokens:,}")
        if run.finished and run.tokens < config.train.tokens and (end := stream.schedule.end) is not None:
            left = end.position - run.progress.stream.position
            log.warning("stopped early: %s; %d sequences are left, less than a batch", end.reason, left)
    except (InputError, RunError, OSError) as error:
        run.folder.event("error", run.progress.step, run.tokens, reason=str(error))
        raise


def _job_step() -> dict[str, str]:
    """Job and step of Slurm, where there is one."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID")
    return {"job_step": ".".join(os.environ[name] for name in names)} if all(map(os.environ.get, names)) else {}


def _refuse_other_ranks(opened: list[tuple[str, str | None]]) -> None:
    """Raises InputError where a rank opened other data, or another checkpoint, than rank 0: each looked by itself."""
    for rank, (identity, checkpoint) in enumerate(opened):
        if identity != opened[0][0]:
            raise InputError(
                f"data: rank {rank} opened other data than rank 0; give all machines the same, and start anew"
            )
        if checkpoint != opened[0][1]:
            raise InputError(
                f"--resume: rank {rank} goes on from {checkpoint or 'the beginning'}, rank 0 from "
                f"{opened[0][1] or 'the beginning'}; somebody else is writing there, or a network's disk is behind: "
                "start again"
            )


def _refuse_late_checkpoint(run_dir: Path, chosen: str | None, now: str | None) -> None:
    """Raises RunError where the life before saved a checkpoint while this one was starting."""
    from training.errors import RunError

    if chosen != now:
        raise RunError(f"{run_dir}: the life before it saved {now} while this one was starting: start again")
