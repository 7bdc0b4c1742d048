"""The input files of a recipe: found before anything starts, dealt to tasks, and their part of the recipe's hash."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import xxhash

from data_pipeline import sample, tokenizer
from data_pipeline.config import FileSource, HubSource, Recipe, RedditLinks, SourceConfig
from data_pipeline.errors import InputError
from data_pipeline.finding import each_once, files_of_kind, names_of
from data_pipeline.manifest import FORMAT_VERSION
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


def plan_of(recipe: Recipe, inputs: Sequence[Inputs]) -> dict[str, Any]:
    """What decides the result apart from the contents of the files: a stopped preparation may go on only under it.

    Where the files lie does not matter, nor what is done about damage: either may be mended in between.
    """
    plan = {"format_version": FORMAT_VERSION, **recipe.model_dump(mode="json", exclude={"damaged_files"})}
    for each in inputs:
        is_list = each.source.startswith(LINKS)
        source = plan["links"][each.source.removeprefix(LINKS)] if is_list else plan["sources"][each.source]
        source.pop("paths", None)
        source["files"] = [name for _, name in each.files]
        if source.get("sample"):
            source["files"] = sample.identity(source["sample"])
    if recipe.tokenizer.path is not None:
        files = tokenizer.files_of(recipe.tokenizer.path)
        plan["tokenizer"]["path"] = [xxhash.xxh3_64_hexdigest(file.read_bytes()) for file in files if file.is_file()]
    return plan


def sizes_of(inputs: Sequence[Inputs]) -> dict[str, list[tuple[str, int]]]:
    """Names and sizes of the input files by source."""
    return {each.source: [(name, path.stat().st_size) for path, name in each.found_files] for each in inputs}


def state_of(inputs: Sequence[Inputs]) -> dict[str, dict[str, list[int]]]:
    """Size and time of change of the input files by source and name: what was made of others is made again."""
    state: dict[str, dict[str, list[int]]] = {}
    for each in inputs:
        stats = {name: path.stat() for path, name in each.found_files}
        state[each.source] = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    return state


def recipe_hash(recipe: Recipe, inputs: Sequence[Inputs]) -> str:
    """Hash of all that decides the result, in the manifest of a finished folder."""
    whole = {"plan": plan_of(recipe, inputs), "sizes": sizes_of(inputs), "damaged_files": recipe.damaged_files}
    return xxhash.xxh3_128_hexdigest(orjson.dumps(whole, option=orjson.OPT_SORT_KEYS))
