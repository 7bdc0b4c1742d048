"""The quality filters of a recipe: each trained on a sample of its documents, or taken as it is from a file."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_pipeline.config import Corpus
from data_pipeline.documents import DropEmpty
from data_pipeline.engines.base import Engine
from data_pipeline.engines.local import Local
from data_pipeline.executor import Stage, hash_of, key_of
from data_pipeline.inputs import described, files_of
from data_pipeline.learning import CollectExamples, FitFilter, evenly_spaced
from data_pipeline.prepare_report import Report
from data_pipeline.quality import QualityFilter
from data_pipeline.quality_config import FilterConfig
from data_pipeline.reading import ReadFiles, Task
from data_pipeline.steps.apply import ApplySteps, made_before
from data_pipeline.steps.config import Quality

log = logging.getLogger("thalweg.prepare")


class TakeFilter(PipelineStep):  # type: ignore[misc]
    """Takes a filter that was trained before. Raises InputError for what is none."""

    name = "take"
    type = "FILTER"

    def __init__(self, path: Path, out: Path) -> None:
        super().__init__()
        self._path, self._out = path, out

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """The only task."""
        QualityFilter.load(self._path).save(self._out)


class Filters:
    """Those of one preparation; what they are trained on lies in `work`/learn, the filters in `work`/filters."""

    def __init__(self, configs: Mapping[str, FilterConfig], work: Path) -> None:
        self._configs, self._learn, self.folder = configs, work / "learn", work / "filters"

    def make(self, tasks: Sequence[Task], lists: Path, engine: Engine) -> None:
        """Makes them, as far as that is not done; `tasks` are those of reading."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, config in self._configs.items():
            if config.path is None:
                self._train(name, config, tasks, lists, engine)
                continue
            take = TakeFilter(config.path, self._made(name))
            Stage(self._learn / name / "fit", [key_of("taken", hash_of(config.path))]).run([take], Local(1))

    def _made(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def _train(self, name: str, config: FilterConfig, tasks: Sequence[Task], lists: Path, engine: Engine) -> None:
        of_source = {
            source: evenly_spaced([task for task in tasks if task.source == source], config.files)
            for source in (*config.positives, *config.negatives)
        }
        sampled = [unfiltered(task) for some in of_source.values() for task in some]
        log.info("quality filter %s: examples of %d files", name, len(sampled))
        folder = self._learn / name
        most = min(config.documents, max(2 * config.documents // len(some) for some in of_source.values()))
        examples = [folder / "examples" / f"{rank:05d}.jsonl.zst" for rank in range(len(sampled))]
        samples = [folder / "samples" / f"{rank:05d}.json" for rank in range(len(sampled))]
        hashed = cache(hash_of)
        keys = [
            key_of(
                task.source, described(task.config), files_of(task), made_before(task, lists, self.folder, hashed), most
            )
            for task in sampled
        ]
        collecting = Stage(folder / "collect", keys)
        steps = ApplySteps(sampled, lists, self.folder, samples)
        reader = ReadFiles(sampled, "keep", lists)
        collecting.run([reader, DropEmpty(), steps, CollectExamples(examples, most)], engine)
        files = {
            source: [path for path, task in zip(examples, sampled, strict=True) if task.source == source]
            for source in of_source
        }
        positives, negatives = ({each: files[each] for each in side} for side in (config.positives, config.negatives))
        fit = FitFilter(name, config, positives, negatives, self._made(name))
        Stage(folder / "fit", [key_of(config.model_dump(), collecting.keys)]).run([fit], engine)

    def report(self) -> Report:
        """What each tells of its training."""
        return {name: QualityFilter.load(self._made(name)).report for name in self._configs}


def unfiltered(task: Task) -> Task:
    """A task with the steps before the first quality filter: a filter learns from what it will see."""
    config = task.config
    assert isinstance(config, Corpus)
    first = next((at for at, step in enumerate(config.steps) if isinstance(step, Quality)), len(config.steps))
    return replace(task, config=config.model_copy(update={"steps": config.steps[:first]}))
