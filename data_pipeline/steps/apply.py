"""The block of a reading pipeline that takes a source's documents through its steps."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_pipeline.config import Corpus
from data_pipeline.reading import Task
from data_pipeline.samples import Samples
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
    Quality,
    Short,
    StepConfig,
)


class ApplySteps(PipelineStep):  # type: ignore[misc]
    """Counts `dropped/<reason>`, what is left by each step as `left/<step>`, and what else steps count.

    Writes samples of what each step of task i kept and dropped into the i-th of `samples`.
    """

    name = "steps"
    type = "FILTER"

    def __init__(self, tasks: list[Task], lists: Path, filters: Path, samples: list[Path]) -> None:
        """`lists` is the folder with the lists of links, `filters` the one with the quality filters."""
        super().__init__()
        self._tasks, self._lists, self._filters, self._samples = tasks, lists, filters, samples

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents that no step of task `rank`'s source drops."""
        config = self._tasks[rank].config
        assert isinstance(config, Corpus)
        names = names_of([step.kind for step in config.steps])
        steps = [
            (name, _made(each, self._lists, self._filters)) for name, each in zip(names, config.steps, strict=True)
        ]
        counts, samples = Counter[str](), Samples()
        for document in data:
            for name, step in steps:
                if (reason := step(document, counts)) is not None:
                    counts[f"dropped/{reason}"] += 1
                    samples.look(name, "dropped", document, reason=reason)
                    break
                counts[f"left/{name}"] += 1
                samples.look(name, "kept", document)
            else:
                yield document
        for name, count in counts.items():
            self.stat_update(name, value=count)
        samples.save(self._samples[rank])


def made_before(task: Task, lists: Path, filters: Path, hashed: Callable[[Path], str]) -> list[str]:
    """Hashes of the lists and filters that a task's steps look into; `hashed` gives the one of a file."""
    assert isinstance(task.config, Corpus)
    paths = list[Path]()
    for step in task.config.steps:
        if (links := getattr(step, "links", None)) is not None:
            paths += sorted(lists.glob(f"{links}.*"))
        if isinstance(step, Quality):
            paths.append(filters / f"{step.filter}.npz")
    return [hashed(path) for path in paths]


def names_of(kinds: list[str]) -> list[str]:
    """Names of the steps of a source: their kind, with a number where it has several of a kind."""
    return [kind if kinds.count(kind) == 1 else f"{kind} {kinds[:at].count(kind) + 1}" for at, kind in enumerate(kinds)]


def _made(config: StepConfig, lists: Path, filters: Path) -> Step:
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
        case Quality():
            from data_pipeline.steps import quality

            return quality.make(config, filters)
        case Karma():
            from data_pipeline.steps import karma

            return karma.make(config, lists)
        case GopherQuality() | GopherRepetition() | C4():
            from data_pipeline.steps import rules

            return rules.make(config)
        case Mask():
            from data_pipeline.steps import personal_data

            return personal_data.make(config)
