"""Writes token files of other systems by their published formats alone, independently of what reads them."""

import bz2
import gzip
import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
import zstandard

from data_pipeline.source_config import MdsFolder, TokenFiles

VOCAB = 50257


def token_files(kind: str, *paths: Path | str, dtype: str | None = None) -> TokenFiles:
    return TokenFiles(kind=kind, paths=list(paths), tokenizer="tokenizer.json", dtype=dtype)


def mds_folder(path: Path, column: str = "tokens", dtype: str = "int64") -> MdsFolder:
    return MdsFolder(kind="mds", path=path, column=column, dtype=dtype, tokenizer="tokenizer.json")


def tokens_of(shard: Any) -> np.ndarray:
    out = np.zeros((1, shard.tokens), dtype=np.int64)
    shard.read(np.array([0]), out, np.array([0]))
    return out[0]


def random_tokens(count: int, dtype: str = "uint16", seed: int = 0, vocab_size: int = VOCAB) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, min(vocab_size, np.iinfo(dtype).max + 1), count).astype(dtype)


def write_header(path: Path, tokens: np.ndarray, magic: int = 20240520, version: int = 1) -> None:
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, len(tokens)
    path.write_bytes(header.tobytes() + tokens.tobytes())


CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float64": 6, "float32": 7, "uint16": 8}


def write_megatron(
    prefix: Path,
    sequences: Sequence[np.ndarray],
    boundaries: Sequence[int],
    *,
    magic: bytes = b"MMIDIDX\x00\x00",
    version: int = 1,
    code: int | None = None,
    pointers: Sequence[int] | None = None,
    behind: bytes = b"",
) -> None:
    """The pair of `prefix`; `boundaries` are the sequences at which documents begin, and their number at the end."""
    Path(f"{prefix}.bin").write_bytes(b"".join(each.tobytes() for each in sequences))
    sizes = [each.nbytes for each in sequences]
    code = CODES[sequences[0].dtype.name] if code is None else code
    starts = np.cumsum([0, *sizes])[:-1] if pointers is None else pointers
    Path(f"{prefix}.idx").write_bytes(
        magic
        + struct.pack("<QBQQ", version, code, len(sequences), len(boundaries))
        + np.array([len(each) for each in sequences], "<i4").tobytes()
        + np.array(starts, "<i8").tobytes()
        + np.array(boundaries, "<i8").tobytes()
        + behind
    )


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": bytes,
}
HASHES: dict[str, Callable[[bytes], str]] = {
    "xxh64": lambda data: xxhash.xxh64_hexdigest(data),
    "xxh3_64": lambda data: xxhash.xxh3_64_hexdigest(data),
    "md5": lambda data: hashlib.md5(data).hexdigest(),
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
    "crc77": lambda data: "00",
}
MDS_CODES = {"uint8": 8, "int16": 17, "uint16": 16, "int32": 33, "uint32": 32, "float32": 34, "int64": 65, "uint64": 64}


def mds_value(encoding: str, value: Any) -> bytes:
    """One column of one sample; a str is written as it is."""
    if isinstance(value, str):
        return value.encode()
    if encoding == "bytes" or encoding.count(":") == 2:
        return value.tobytes()
    if not value.ndim:
        return value.tobytes()
    width = next(at for at in range(4) if max(value.shape) < 256 ** (2**at))
    shape = bytes([value.ndim * 4 + width]) + np.array(value.shape, f"<u{2**width}").tobytes()
    code = bytes([MDS_CODES[value.dtype.name]]) if encoding == "ndarray" else b""
    return code + shape + value.tobytes()


def write_mds(
    folder: Path,
    columns: dict[str, tuple[str, int | None]],
    shards: Sequence[Sequence[dict[str, Any]]],
    compression: str | None = None,
    hashes: Sequence[str] = (),
) -> None:
    """`columns` are encodings and fixed sizes in bytes by name, in the order of the file; `shards` their samples."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        "version": 2,
        "format": "mds",
        "compression": compression,
        "hashes": list(hashes),
        "size_limit": 2**26,
        "column_names": list(columns),
        "column_encodings": [encoding for encoding, _ in columns.values()],
        "column_sizes": [size for _, size in columns.values()],
    }
    entries = []
    for number, samples in enumerate(shards):
        raw = _mds_shard(columns, samples, json.dumps(written, sort_keys=True).encode())
        name = f"shard.{number:05d}.mds"
        entry = {**written, "samples": len(samples), "raw_data": _mds_file(name, raw, hashes), "zip_data": None}
        if compression is None:
            (folder / name).write_bytes(raw)
        else:
            algorithm = compression.partition(":")[0]
            packed = COMPRESS[algorithm](raw)
            entry["zip_data"] = _mds_file(f"{name}.{algorithm}", packed, hashes)
            (folder / f"{name}.{algorithm}").write_bytes(packed)
        entries.append(entry)
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": entries}))


def _mds_file(name: str, data: bytes, hashes: Sequence[str]) -> dict[str, Any]:
    return {"basename": name, "bytes": len(data), "hashes": {each: HASHES[each](data) for each in hashes}}


def _mds_shard(columns: dict[str, tuple[str, int | None]], samples: Sequence[dict[str, Any]], config: bytes) -> bytes:
    parts = []
    for sample in samples:
        values = [mds_value(encoding, sample[name]) for name, (encoding, _) in columns.items()]
        head = [len(value) for value, (_, size) in zip(values, columns.values(), strict=True) if size is None]
        parts.append(np.array(head, "<u4").tobytes() + b"".join(values))
    offsets = np.cumsum([4 + 4 * (len(samples) + 1) + len(config), *map(len, parts)]).astype("<u4")
    return struct.pack("<I", len(samples)) + offsets.tobytes() + config + b"".join(parts)


def edit_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the index.json of a folder in place."""
    path = folder / "index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
