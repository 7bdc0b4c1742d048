"""The order of data of a fork: where each source of the old run stood, and how it goes on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.data_hash import begin
from data_pipeline.errors import InputError
from data_pipeline.opening import open_stream
from data_pipeline.origin import Origin, read_origin
from data_pipeline.stream import Stream, StreamState
from launcher.config import RunConfig, load_run
from launcher.resume import moved
from training import checkpoint, skipped
from training.checkpoint import CheckpointManifest
from training.run import Progress


@dataclass(frozen=True)
class Old:
    """The checkpoint that is forked."""

    folder: Path
    manifest: CheckpointManifest
    config: RunConfig | None
    """None where it holds weights alone."""
    state: dict[str, Any]
    progress: Progress

    @staticmethod
    def open(name: str) -> "Old":
        """Reads what it says of itself. Raises InputError where it is no complete checkpoint."""
        folder = checkpoint.find(name).resolve()
        manifest = CheckpointManifest.load(folder)
        if manifest.weights_only:
            return Old(folder, manifest, None, {}, Progress())
        config = load_run(folder / "config.yaml")
        return Old(folder, manifest, config, *checkpoint.read_progress(folder))

    @property
    def origin(self) -> Origin | None:
        """Where the order of data of the old run begins, if not at its first position."""
        return read_origin(self.state.get("origin"))


@dataclass(frozen=True)
class Order:
    """The data that the fork reads, and what it has read of them."""

    stream: Stream
    state: StreamState
    data_hash: str
    sequences_by_source: dict[str, int]


def begun_anew(old: Old, config: RunConfig) -> Order:
    """The order of data from its first position on."""
    n_ctx = config.model.n_ctx
    stream = open_stream(config.data, config.seed, n_ctx, world_size=old.manifest.readers)
    return Order(stream, StreamState(), begin(stream.identity, n_ctx), {})


def continued(old: Old, config: RunConfig) -> Order:
    """The order of data that goes on where each source stood.

    Where its shares would have been others so far, it begins at the fork; else it is the old one, whatever is to come.
    """
    _refuse_another_order(old, config)
    before = _opened(old, config)
    before.close()
    position = old.progress.stream.position
    here = _origin_at(position, before)
    layout = (config.seed, config.model.n_ctx, 0, old.manifest.readers)
    stream = open_stream(config.data, *layout, old.origin)
    end = stream.schedule.end
    ended = end is not None and end.position < position
    state = skipped.leaving_out(old.progress.stream, skipped.read(old.folder.parent.parent))
    if ended or stream.schedule.before(position) != before.schedule.before(position):
        stream.close()
        stream = open_stream(config.data, *layout, here)
        state = StreamState(position)  # behind it, places mean other data now
    _refuse_other_tokens(old, here, stream)
    data_hash = old.state["data_hash"]
    if stream.identity != before.identity:
        data_hash = begin(f"{data_hash} {stream.identity}", stream.n_ctx)
    return Order(stream, state, data_hash, old.state["sequences_by_source"])


def _opened(old: Old, config: RunConfig) -> Stream:
    """The stream of the old run, from where the new one has its data or from its own places.

    Raises InputError where its data are gone or are others now.
    """
    assert old.config is not None
    layout = (old.config.seed, old.config.model.n_ctx, 0, old.manifest.readers, old.origin)
    reason = "other data are there now"
    for data in (moved(old.config.data, config.data), old.config.data):
        try:
            stream = open_stream(data, *layout)
        except InputError as error:
            reason = str(error)
            continue
        if stream.identity == old.manifest.data_manifest:
            return stream
        stream.close()
    raise InputError(
        f"{old.folder}: where each source stands is told by the data of that run, which cannot be opened ({reason}); "
        "restore them, or begin the order of data anew with --reset data"
    )


def _refuse_another_order(old: Old, config: RunConfig) -> None:
    """Raises InputError where the windows of all sources come in another order now."""
    assert old.config is not None
    pairs = {
        "model.n_ctx": (old.config.model.n_ctx, config.model.n_ctx),
        "seed": (old.config.seed, config.seed),
        "data.open_shards": (old.config.data.open_shards, config.data.open_shards),
    }
    if differing := [f"{key} ({then}, now {now})" for key, (then, now) in pairs.items() if then != now]:
        raise InputError(
            f"thalweg fork: {', '.join(differing)}: cuts or orders the windows of each source in another way, so that "
            "none can go on where it stood; begin the order of data anew with --reset data"
        )


def _origin_at(position: int, before: Stream) -> Origin:
    earlier = before.schedule.origin or Origin(0)
    drawn = dict(zip(before.names, before.schedule.consumed(position).tolist(), strict=True))
    return Origin(position, {**earlier.drawn, **drawn}, {**earlier.identities, **before.identities})


def _refuse_other_tokens(old: Old, here: Origin, now: Stream) -> None:
    """Raises InputError where a source that was read has other tokens now, and so no place to go on from."""
    for name, identity in now.identities.items():
        if here.drawn.get(name) and here.identities[name] != identity:
            raise InputError(
                f"data: source {name} has other tokens than the one of this name that {old.folder} was trained on; "
                "give it another name, or begin the order of data anew with --reset data"
            )
