"""Reads back what trackers wrote."""

import struct
from collections.abc import Iterator
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def tensorboard(run_dir: Path) -> dict[str, dict[int, float]]:
    """By name, the values of each step, none of which is there twice; fp32, as TensorBoard keeps them."""
    read = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    found = {}
    for name in read.Tags()["scalars"]:
        values = read.Scalars(name)
        found[name] = {each.step: each.value for each in values}
        assert len(found[name]) == len(values), f"{name} has steps twice"
    return found


def wandb_history(run_dir: Path) -> tuple[set[str], dict[int, dict[str, float]]]:
    """The ids of the offline runs, and the values of each step, none of which is there twice."""
    import json

    from wandb.proto.wandb_internal_pb2 import Record

    ids, steps = set(), {}
    for path in sorted((run_dir / "wandb").glob("offline-run-*/*.wandb")):
        for data in _records(path.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            if not record.HasField("history"):
                continue
            row = {"/".join(each.nested_key) or each.key: each.value_json for each in record.history.item}
            step = int(row.pop("_step")) if "_step" in row else record.history.step.num
            assert step not in steps, f"step {step} is there twice"
            steps[step] = {name: json.loads(value) for name, value in row.items() if not name.startswith("_")}
    return ids, steps


def _records(log: bytes) -> Iterator[bytes]:
    """Of a log in LevelDB's format behind 7 bytes of its own: checksum, length and kind, then data; 32 KiB blocks."""
    at, parts = 7, b""
    while at + 7 <= len(log):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", log[at : at + 7])
        parts += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the end of one
            yield parts
            parts = b""
