"""The input files of a recipe: found before anything starts, dealt to tasks, and what decides about them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from data_pipeline import evaluation_sets, sample, tokenizer
from data_pipeline.config import FileSource, HubSource, Recipe, RedditLinks, SourceConfig, TokenizerConfig
from data_pipeline.decontaminate_config import Decontaminate
from data_pipeline.errors import InputError
from data_pipeline.executor import hash_of, key_of
from data_pipeline.finding import each_once, files_of_kind, names_of
from data_pipeline.manifest import FORMAT_VERSION
from data_pipeline.quality_config import FilterConfig
from data_pipeline.reading import Task

log = logging.getLogger("thalweg.prepare")

SUFFIXES = {
    "warc": tuple(f"{kind}{packed}" for kind in (".warc", ".arc") for packed in ("", ".gz", ".zst")),
    "wet": (".wet", ".wet.gz", ".wet.zst"),
    "mediawiki": (".xml", ".xml.bz2", ".xml.gz", ".xml.xz"),
    "books": tuple(f"{kind}{packed}" for kind in (".txt", ".md", ".tar") for packed in ("", ".gz", ".bz2", ".xz")),
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz"),
    "parquet": (".parquet",),
    "reddit": (".zst", ".xz", ".bz2", ".gz", ".json", ".jsonl", ".csv", ".tar"),
}
"""What is taken from a folder; a file that is named itself may have any suffix."""

LINKS = "links."
BOOKS_PER_TASK = 64
"""Books are small files: so many make one task, other files one each."""


class MissingInputError(InputError):
    """A path of a recipe at which there is nothing."""


@dataclass(frozen=True)
class Inputs:
    """The files of one source, with the names that origins give them: relative to the folder they share."""

    source: str
    """Of a list of links, `links.` and its name."""
    config: SourceConfig | RedditLinks
    files: tuple[tuple[Path, str], ...]

    def tasks(self) -> list[Task]:
        """The files dealt to tasks, in order."""
        step = BOOKS_PER_TASK if self.config.kind == "books" else 1
        return [Task(self.source, self.config, self.files[at : at + step]) for at in range(0, len(self.files), step)]

    @property
    def found_files(self) -> tuple[tuple[Path, str], ...]:
        """The files that were there before; none where they are made or fetched here."""
        made_here = isinstance(self.config, HubSource) or getattr(self.config, "sample", None)
        return () if made_here else self.files


def find(recipe: Recipe, work: Path) -> list[Inputs]:
    """The input files of every source and list; a sample's lie in `work`, and are named though they are not made yet.

    Raises one InputError that names every path at which there is nothing.
    """
    found: list[Inputs] = []
    missing: list[str] = []
    for name, config in [*recipe.sources.items(), *((f"{LINKS}{name}", each) for name, each in recipe.links.items())]:
        if isinstance(config, HubSource):
            found.append(Inputs(name, config, ((Path(config.dataset), config.dataset),)))
            continue
        if isinstance(config, FileSource) and config.sample is not None:
            files = [work / "sample" / name / sample.FILES[config.sample]]
        else:
            files = []
            for path in config.paths:
                files += (at_path := files_of_kind(path, SUFFIXES[config.kind], log))
                if not at_path:
                    missing.append(f"{'' if name.startswith(LINKS) else 'sources.'}{name}.paths: {path}")
        unique = each_once(files)
        found.append(Inputs(name, config, tuple(zip(unique, names_of(unique), strict=True))))
    if missing:
        raise MissingInputError(
            f"{'; '.join(missing)}: no such file, or no file matches; mend the path or fetch the corpus"
        )
    return found


def recipe_hash(recipe: Recipe, inputs: Sequence[Inputs]) -> str:
    """Hash of all that decides the result, in the manifest of a finished folder; files by name and size.

    Where the files lie does not matter. What is as by default is left out, so that a release which knows more has the
    same hash of what was asked.
    """
    elsewhere = {"sources", "links", "tokenizer", "filters", "decontaminate"}
    whole = recipe.model_dump(mode="json", exclude_defaults=True, exclude=elsewhere)
    corpora = {each.source: [described(each.config), _sizes(each)] for each in inputs}
    return key_of(
        FORMAT_VERSION, whole, described_tokenizer(recipe.tokenizer), corpora, _described_filters(recipe.filters),
        _described_sets(recipe.decontaminate),
    )  # fmt: skip


def described(config: SourceConfig | RedditLinks) -> dict[str, Any]:
    """What a source's configuration decides, apart from its files; of a sample what it is made from."""
    plain = config.model_dump(mode="json", exclude_defaults=True, exclude={"paths"})
    if isinstance(config, FileSource) and config.sample is not None:
        plain["sample"] = sample.identity(config.sample)
    return plain


def described_tokenizer(config: TokenizerConfig) -> dict[str, Any]:
    """What decides the tokenizer; of one in files the hashes of these."""
    plain = config.model_dump(mode="json", exclude_defaults=True)
    if config.path is not None:
        files = tokenizer.files_of(config.path)
        plain["path"] = [xxhash.xxh3_64_hexdigest(file.read_bytes()) for file in files if file.is_file()]
    return plain


def _described_filters(configs: dict[str, FilterConfig]) -> dict[str, Any]:
    """What decides the filters; of one that was trained before the hash of its file."""
    return {
        name: hash_of(config.path) if config.path is not None else config.model_dump(mode="json", exclude_defaults=True)
        for name, config in configs.items()
    }


def _described_sets(config: Decontaminate | None) -> dict[str, Any] | None:
    """What decides about evaluation sets; of files names and sizes."""
    if config is None:
        return None
    plain = config.model_dump(mode="json", exclude_defaults=True)
    for name, each in config.sets.items():
        plain["sets"][name]["paths"] = [
            (path.name, path.stat().st_size) for path in evaluation_sets.files_of(name, each)
        ]
    return plain


def _sizes(inputs: Inputs) -> list[tuple[str, int]]:
    return [(name, path.stat().st_size) for path, name in inputs.found_files]


def files_of(task: Task) -> list[tuple[str, int, int]]:
    """Names of a task's files with size and time of change; of those that are made here, -1."""
    stats = [(name, path.stat() if path.exists() else None) for path, name in task.files]
    made_here = isinstance(task.config, HubSource) or getattr(task.config, "sample", None)
    return [
        (name, -1, -1) if made_here or stat is None else (name, stat.st_size, stat.st_mtime_ns) for name, stat in stats
    ]
