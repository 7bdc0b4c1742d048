"""The documents of one step's batch: where they came from and what they say."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from data_pipeline.errors import InputError
from data_pipeline.opening import open_stream
from data_pipeline.origin import read_origin
from data_pipeline.shard import Document
from data_pipeline.source import Source
from data_pipeline.stream import Located, Stream, StreamState
from launcher.config import load_run
from training.batch_ramp import batch_sequences, sequences_after
from training.config import RampConfig, TrainConfig
from training.run_folder import read_lines

SHOWN = 200
"""Characters of a document on a terminal; --json has them all."""


BEGINNINGS = ("start", "resume", "rollback")
"""Events that say where in the data the steps behind them begin."""


@dataclass(frozen=True)
class Piece:
    """A document, or that part of one which lies in a sequence: its tokens [start, stop) of the shard, and its text.

    `id`, `file`, `offset` and `url` say where it came from, as far as the source's format keeps that.
    """

    text: str
    start: int
    stop: int
    id: str | None = None
    file: str | None = None
    offset: int | None = None
    url: str | None = None


@dataclass(frozen=True)
class Sequence:
    """One sequence of a batch. Of text that was read as a stream nothing but the source is known afterwards."""

    position: int
    source: str
    epoch: int | None = None
    window: int | None = None
    shard: str | None = None
    offset: int | None = None
    """Its first token in the shard."""
    documents: list[Piece] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """What a step was, or will be, trained on."""

    run: str
    step: int
    life: int
    """The life of the run whose order this is: after a resume from an earlier step that of the resumed one."""
    sequences: list[Sequence]

    def as_json(self) -> dict[str, Any]:
        """As one JSON object."""
        return asdict(self)


def batch_of(run_dir: Path, step: int) -> Batch:
    """The batch of `step`, from 1 on, of a run.

    Raises InputError where the run or its data are not there, or are no longer those that it was trained on.
    """
    begun = _begun(run_dir, step)
    config = load_run(run_dir / "config.yaml")
    origin = read_origin(begun.get("origin"))
    readers = begun["processes"] // begun.get("sharing", 1)
    stream = open_stream(config.data, config.seed, config.model.n_ctx, world_size=readers, origin=origin)
    try:
        if begun["data"] != stream.identity:
            raise InputError(
                f"{run_dir}: was trained on other data than is there now; restore data.path or data.sources"
            )
        state = StreamState(begun["position"], tuple((start, stop) for start, stop in begun["skipped"]))
        train = _train_of(config.train, begun)
        first = begun["tokens"] // stream.n_ctx
        before = sequences_after(train, stream.n_ctx, first, step - begun["step"] - 1)
        count = batch_sequences(train, stream.n_ctx, before)
        positions, _ = state.after(before - first).take(count)
        located = stream.locate(positions)
        tokenizer = Tokenizer.from_str(stream.vocabulary.json)
        # By window, so that the list of a shard's documents is read once.
        order = np.lexsort((located.window, located.source)).tolist()
        found = {at: _sequence(stream, located.part(slice(at, at + 1)), tokenizer) for at in order}
    finally:
        stream.close()
    return Batch(str(run_dir), step, begun["life"], [found[at] for at in range(count)])


def _train_of(train: TrainConfig, begun: dict[str, Any]) -> TrainConfig:
    """With the batches of that life."""
    ramp = begun.get("ramp")
    batches = {"batch_tokens": begun["batch_tokens"], "ramp": RampConfig(**ramp) if ramp else None}
    return train.model_copy(update=batches)


def _begun(run_dir: Path, step: int) -> dict[str, Any]:
    """The event with which that life began or went on whose `step` the run is built on, or will be.

    From the last life back: each went on from a checkpoint, and what lies before is of the life that wrote it.
    """
    path = run_dir / "events.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: is missing; name the folder of a run")
    lines = read_lines(path)
    begun = _last(lines, lambda line: line["event"] in BEGINNINGS)
    while begun is not None and begun["step"] >= step:
        at, name = lines.index(begun), begun.get("checkpoint")
        written = _last(lines[:at], lambda line: line["event"] == "checkpoint" and line["path"] == name)  # noqa: B023
        if written is None:
            forked = _last(lines, lambda line: line["event"] == "fork")
            hint = f", with a fork of {forked['checkpoint']}: look into that run" if forked else ""
            raise InputError(
                f"{path}: step {step} was not done in this run; it begins behind step {begun['step']}{hint}"
            )
        begun = _last(
            lines[: lines.index(written)],
            lambda line: line["event"] in BEGINNINGS and line["life"] == written["life"],  # noqa: B023
        )
    if begun is None:
        raise InputError(f"{path}: holds no life of a run yet")
    if "position" not in begun:
        raise InputError(f"{path}: was written by an early release, which did not note where in the data a life begins")
    return begun


def _last(lines: list[dict[str, Any]], chosen: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    return next((line for line in reversed(lines) if chosen(line)), None)


def _sequence(stream: Stream, located: Located, tokenizer: Tokenizer) -> Sequence:
    source = stream.sources[int(located.source[0])]
    position, window = int(located.position[0]), int(located.window[0])
    if not isinstance(source, Source):
        return Sequence(position, source.name)
    tokens = np.empty((1, stream.n_ctx + 1), dtype=stream.dtype)
    source.read(located.window, tokens, np.array([0]))
    shard, start = source.place(window)
    documents = source.documents(window) or _cut(tokens[0], start, stream.vocabulary.end_of_text)
    pieces = [_piece(each, tokens[0], start, tokenizer) for each in documents]
    return Sequence(position, source.name, int(located.epoch[0]), window, shard.name, start, pieces)


def _cut(tokens: npt.NDArray[Any], start: int, end_of_text: int) -> list[Document]:
    """The documents of a shard that keeps no list of them: what lies between the ends of texts."""
    ends = [int(at) + 1 for at in np.flatnonzero(tokens == end_of_text)]
    cuts = sorted({0, *ends, len(tokens)})
    return [Document(start + begin, start + end, "") for begin, end in pairwise(cuts)]


def _piece(document: Document, tokens: npt.NDArray[Any], start: int, tokenizer: Tokenizer) -> Piece:
    first, last = max(document.start, start), min(document.stop, start + len(tokens))
    text = tokenizer.decode(tokens[first - start : last - start].tolist(), skip_special_tokens=True)
    return Piece(text, first, last, document.id or None, document.file, document.offset, document.url)


def printed(batch: Batch) -> str:
    """For a terminal: a line a sequence, and two for each of its documents."""
    lines = [f"step {batch.step} of {batch.run} (life {batch.life}): {len(batch.sequences)} sequences"]
    for each in batch.sequences:
        if each.shard is None:
            lines.append(f"\n{each.position} {each.source}: read as text, which is not kept")
            continue
        where = f"{each.shard} from token {each.offset}"
        lines.append(f"\n{each.position} {each.source}, epoch {each.epoch}, window {each.window}: {where}")
        for piece in each.documents:
            origin = [str(part) for part in (piece.id, piece.file, piece.offset, piece.url) if part is not None]
            text = " ".join(piece.text.split())
            lines.append(f"  tokens {piece.start} to {piece.stop}: {' '.join(origin) or 'no origin is kept'}")
            lines.append(f"    {text[:SHOWN]}{'…' if len(text) > SHOWN else ''}")
    return "\n".join(lines)
