"""Data for benchmarks/stream.py: the same tokens in the format of each contender, by the contender's own writer.

Run as `python stream_data.py FORMAT FOLDER TOKENS`; the file is also run by environments without Thalweg, so it
imports nothing but NumPy at its top. Everything is written below FOLDER/TOKENS, once: a format whose folder is there is
whole. "flat" comes first, the other formats are made from it.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WEIGHTS = {"a": 0.6, "b": 0.3, "c": 0.1}
"""The share of each source in the tokens, and in the mixture: one pass over the data takes each once."""
VOCAB_SIZE, END_OF_TEXT = 50257, 50256
WINDOW = 2049
SHARD_TOKENS = 50_000_000

Tokens = npt.NDArray[np.uint16]


def sizes(tokens: int) -> dict[str, int]:
    """Tokens of each source."""
    return {name: round(tokens * weight) for name, weight in WEIGHTS.items()}


def zipf_table() -> Tokens:
    """Ids [2^22] that are as frequent as the words of a text: drawing from it evenly draws by Zipf's law."""
    frequency = 1 / (np.arange(END_OF_TEXT) + 2.7)  # Mandelbrot's shift, so that no id takes a tenth of all
    cumulative = np.cumsum(frequency) / frequency.sum()
    return np.searchsorted(cumulative, (np.arange(2**22) + 0.5) / 2**22).astype(np.uint16)


def document_lengths(count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Log-normal lengths that add to `count`, end-of-text included: 670 tokens in the mean, 365 in the median."""
    lengths = np.maximum(rng.lognormal(5.9, 1.1, count // 400 + 10).astype(np.int64), 2)
    ends = np.cumsum(lengths)
    kept = lengths[: int(np.searchsorted(ends, count))]
    return np.append(kept, count - kept.sum())


def write_flat(out: Path, tokens: int) -> None:
    """NAME.bin, little-endian uint16, and NAME.npy, the lengths of its documents."""
    table = zipf_table()
    for index, (name, count) in enumerate(sizes(tokens).items()):
        rng = np.random.default_rng(index)
        ids, lengths = table[rng.integers(len(table), size=count, dtype=np.uint32)], document_lengths(count, rng)
        ids[np.cumsum(lengths) - 1] = END_OF_TEXT
        ids.astype("<u2", copy=False).tofile(out / f"{name}.bin")
        np.save(out / f"{name}.npy", lengths)


def flat(out: Path, name: str) -> Tokens:
    """All tokens of a source, mapped."""
    return np.asarray(np.memmap(out.parent / "flat" / f"{name}.bin", "<u2", mode="r"))


def rows(out: Path, name: str) -> Tokens:
    """The tokens of a source in rows [N, WINDOW]; what is left at the end belongs to none."""
    tokens = flat(out, name)
    return tokens[: len(tokens) // WINDOW * WINDOW].reshape(-1, WINDOW)


def documents(out: Path, name: str) -> Iterator[Tokens]:
    """Each document of a source with its end-of-text."""
    lengths = np.load(out.parent / "flat" / f"{name}.npy")
    yield from np.split(flat(out, name), np.cumsum(lengths)[:-1])


def write_thalweg(out: Path, tokens: int) -> None:
    """A prepared folder, by the writer that `thalweg prepare` has."""
    save_prepared(out, {name: write_shards(out, name, documents(out, name)) for name in WEIGHTS})


def write_shards(
    out: Path, name: str, texts: Iterator[Tokens], shard_tokens: int = SHARD_TOKENS, vocab_size: int = VOCAB_SIZE
) -> list[Any]:
    """Shards of one source from its documents, which end with end-of-text; their entries."""
    from data_pipeline.shard_writer import ShardWriter

    entries: list[Any] = []
    writer = None
    for number, text in enumerate(texts):
        if writer is None:
            shard = f"{name}/train/{len(entries):05d}"
            writer = ShardWriter(out / shard, vocab_size, vocab_size - 1)
        writer.add(text[:-1], {"id": str(number), "file": "made up", "offset": number, "url": None})
        if writer.tokens >= shard_tokens:
            entries.append(writer.close(shard))
            writer = None
    return entries if writer is None else [*entries, writer.close(shard)]


def save_prepared(out: Path, sources: dict[str, list[Any]], vocab_size: int = VOCAB_SIZE) -> None:
    """The manifest over the shards of each source, and a tokenizer that has nothing in it."""
    from data_pipeline.manifest import Manifest, SourceEntry, TokenizerEntry
    from data_pipeline.shards import FileEntry

    tokenizer = out / "tokenizer.json"
    tokenizer.write_text("{}")
    entries = {}
    for name, shards in sources.items():
        count, tokens = sum(each.documents for each in shards), sum(each.tokens for each in shards)
        splits = {"train": shards, "validation": []}
        entries[name] = SourceEntry(read=count, dropped={}, documents=count, tokens=tokens, splits=splits)
    entry = TokenizerEntry(vocab_size=vocab_size, end_of_text=vocab_size - 1, file=FileEntry.of(tokenizer))
    Manifest(recipe_hash="benchmark", tokenizer=entry, sources=entries).save(out)


def write_arrow(out: Path, tokens: int) -> None:
    """Hugging Face's datasets, a row a window."""
    import datasets
    import pyarrow as pa

    features = datasets.Features({"tokens": datasets.List(datasets.Value("uint16"), length=WINDOW)})
    for name in WEIGHTS:
        all_rows = rows(out, name)
        column = pa.FixedSizeListArray.from_arrays(pa.array(all_rows.reshape(-1)), WINDOW)
        table = pa.table({"tokens": column}, schema=features.arrow_schema)
        datasets.Dataset(table).save_to_disk(str(out / name))


def write_mds(out: Path, tokens: int) -> None:
    """MosaicML's MDS, uncompressed, a sample a window."""
    from stream_contenders import import_streaming

    streaming = import_streaming()
    for name in WEIGHTS:
        columns = {"tokens": f"ndarray:uint16:{WINDOW}"}
        with streaming.MDSWriter(out=str(out / name), columns=columns, compression=None) as writer:
            for row in rows(out, name):
                writer.write({"tokens": np.array(row)})


def _litdata_documents(part: tuple[str, str, int, int]) -> Iterator[Any]:
    import torch

    folder, name, start, stop = part
    for row in rows(Path(folder), name)[start:stop]:
        yield torch.from_numpy(np.array(row))


def write_litdata(out: Path, tokens: int) -> None:
    """Litdata's chunks for its TokensLoader; two processes, as many as write at once."""
    import litdata

    for name in WEIGHTS:
        count = len(rows(out, name))
        parts = [(str(out), name, at, min(at + 8012, count)) for at in range(0, count, 8012)]
        litdata.optimize(
            fn=_litdata_documents,
            inputs=parts,
            output_dir=str(out / name),
            chunk_size=WINDOW * 8012,
            item_loader=litdata.TokensLoader(),
            num_workers=2 if len(parts) > 1 else 1,
        )


def write_megatron(out: Path, tokens: int) -> None:
    """megatron-core's .bin and .idx of documents; its own indices follow when it is first read."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    for name in WEIGHTS:
        builder = IndexedDatasetBuilder(str(out / f"{name}.bin"), dtype=np.uint16)
        for document in documents(out, name):
            builder.add_document(document, [len(document)])
        builder.finalize(str(out / f"{name}.idx"))


def write_arrayrecord(out: Path, tokens: int) -> None:
    """ArrayRecord for Grain, uncompressed, a record a window."""
    from array_record.python.array_record_module import ArrayRecordWriter

    for name in WEIGHTS:
        writer = ArrayRecordWriter(str(out / f"{name}.array_record"), "group_size:1,uncompressed")
        for row in rows(out, name):
            writer.write(row.tobytes())
        writer.close()


def write_cold(out: Path, tokens: int) -> None:
    """A prepared folder with one source, whose documents are the flat tokens again and again."""
    block = np.random.default_rng(0).integers(END_OF_TEXT, size=1_000_000, dtype=np.uint16)
    block[-1] = END_OF_TEXT
    texts = (np.roll(block[:-1], turn) for turn in range(-(-tokens // len(block))))
    closed = (np.append(text, block[-1:]) for text in texts)
    save_prepared(out, {"a": write_shards(out, "a", closed, shard_tokens=300_000_000)})


FORMATS = {
    "flat": write_flat,
    "thalweg": write_thalweg,
    "arrow": write_arrow,
    "mds": write_mds,
    "litdata": write_litdata,
    "megatron": write_megatron,
    "arrayrecord": write_arrayrecord,
    "cold": write_cold,
}


def write(name: str, folder: Path, tokens: int) -> dict[str, Any]:
    """Writes a format under a hidden name and renames it when it is whole."""
    out = folder / str(tokens) / name
    if not out.exists():
        partial = out.with_name(f".{name}.partial")
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        FORMATS[name](partial, tokens)
        partial.replace(out)
    return {"bytes": sum(each.stat().st_size for each in out.rglob("*"))}


def main() -> None:
    """Writes one format and says how large it is, or what went wrong."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stdout
    try:
        told = write(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers)
        raise
    print(json.dumps(told), file=answers)


if __name__ == "__main__":
    main()
