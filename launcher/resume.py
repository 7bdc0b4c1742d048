"""Where a run goes on from, and whether it may."""

from pathlib import Path

from data_pipeline.config import DataConfig
from data_pipeline.errors import InputError
from data_pipeline.opening import open_stream
from data_pipeline.stream import Stream
from data_pipeline.urls import is_url
from launcher import fetch
from launcher.changes import Change, Meaning, changes, same_rate
from launcher.config import RunConfig, load_run
from training import checkpoint
from training.checkpoint import CheckpointManifest
from training.config import TrainConfig
from training.schedule import learning_rate


def choose(config: RunConfig, resume: str) -> Path | None:
    """The checkpoint to go on from, or None to begin.

    One that is on an object store alone is fetched into the run folder. Raises InputError where the one named is not
    complete, or where a run that must not resume has begun.
    """
    if resume not in ("auto", "never"):
        folder = fetch.named(config, resume) if is_url(resume) else checkpoint.find(resume)
        if CheckpointManifest.load(folder).weights_only:
            raise InputError(
                f"{folder}: holds weights alone, and no state to resume; begin a run with train.init_from={resume}"
            )
        return folder
    newest = checkpoint.latest(config.folder)
    if resume == "never" and newest is not None:
        raise InputError(
            f"{config.folder}: already holds {newest.name}; give another run_dir, delete the folder "
            "or leave out --resume never"
        )
    if newest is None and config.checkpoint.copy_to is not None:
        return fetch.newest(config, resume)
    return newest


def check(config: RunConfig, folder: Path, stream: Stream, world_size: int) -> list[str]:
    """What differs between a configuration and a checkpoint's and may, as `key: before -> now`.

    Raises InputError that names every key that differs and may not.
    """
    saved = CheckpointManifest.load(folder)
    saved_config = load_run(folder / "config.yaml")
    found = changes(saved_config, config)
    refused = [_was(each) for each in found if each.meaning in (Meaning.NETWORK, Meaning.RECIPE)]
    refused += _other_rate(saved_config.train, config.train, found, saved.tokens)
    refused += _other_data(saved_config, config, folder, stream, world_size, found)
    if refused:
        raise InputError(
            f"{folder}: is of another run: {'; '.join(refused)}; restore them, or make a run of its own of it "
            f"with `thalweg fork {folder} RUN.yaml`"
        )
    told = [str(each) for each in found if each.is_told]
    if saved.world_size != world_size:
        told.append(f"processes: {saved.world_size} -> {world_size}")
    before, now = (learning_rate(each.train, saved.tokens) for each in (saved_config, config))
    if before != now:
        told.append(
            f"the end of the decay, which is train.tokens where train.decay_tokens is not given: the rate at "
            f"{saved.tokens:,} tokens was {before:.3g} and is {now:.3g}"
        )
    return told


def _was(change: Change, why: str = "") -> str:
    return f"{change.key} ({change.before}, now {change.now}){why}"


def _other_rate(before: TrainConfig, now: TrainConfig, found: list[Change], tokens: int) -> list[str]:
    """The keys by which the learning rate of what was trained already is another one.

    More tokens may be asked for, also where that moves the end of the decay; not fewer.
    """
    is_longer = now.tokens >= before.tokens
    given = [each for each in found if each.meaning is Meaning.RATE and not (is_longer and each.key == "train.tokens")]
    longer = TrainConfig.model_construct(**(dict(before) | {"tokens": max(before.tokens, now.tokens)}))
    if not given or same_rate(before, now, tokens) or same_rate(longer, now, tokens):
        return []
    return [_was(each, ", which changes the learning rate so far") for each in given]


def _other_data(
    saved_config: RunConfig, config: RunConfig, folder: Path, stream: Stream, world_size: int, found: list[Change]
) -> list[str]:
    """What is not as it was among the data, and in the order of what was read already."""
    saved = CheckpointManifest.load(folder)
    before, now = saved.readers, world_size // config.parallel.sharing
    if stream.texts and before != now:
        shared = ", those that share being one" if now < world_size else ""
        names = ", ".join(stream.texts)
        return [f"number of processes ({before}, now {now}{shared}), each of which has its place in {names}"]
    if stream.identity != saved.data_manifest:
        where = _places(config.data)
        return [f"data.path or data.sources ({where}: other data, or other sources, than the run began with)"]
    if any(each.meaning is Meaning.NETWORK for each in found):
        return []  # and with it the order, for which it was refused
    order = [each for each in found if each.meaning is Meaning.ORDER]
    position = checkpoint.read_progress(folder)[1].stream.position
    if order and stream.schedule.before(position) != _schedule_before(saved_config, config, stream, position):
        return [_was(each, ", which changes what was read already") for each in order]
    return []


def _schedule_before(saved: RunConfig, config: RunConfig, now: Stream, position: int) -> list[tuple[int, str]]:
    """The order of sources that a checkpoint was made with, up to a position."""
    data, origin = moved(saved.data, config.data), now.schedule.origin
    stream = open_stream(data, saved.seed, saved.model.n_ctx, origin=origin)
    stream.close()
    return stream.schedule.before(position)


def moved(data: DataConfig, to: DataConfig) -> DataConfig:
    """The same mixture, of data at other places."""
    places = ("path", "prepare", "cache", "storage", "sources")
    return data.model_copy(update={key: getattr(to, key) for key in places})


def _places(data: DataConfig) -> str:
    return " and ".join(
        map(str, [*([data.folder] if data.folder else []), *(f"sources.{name}" for name in data.sources)])
    )
