"""A few documents of what each step kept and dropped, for a person to judge the steps by.

They are those whose hash is the lowest: the same however the work is split, and spread over the corpus.
"""

import heapq
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import xxhash
from datatrove.data import Document

from data_pipeline.durable import write_whole

MOST, CHARACTERS = 10, 600
"""Documents of each step, kept and dropped, and what is shown of one."""

Sample = dict[str, Any]


class Samples:
    """Collects them while documents go by."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], list[tuple[int, int, Sample]]] = {}
        self._seen = 0

    def look(self, step: str, outcome: str, document: Document, text: str | None = None, **more: Any) -> None:
        """A document that `step` brought to an `outcome`: kept, or dropped; `text`, where it is not the document's."""
        shown = (document.text if text is None else text)[:CHARACTERS]
        key = xxhash.xxh3_64_intdigest(f"{document.id} {shown}".encode(), seed=1)
        heap = self._found.setdefault((step, outcome), [])
        if len(heap) == MOST and -heap[0][0] <= key:
            return
        sample = {"id": document.id, "url": document.metadata.get("url"), **more}
        sample["text"] = shown
        self._seen += 1
        (heapq.heappush if len(heap) < MOST else heapq.heapreplace)(heap, (-key, -self._seen, sample))

    def save(self, path: Path) -> None:
        """Writes them to a file, which is whole or not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        found = [
            [*names, [[-key, sample] for key, _, sample in sorted(heap, key=lambda each: each[:2], reverse=True)]]
            for names, heap in self._found.items()
        ]
        write_whole(path, orjson.dumps(found).decode())


def merged(paths: Iterable[Path]) -> dict[str, dict[str, list[Sample]]]:
    """Of several files the samples by step and outcome."""
    found: dict[str, dict[str, list[tuple[int, Sample]]]] = {}
    for path in paths:
        for step, outcome, samples in orjson.loads(path.read_bytes()):
            outcomes = found.setdefault(step, {})
            outcomes[outcome] = sorted([*outcomes.get(outcome, []), *samples], key=lambda each: each[0])[:MOST]
    return {
        step: {outcome: [sample for _, sample in samples] for outcome, samples in outcomes.items()}
        for step, outcomes in found.items()
    }
