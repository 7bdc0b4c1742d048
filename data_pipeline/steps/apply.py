"""The block of a reading pipeline that takes a source's documents through its steps."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_pipeline.config import Corpus
from data_pipeline.reading import Task
from data_pipeline.steps.base import Step
from data_pipeline.steps.config import (
    C4,
    Boilerplate,
    GopherQuality,
    GopherRepetition,
    Karma,
    Language,
    Linked,
    Mask,
    Short,
    StepConfig,
)


class ApplySteps(PipelineStep):  # type: ignore[misc]
    """Counts `dropped/<reason>`, and what else steps count."""

    name = "steps"
    type = "FILTER"

    def __init__(self, tasks: list[Task], lists: Path) -> None:
        """`lists` is the folder with the lists of links."""
        super().__init__()
        self._tasks, self._lists = tasks, lists

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents that no step of task `rank`'s source drops."""
        config = self._tasks[rank].config
        assert isinstance(config, Corpus)
        steps = [_made(each, self._lists) for each in config.steps]
        counts: Counter[str] = Counter()
        for document in data:
            reason = next(filter(None, (step(document, counts) for step in steps)), None)
            if reason is None:
                yield document
            else:
                self.stat_update(f"dropped/{reason}")
        for name, count in counts.items():
            self.stat_update(name, value=count)


def _made(config: StepConfig, lists: Path) -> Step:
    """A step, whose libraries are imported only where it is used."""
    match config:
        case Short():
            from data_pipeline.steps import short

            return short.make(config)
        case Boilerplate():
            from data_pipeline.steps import boilerplate

            return boilerplate.make(config)
        case Language():
            from data_pipeline.steps import language

            return language.make(config)
        case Linked():
            from data_pipeline.steps import linked

            return linked.make(config, lists)
        case Karma():
            from data_pipeline.steps import karma

            return karma.make(config, lists)
        case GopherQuality() | GopherRepetition() | C4():
            from data_pipeline.steps import rules

            return rules.make(config)
        case Mask():
            from data_pipeline.steps import personal_data

            return personal_data.make(config)
