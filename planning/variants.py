"""A layout with one thing changed at a time, to see what each takes and gives."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from model.config import ModelConfig
from planning.layout import Layout
from planning.search import RECOMPUTE, at_stage, splits


def variants(model: ModelConfig, layout: Layout, sequences: int, allowed: Callable[[Layout], bool]) -> Iterator[Layout]:
    """Every ZeRO stage, offloading, checkpointing, split of layers or sequences, and micro-batch.

    `sequences` are those of a global batch. What is not `allowed`, and the layout itself, are left out.
    """
    zero, precision = layout.zero, layout.precision
    sharded = [at_stage(zero, stage, offload, precision) for offload in ("none", "cpu") for stage in range(4)]
    if (third := at_stage(zero, 3, "cpu", precision)) is not None:
        sharded.append(third.model_copy(update={"offload_parameters": "cpu"}))
    changed = [replace(layout, zero=each) for each in sharded if each is not None]
    changed += [replace(layout, recompute=each) for each in RECOMPUTE]
    split = [each for each in splits(model, layout.devices) if min(each.sequence, each.tensor) == 1]
    changed += [replace(layout, parallel=each) for each in split if layout.devices // each.sharing <= sequences]
    largest = layout.deal(sequences).slots
    size = 1
    while size <= largest:
        changed.append(replace(layout, micro_batch=size))
        size *= 2
    yield from (each for each in dict.fromkeys(changed) if each != layout and allowed(each))
