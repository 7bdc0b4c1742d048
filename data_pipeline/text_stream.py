"""Text that a run tokenises while it reads it: rows of a data set, packed into windows, from any place on.

The place is kept in whole batches of documents: the state of `datasets` before the batch that the next window
begins in, and the token of the batch at which it does. What lies in a batch depends on nothing but its beginning,
so that a resume reads one batch again and goes on with the very next token.
"""

import logging
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import xxhash

from data_pipeline.errors import InputError
from data_pipeline.finding import names_of
from data_pipeline.readers.base import Drop
from data_pipeline.shard import Index
from data_pipeline.source_config import TextStream
from data_pipeline.text_rows import BATCH_ROWS, Place, Rows, columns_of, files_of, load, without_footer
from data_pipeline.tokenizer import Encoder, Ids

log = logging.getLogger("thalweg.data")

_BATCH_CHARACTERS = 500_000
_PROVED_CHARACTERS = 200_000


class _Batch(NamedTuple):
    """The tokens [T] of consecutive documents, and where they were read from."""

    place: Place
    skipped: dict[str, int]
    """Rows that were left out before this batch, by reason."""
    tokens: Ids
    hash: str


class TextStreamSource:
    """One rank's part of a data set as windows of `n_ctx + 1` tokens that share their edges.

    Each document ends with end-of-text; documents and epochs may end within a window. An epoch reads every row of
    the rank's part once, the shards in an order of its own. What fails is tried again by the next call.
    """

    def __init__(
        self,
        name: str,
        config: TextStream,
        tokenizer_json: str,
        n_ctx: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        """Opens nothing: the data set and the encoder are loaded at the first read.

        Raises InputError for a path at which there is nothing.
        """
        self.name, self.skipped = name, Counter[str]()
        self._config, self._tokenizer, self._n_ctx = config, tokenizer_json, n_ctx
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._where = f"data.sources.{name}: {config.dataset or ', '.join(map(str, config.paths))}"
        self._files = files_of(name, config)
        parts = self._parts()
        self.identity = xxhash.xxh3_128_hexdigest(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS))
        self._origin = {**parts, "n_ctx": n_ctx, "seed": seed, "rank": rank}
        self._encoder: Encoder | None = None
        self._rows: Rows
        self._batches: deque[_Batch] = deque()
        self._windows = 0
        """Windows handed out by this rank."""
        self._at = 0
        """The token of the first batch at which the next window begins."""
        self._resumed: dict[str, Any] | None = None
        """The state to go on from at the next read."""
        self._epoch_has_tokens = False

    def _parts(self) -> dict[str, Any]:
        """What makes this the data that it is, by the names that messages give it."""
        listed = [(name, path.stat().st_size) for path, name in zip(self._files, names_of(self._files), strict=True)]
        return {
            "data set": self._config.dataset,
            "subset": self._config.subset,
            "revision": self._config.revision,
            "split": self._config.split,
            "format": self._config.format if self._config.paths else None,
            "files": xxhash.xxh3_64_hexdigest(orjson.dumps(listed)),
            "text_key": self._config.text_key,
            "tokenizer": xxhash.xxh3_64_hexdigest(self._tokenizer.encode()),
            "number of processes": self._world_size,
        }

    def read(self, out: npt.NDArray[Any], rows: Index) -> Index:
        """Fills `rows` [N] of `out` [M, n_ctx + 1] with this rank's next windows and returns their numbers [N].

        Numbers are unique over all ranks. Raises InputError where the data set cannot be read, has no such column
        or not one token, or is not the one that a restored state was taken of.
        """
        before = self.state()
        try:
            self._open()
            for row in rows.tolist():
                self._read_window(out[row])
        except BaseException:
            # What was not returned was not handed out, and an iterator that has failed would end as if its epoch did.
            self._resumed = before
            raise
        ordinals = np.arange(self._windows - len(rows), self._windows, dtype=np.int64)
        return ordinals * self._world_size + self._rank

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on behind the windows handed out so far, ready for JSON."""
        if self._resumed is not None:
            return dict(self._resumed)
        state: dict[str, Any] = {"origin": dict(self._origin), "windows": self._windows, "batch": None}
        if self._batches:
            place, skipped, _, hash = self._batches[0]
            state["batch"] = {**place._asdict(), "skipped": dict(skipped), "hash": hash, "token": self._at}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a state at the next read.

        Raises InputError, naming what differs, where it was taken of other data, for another order or by another rank.
        """
        then = state["origin"]
        differing = [key for key in self._origin if then.get(key) != self._origin[key]]
        if differing:
            listed = ", ".join(f"{key} (was {then.get(key)}, is {self._origin[key]})" for key in differing)
            raise InputError(
                f"{self._where}: the checkpoint was made with another {listed}, and a text stream goes on only as it "
                "was; restore that or begin a new run"
            )
        self._resumed = dict(state)

    def close(self) -> None:
        """Lets go of the files; reading goes on behind what was handed out."""
        self._resumed = self.state()
        if self._encoder is not None:
            self._rows.close()

    def _open(self) -> None:
        if self._encoder is None:
            encoder = Encoder(self._tokenizer)
            self._rows = Rows(self._dataset(), self._seed)
            self._prove(encoder)
            self._encoder = encoder
        if self._resumed is not None:
            self._go_on(self._resumed)
            self._resumed = None

    def _prove(self, encoder: Encoder) -> None:
        """Always on the first rows, also where reading goes on further behind, so that the encoder stays the same."""
        texts, left = [], _PROVED_CHARACTERS
        for text in self._take_texts(Counter()):
            texts.append(text[:left])
            left -= len(texts[-1])
            if left <= 0:
                break
        self._rows.seek(Place(0, None))
        if texts:
            encoder.prove(texts, [f"{number} of {self._where}" for number in range(len(texts))])

    def _go_on(self, state: dict[str, Any]) -> None:
        self._batches.clear()
        self._windows, self._at, self._epoch_has_tokens = state["windows"], 0, False
        kept = state["batch"]
        self.skipped = Counter(kept["skipped"] if kept else {})
        self._rows.seek(Place(kept["epoch"], kept["rows"]) if kept else Place(0, None))
        if kept:
            batch = self._next_batch()
            if batch.hash != kept["hash"]:
                raise InputError(
                    f"{self._where}: does not hold what it held when the checkpoint was made; restore it or begin "
                    "a new run"
                )
            self._batches.append(batch)
            self._at = kept["token"]

    def _read_window(self, out: npt.NDArray[Any]) -> None:
        filled, index, start = 0, 0, self._at
        while filled < len(out):
            if index == len(self._batches):
                self._batches.append(self._next_batch())
            part = self._batches[index].tokens[start : start + len(out) - filled]
            out[filled : filled + len(part)] = part
            filled, index, start = filled + len(part), index + 1, 0
        self._windows += 1
        self._at += self._n_ctx
        while self._at >= len(self._batches[0].tokens):
            self._at -= len(self._batches.popleft().tokens)

    def _next_batch(self) -> _Batch:
        """The next documents that give a token; an epoch's end ends a batch."""
        while True:
            place, before = self._rows.place, dict(self.skipped)
            texts = self._take_texts(self.skipped)
            self._warn(before)
            ended = self._rows.place.epoch > place.epoch
            if ended and not texts and not self._epoch_has_tokens:
                raise InputError(self._no_tokens())
            self._epoch_has_tokens = not ended and (self._epoch_has_tokens or bool(texts))
            if texts:
                tokens = self._packed(texts)
                return _Batch(place, before, tokens, xxhash.xxh3_64_hexdigest(tokens.tobytes()))

    def _packed(self, texts: list[str]) -> Ids:
        assert self._encoder is not None
        end = np.array([self._encoder.end_of_text], dtype=np.uint32)
        return np.concatenate([part for ids in self._encoder.encode(texts) for part in (ids, end)], dtype=np.uint32)

    def _warn(self, before: dict[str, int]) -> None:
        for reason in self.skipped.keys() - before.keys():
            log.warning("%s: skips rows as %s; they are counted, and this is said once", self._where, reason)

    def _no_tokens(self) -> str:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items())) or "no rows at all"
        part = f", the part of process {self._rank} of {self._world_size}," if self._world_size > 1 else ""
        return f"{self._where}{part} gives not one token in a whole epoch ({counts}); give it text or fewer processes"

    def _take_texts(self, skipped: Counter[str]) -> list[str]:
        """The texts of the next rows, up to the end of a batch or of the epoch; counts those that are left out."""
        texts: list[str] = []
        characters = 0
        for _ in range(BATCH_ROWS):
            row = self._take_row()
            if row is None:
                break
            value = self._value(row)
            if isinstance(value, str) and value and not value.isspace():
                texts.append(value)
                characters += len(value)
                if characters >= _BATCH_CHARACTERS:
                    break
            else:
                skipped[_reason(value)] += 1
        return texts

    def _take_row(self) -> dict[str, Any] | None:
        try:
            return self._rows.take()
        except InputError:
            raise
        except Exception as error:
            raise self._unreadable(error) from None

    def _value(self, row: dict[str, Any]) -> Any:
        key = self._config.text_key
        if key not in row:
            raise self._no_column(row)
        return row[key]

    def _no_column(self, columns: Iterable[str]) -> InputError:
        has = f"has no column {self._config.text_key} (text_key), it has {', '.join(columns)}"
        return InputError(f"{self._where}: {has}; name one of these")

    def _dataset(self) -> Any:
        """The part of this rank, of the column of text alone where the columns are known."""
        from datasets.distributed import split_dataset_by_node

        try:
            dataset = load(self._config, [str(file) for file in self._files])
        except Exception as error:
            raise self._unreadable(error) from None
        columns = dataset.column_names
        if columns is not None and self._config.text_key not in columns:
            raise self._no_column(columns if self._config.dataset else columns_of(self._files[0]))
        if columns is not None:
            dataset = dataset.select_columns([self._config.text_key])
        return split_dataset_by_node(dataset, rank=self._rank, world_size=self._world_size)

    def _unreadable(self, error: Exception) -> InputError:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if self._config.dataset is not None:
            hint = "check dataset, subset and split, the network and HF_DATASETS_OFFLINE"
            return InputError(f"{self._where}: cannot be read ({reason}); {hint}")
        damaged = without_footer(self._files) if self._config.format == "parquet" else []
        where = f"{', '.join(damaged)}: " if damaged else ""
        return InputError(f"{self._where}: {where}cannot be read ({reason}); restore it")


def _reason(value: Any) -> str:
    """Why there is no text in a column of a row, in the words that `thalweg prepare` has for it."""
    if isinstance(value, Drop):
        return value.reason
    return "empty" if value is None or isinstance(value, str) else "not_text"
