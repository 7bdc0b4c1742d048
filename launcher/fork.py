"""A new run from a checkpoint of an old one: a run folder whose first checkpoint is the fork point.

It resumes like any other run, on any layout. Weights and moments are not written again: the files are those of the old
checkpoint, by hard links where the file system has them, so that either run may prune its own.
"""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from data_pipeline.durable import whole_folder, write_whole
from data_pipeline.errors import InputError
from launcher.changes import changes
from launcher.config import RunConfig
from launcher.fork_order import Old, Order, begun_anew, continued
from launcher.init_from import FREE, refuse_other_network, refuse_other_vocabulary
from launcher.prepare import ensure_prepared
from launcher.train import check_vocabulary, refuse_too_little_data
from training.checkpoint import folder_of, model_json, settled
from training.run import Progress
from training.run_folder import RunFolder

BEGINS_ANEW = {
    "optimizer": "moments and steps begin at zero",
    "schedule": "steps and tokens are counted anew",
    "data": "the order begins anew, and what was read before may come again",
}
PARTS = tuple(BEGINS_ANEW)
"""What `--reset` can name."""

SAME_WEIGHTS = FREE | {"rotary_base", "band"}
"""Keys of `model:` that a fork may change, besides an n_ctx that is not learned: the weights fit either way."""


def read_reset(text: str | None) -> frozenset[str]:
    """What `--reset` names. Raises InputError for what cannot begin anew."""
    named = text.split(",") if text else []
    for each in named:
        if each not in PARTS:
            raise InputError(f"--reset: {each!r} is none of {', '.join(PARTS)}; name some of them, with commas between")
    return frozenset(named)


def fork(name: str, config: RunConfig, reset: frozenset[str]) -> str:
    """Makes the run folder of a fork and says what it is.

    Raises InputError for what cannot go on from the checkpoint, with the mend, and leaves nothing behind then.
    """
    if config.folder.exists() and (not config.folder.is_dir() or any(config.folder.iterdir())):
        raise InputError(
            f"{config.folder}: is there already, and a fork is a run of its own; give it another name or run_dir"
        )
    old = Old.open(name)
    _refuse_what_does_nothing(old, config, reset)
    _refuse_the_same_copies(old, config)
    refuse_other_network("thalweg fork", old.folder, config.model, SAME_WEIGHTS, same_rows=True)
    ensure_prepared(config.data)
    order = begun_anew(old, config) if "data" in reset else continued(old, config)
    order.stream.close()
    check_vocabulary(config, order.stream.vocabulary)
    refuse_other_vocabulary("thalweg fork", old.folder, order.stream.vocabulary)
    _refuse_text_of_weights_alone(old, order)
    n_ctx = config.model.n_ctx
    step, sequences = (0, 0) if "schedule" in reset else (old.progress.step, old.manifest.tokens // n_ctx)
    progress = Progress(step, sequences, order.state)
    _refuse_nothing_to_do(old, config, sequences * n_ctx)
    refuse_too_little_data(config, order.stream, progress)
    told = _told(old, config, order, reset)
    with whole_folder(config.folder) as partial:
        point = folder_of(partial, step)
        point.mkdir(parents=True)
        _write_checkpoint(old, config, order, progress, reset, point)
        write_whole(point.with_name("latest"), point.name + "\n")
        write_whole(partial / "config.yaml", config.dump())
        _note(partial, old, order, progress, reset, told)
    return "\n".join(
        [
            f"{config.folder}: a fork of {old.folder}, at step {step}, {sequences * n_ctx:,} tokens",
            *(f"  {line}" for line in told),
            f"go on with: thalweg launch {config.folder / 'config.yaml'}",
        ]
    )


def _note(run_dir: Path, old: Old, order: Order, progress: Progress, reset: frozenset[str], told: list[str]) -> None:
    """The event with which the new run begins."""
    origin = order.stream.schedule.origin
    run_folder = RunFolder(run_dir, writes=True)
    run_folder.event(
        "fork",
        progress.step,
        progress.sequences * order.stream.n_ctx,
        checkpoint=str(old.folder),
        reset=[part for part in PARTS if part in reset],
        changes=told,
        from_step=old.manifest.step,
        from_tokens=old.manifest.tokens,
        from_data_hash=old.state.get("data_hash"),
        origin=origin.as_json() if origin else None,
    )
    run_folder.close()


def _refuse_nothing_to_do(old: Old, config: RunConfig, tokens: int) -> None:
    if tokens >= config.train.tokens:
        raise InputError(
            f"train.tokens: is {config.train.tokens:,}, and {old.folder} has consumed {tokens:,}; give more, or count "
            "them anew with --reset schedule"
        )


def _refuse_what_does_nothing(old: Old, config: RunConfig, reset: frozenset[str]) -> None:
    if old.manifest.weights_only and reset != set(PARTS):
        raise InputError(
            f"{old.folder}: holds weights alone, and no state to go on from; give --reset {','.join(PARTS)}"
        )
    if config.train.init_from is not None:
        raise InputError(
            "train.init_from: does nothing in a fork, which begins from its checkpoint; leave it out, or give "
            "train.init_from=null"
        )


def _refuse_the_same_copies(old: Old, config: RunConfig) -> None:
    """Raises InputError where the copies of both runs would lie in one place, under the same names."""
    to = config.checkpoint.copy_to
    if to is not None and old.config is not None and str(to) == str(old.config.checkpoint.copy_to):
        raise InputError(f"checkpoint.copy_to: {to} holds the copies of the old run; name another place, or null")


def _refuse_text_of_weights_alone(old: Old, order: Order) -> None:
    if order.stream.texts and old.manifest.weights_only:
        raise InputError(
            f"data.sources: {', '.join(order.stream.texts)} is read as text by a number of processes that "
            f"{old.folder} does not tell; begin a run with train.init_from={old.folder}"
        )


def _told(old: Old, config: RunConfig, order: Order, reset: frozenset[str]) -> list[str]:
    """What differs, a line each."""
    told = [f"{part}: {BEGINS_ANEW[part]}" for part in PARTS if part in reset]
    told += [str(each) for each in changes(old.config, config) if each.is_told] if old.config else []
    n_ctx, tokens = config.model.n_ctx, old.manifest.tokens
    if "schedule" not in reset and tokens % n_ctx:
        told.append(f"tokens: {tokens:,} count as {tokens - tokens % n_ctx:,}, in whole sequences of {n_ctx}")
    if origin := order.stream.schedule.origin:
        new = [name for name in order.stream.names if name not in origin.drawn]
        gone = [name for name, count in origin.drawn.items() if count and name not in order.stream.names]
        told += [f"data: {name} is new and begins with its first window" for name in new]
        told += [f"data: {name} is not read any more" for name in gone]
    return told


def _write_checkpoint(
    old: Old, config: RunConfig, order: Order, progress: Progress, reset: frozenset[str], point: Path
) -> None:
    """Fills in the folder of the fork's first checkpoint."""
    stream = order.stream
    kept = ("weights/", *(() if "optimizer" in reset else ("moments/",)), *(() if "data" in reset else ("texts/",)))
    files = {name: entry for name, entry in old.manifest.files.items() if name.startswith(kept)}
    for name, entry in files.items():
        _share(old.folder / name, point / name, entry.bytes)
    model = config.model.model_copy(update={"end_of_text": stream.vocabulary.end_of_text})
    state = {
        "step": progress.step,
        "sequences": progress.sequences,
        **asdict(progress.stream),
        "origin": origin.as_json() if (origin := stream.schedule.origin) else None,
        "optimizer_steps": 0 if "optimizer" in reset else old.state["optimizer_steps"],
        "data_hash": order.data_hash,
        "sequences_by_source": order.sequences_by_source,
        # Of steps that are counted on, and of a loss that goes on.
        "kept": {} if reset & {"optimizer", "schedule"} else old.state.get("kept", {}),
    }
    written = {
        "state.json": json.dumps(state, indent=1),
        "model.json": model_json(model),
        "config.yaml": config.dump(),
        "tokenizer.json": stream.vocabulary.json,
    }
    for name, text in written.items():
        (point / name).write_text(text, encoding="utf-8")
        files[name] = settled(point / name)
    described = {
        "weights_only": False,
        "step": progress.step,
        "tokens": progress.sequences * config.model.n_ctx,
        "data_manifest": stream.identity,
        "files": files,
    }
    manifest = old.manifest.model_copy(update=described)
    write_whole(point / "manifest.json", manifest.model_dump_json(indent=1))


def _share(source: Path, target: Path, size: int) -> None:
    """The same file under another name, or a copy of it where the file system cannot.

    Whether it is what the manifest says is looked at when the fork is trained, as with every checkpoint.
    """
    if not source.is_file() or source.stat().st_size != size:
        raise InputError(f"{source}: is missing or of another size than its manifest says; use another checkpoint")
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
