"""From the `data:` section of a run to its stream."""

import resource
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.config import DataConfig
from data_pipeline.errors import InputError
from data_pipeline.manifest import Manifest
from data_pipeline.origin import Origin
from data_pipeline.phases import Phase, Schedule
from data_pipeline.prepared_shard import PreparedShard
from data_pipeline.source import Source
from data_pipeline.source_config import ForeignSource, TextStream
from data_pipeline.stream import Stream
from data_pipeline.vocabulary import Vocabulary

if TYPE_CHECKING:
    from data_pipeline.shard_cache import ShardCache
    from data_pipeline.text_stream import TextStreamSource


@dataclass(frozen=True)
class Prepared:
    """A prepared folder that is open: `folder` is itself, or a cache's image of it."""

    folder: Path
    manifest: Manifest
    hash: str
    vocabulary: Vocabulary
    cache: "ShardCache | None" = None

    @staticmethod
    def open(data: DataConfig) -> "Prepared | None":
        """Reads the manifest and the tokenizer; None where the run has no prepared folder."""
        if data.folder is None:
            return None
        cache = None
        if data.cache is not None:
            from data_pipeline.shard_cache import ShardCache

            cache = ShardCache(str(data.folder), data.cache.path, data.cache.size, data.storage)
        folder = Path(data.folder) if cache is None else cache.folder
        manifest, hash = Manifest.load(folder)
        path = folder / "tokenizer.json"
        if fault := manifest.tokenizer.file.fault(path):
            raise InputError(f"{fault}; restore it or prepare again")
        entry = manifest.tokenizer
        vocabulary = Vocabulary(entry.vocab_size, entry.end_of_text, path.read_text(encoding="utf-8"), path)
        return Prepared(folder, manifest, hash, vocabulary, cache)

    def source(self, name: str, split: str, data: DataConfig, n_ctx: int, seed: int) -> Source:
        """One of its sources."""
        entries = self.manifest.sources[name].splits.get(split, [])
        shards = [PreparedShard(self.folder, entry, self.vocabulary.size, self.cache) for entry in entries]
        return Source(name, shards, n_ctx, data.open_shards, seed)


def open_stream(
    data: DataConfig, seed: int, n_ctx: int, rank: int = 0, world_size: int = 1, origin: Origin | None = None
) -> Stream:
    """Opens what a run reads; nothing of it but descriptions is read yet. The order begins at `origin`, if any.

    Raises InputError for a source that does not exist or has not one window of `n_ctx` + 1 tokens, for other
    tokenizers than the run's, and for phases that cannot be.
    """
    prepared = Prepared.open(data)
    names = _names(data, prepared)
    vocabulary = _vocabulary(data, prepared, names)
    sources: dict[str, Source | TextStreamSource] = {}
    identities = {} if prepared is None else {"": prepared.hash}
    for name in names:
        if (config := data.sources.get(name)) is None:
            assert prepared is not None
            sources[name] = prepared.source(name, "train", data, n_ctx, seed)
        elif isinstance(config, TextStream):
            text = _text(name, config, vocabulary, n_ctx, seed, rank, world_size)
            sources[name], identities[name] = text, text.identity
        else:
            sources[name], identities[name] = _foreign(name, config, vocabulary, data, n_ctx, seed)
    schedule = _schedule(data, sources, n_ctx, origin)
    _refuse_too_small(sources, schedule, n_ctx)
    held_out = [name for name in schedule.names if name not in data.sources]
    stream = Stream(
        [sources[name] for name in schedule.names],
        schedule,
        vocabulary,
        _identity(identities),
        seed,
        n_ctx,
        held_out=[prepared.source(name, "validation", data, n_ctx, seed) for name in held_out] if prepared else [],
        cache=prepared.cache if prepared else None,
        identities={name: identities.get(name) or _identity_of(name, prepared) for name in schedule.names},
    )
    _refuse_small_cache(data, stream)
    _allow_open_files(sum(source.most_open for source in stream.sources if isinstance(source, Source)))
    return stream


def _foreign(
    name: str, config: ForeignSource, vocabulary: Vocabulary, data: DataConfig, n_ctx: int, seed: int
) -> tuple[Source, str]:
    """A source of another system's token files, and the hash that says which they are."""
    from data_pipeline.foreign.opening import open_foreign

    foreign = open_foreign(name, config, vocabulary.size)
    return Source(name, foreign.shards, n_ctx, data.open_shards, seed), foreign.identity


def _text(
    name: str, config: TextStream, vocabulary: Vocabulary, n_ctx: int, seed: int, rank: int, world_size: int
) -> "TextStreamSource":
    """A source that is tokenised while it is read; only such a one takes tokenizers and readers."""
    from data_pipeline.text_stream import TextStreamSource

    return TextStreamSource(name, config, vocabulary.json, n_ctx, seed, rank, world_size)


def _refuse_too_small(sources: Mapping[str, "Source | TextStreamSource"], schedule: Schedule, n_ctx: int) -> None:
    """Raises InputError for a source with a share and without a window."""
    for name, drawn in zip(schedule.names, schedule.ever_drawn(), strict=True):
        source = sources[name]
        if drawn and isinstance(source, Source) and not source.windows:
            raise InputError(
                f"data: source {name} has {source.tokens} tokens, too few for one sequence of n_ctx + 1 = "
                f"{n_ctx + 1}; give it more data, a smaller n_ctx or no weight"
            )


def _names(data: DataConfig, prepared: Prepared | None) -> list[str]:
    """The sources that the mixture or a phase names; all there are where weights come from sizes."""
    there = [] if prepared is None else list(prepared.manifest.sources)
    if twice := sorted(set(there) & set(data.sources)):
        raise InputError(f"data.sources.{twice[0]}: {data.folder} has a source of this name, too; name it otherwise")
    there += data.sources
    weights: list[tuple[str, dict[str, float] | None]] = []
    if data.mixture is not None:
        weights.append(("data.mixture", data.mixture))
    weights += [(f"data.phases.{at}.weights", phase.weights) for at, phase in enumerate(data.phases or [])]
    for key, each in weights:
        for name in each or {}:
            if name not in there:
                raise InputError(
                    f"{key}.{name}: is not a source of {data.folder or 'the run'}, which has {', '.join(there)}"
                )
    if any(each is None for _, each in weights) or not weights:
        return sorted(there)
    return sorted({name for _, each in weights for name in each or {}})


def _vocabulary(data: DataConfig, prepared: Prepared | None, names: list[str]) -> Vocabulary:
    """The one of all sources."""
    found = None if prepared is None else prepared.vocabulary
    for name in names:
        if (config := data.sources.get(name)) is None:
            continue
        key = f"data.sources.{name}.tokenizer"
        if config.tokenizer is not None:
            own = Vocabulary.open(config.tokenizer)
            if found is not None:
                found.refuse_other(own, key)
            found = found or own
        end_of_text = None if isinstance(config, TextStream) else config.end_of_text
        if found is not None and end_of_text not in (None, found.end_of_text):
            raise InputError(
                f"data.sources.{name}.end_of_text: is {end_of_text}, and {found.end_of_text} in {found.path}; "
                "documents of one run end with one id"
            )
    if found is None:
        raise InputError(f"data.sources.{names[0]}.tokenizer: is missing, and there is no data.path to take it from")
    return found


def _schedule(
    data: DataConfig, sources: Mapping[str, "Source | TextStreamSource"], n_ctx: int, origin: Origin | None
) -> Schedule:
    def weights(given: Mapping[str, float] | None, alpha: float | None, key: str) -> Mapping[str, float]:
        if given is not None:
            return given
        assert alpha is not None
        return {name: _size(source, key) ** alpha for name, source in sources.items()}

    def phase(at: int) -> Phase:
        assert data.phases is not None
        each, key = data.phases[at], f"data.phases.{at}"
        until = None if each.until_tokens is None else each.until_tokens // n_ctx
        return Phase(weights(each.weights, each.alpha, f"{key}.alpha"), until, each.interpolate, key)

    phases = [phase(at) for at in range(len(data.phases or []))]
    key = "data.mixture" if data.mixture is not None else "data.alpha"
    phases = phases or [Phase(weights(data.mixture, data.alpha, key), key=key)]
    limits = {}
    for name, epochs in data.max_epochs.items():
        source = sources.get(name)
        if not isinstance(source, Source):
            why = (
                "is no source of the mixture" if source is None else "is read as text, whose epochs nobody knows before"
            )
            raise InputError(f"data.max_epochs.{name}: {why}; leave it out")
        limits[name] = int(Fraction(str(epochs)) * source.windows)  # 1.15 of 100 is 115
    return Schedule(phases, limits, data.exhausted, origin)


def _size(source: "Source | TextStreamSource", key: str) -> int:
    if not isinstance(source, Source):
        raise InputError(f"{key}: {source.name} is read as text, whose size nobody knows before; give weights")
    return source.tokens


def _identity(identities: Mapping[str, str]) -> str:
    """Of a prepared folder alone the hash of its manifest; else one that all sources go into."""
    if list(identities) == [""]:
        return identities[""]
    return blake2b(repr(sorted(identities.items())).encode(), digest_size=16).hexdigest()


def _identity_of(name: str, prepared: Prepared | None) -> str:
    """Of one source of a prepared folder: the tokens of its shards, in order, whatever else the folder holds."""
    assert prepared is not None
    entries = prepared.manifest.sources[name].splits.get("train", [])
    tokens = [(entry.tokens, entry.files[".tokens"].xxh3) for entry in entries]
    return blake2b(repr(tokens).encode(), digest_size=16).hexdigest()


def _refuse_small_cache(data: DataConfig, stream: Stream) -> None:
    """Raises InputError for a cache that would fetch the same shards over and over."""
    if data.cache is None:
        return
    small = (stream.vocabulary.path, stream.vocabulary.path.with_name("manifest.json"))
    needed = sum(path.stat().st_size for path in small)  # which stay, too
    drawn = zip(stream.sources, stream.schedule.ever_drawn(), strict=True)
    for source in (*(each for each, ever in drawn if ever), *stream.held_out):
        if isinstance(source, Source):
            sizes = [
                sum(entry.bytes for _, entry in shard.needed)
                for shard in source.shards
                if isinstance(shard, PreparedShard)
            ]
            needed += sum(sorted(sizes)[-source.most_open :])
    if needed > data.cache.size:
        raise InputError(
            f"data.cache.size: is {data.cache.size:,} bytes, and what is open together, for validation, too, has "
            f"{needed:,}; raise it, or lower data.open_shards"
        )


def _allow_open_files(shards: int) -> None:
    """Each open shard takes two files, its own and its map's; the usual soft limit is 1024.

    Raises InputError where the hard limit is too low, which a run would otherwise meet hours later.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * shards + 512
    if hard not in (resource.RLIM_INFINITY, -1) and needed > hard:
        raise InputError(
            f"the limit of open files is {hard}, and {shards} shards are open together: raise it "
            f"(`ulimit -n {needed}`) or lower data.open_shards"
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
