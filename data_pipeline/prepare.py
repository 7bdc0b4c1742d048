"""From a recipe to a prepared folder, in stages of which each does only what is not done.

    .work/link/  keys/  lists/    lists of links, where the recipe has any
    .work/learn/  filters/        quality filters, trained on a sample of the documents
    .work/read/  documents/       one file of documents a task
    .work/samples/                and of each step a few that it kept and dropped
    .work/deduplicate/            what of them is left out, for which twin
    .work/decontaminate/          where they have examples of evaluation sets
    .work/tokenizer/              tokenizer.json
    .work/tokenise/  shards/
    <source>/<split>/00000.*      the shards under their names, tokenizer.json, manifest.json last

Everything appears under its name only when it is whole, so that after a crash the same call goes on and
makes the same folder, bit for bit, with any number of workers. What decides the outcome of a task is in its key:
where the recipe or a file has changed, the tasks that depend on it run again.
"""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from datatrove.pipeline.base import PipelineStep
from filelock import FileLock, Timeout

from data_pipeline import prepare_report, sample
from data_pipeline.config import FileSource, Recipe
from data_pipeline.decontaminate import Decontamination
from data_pipeline.deduplicate import Deduplication, DropDuplicates, pairs_of_sources
from data_pipeline.documents import DropEmpty, ReadDocuments, WriteDocuments, contents_of
from data_pipeline.durable import room_on
from data_pipeline.engines.base import Engine
from data_pipeline.engines.local import Local
from data_pipeline.errors import InputError
from data_pipeline.executor import Stage, hash_of, key_of
from data_pipeline.filters import Filters
from data_pipeline.finish import place_filter, place_links, place_source, place_tokenizer, those_of
from data_pipeline.inputs import (
    LINKS,
    Inputs,
    described,
    described_recipe,
    described_tokenizer,
    files_of,
    find,
    recipe_hash,
)
from data_pipeline.links import CollectLinks, largest_domains, merge
from data_pipeline.make_tokenizer import MakeTokenizer
from data_pipeline.manifest import FORMAT_VERSION, LinksEntry, Manifest
from data_pipeline.reading import ReadFiles, Task
from data_pipeline.samples import merged
from data_pipeline.steps.apply import ApplySteps, made_before
from data_pipeline.tokenise import Group, Tokenise, group_files

log = logging.getLogger("thalweg.prepare")


def prepare(
    recipe: Recipe,
    out: Path,
    workers: int = os.cpu_count() or 1,
    *,
    engine: Engine | None = None,
    update: bool = False,
    keep_work: bool = False,
    wait: bool = False,
) -> Manifest:
    """Prepares `recipe` into the folder `out`, or finishes what an earlier call began.

    By so many processes of this machine, unless another `engine` is given. `update` makes a folder of another recipe
    anew; `keep_work` leaves what a later update need not do again; `wait` lets another process finish that prepares
    this folder now. Raises InputError for bad input, where there is such a process otherwise, where `out` holds
    something else, and where the disk is full; TaskError where processes or nodes fail.
    """
    out = out.absolute()
    work = out / ".work"
    # Now, not at the end: what changes meanwhile is another folder's.
    recipe, inputs, asked = _asked(recipe, work)
    _refuse_foreign(out)
    if not work.exists() and (finished := _finished(asked, out, update)):
        return finished
    with room_on(out), _alone(work, wait):
        if keep_work:
            (work / "kept").touch()
        finished = _finished(asked, out, update)
        if finished is None:
            _begin_anew(out)
            finished = _Preparation(recipe, inputs, asked, out, engine or Local(workers)).run()
        if not (work / "kept").exists():
            shutil.rmtree(work, ignore_errors=True)
    return finished


def refuse_other_recipe(recipe: Recipe, out: Path) -> None:
    """Raises InputError where the prepared folder `out` is of another recipe, MissingInputError where none can tell."""
    _finished(_asked(recipe, out / ".work")[2], out, update=False)


def _asked(recipe: Recipe, work: Path) -> tuple[Recipe, list[Inputs], str]:
    """The recipe for worker processes, its input files, and the hash of what it asks for."""
    # Strings that came out of a YAML file know their folder; worker processes want plain ones.
    recipe = Recipe.model_validate(recipe.model_dump(mode="json"))
    inputs = find(recipe, work)
    return recipe, inputs, recipe_hash(recipe, inputs)


@contextmanager
def _alone(work: Path, wait: bool) -> Iterator[None]:
    """Two preparations into one folder would take each other's tasks away."""
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock", timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{work.parent}: is being prepared by another process; wait for it, or end it") from None
    try:
        yield
    finally:
        lock.release()


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name another folder with --out")
    ours = ("manifest.json", ".work")
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in ours):
        raise InputError(f"{out}: is not empty and is no prepared folder; name another with --out")


def _finished(asked: str, out: Path, update: bool) -> Manifest | None:
    if not (out / "manifest.json").exists():
        return None
    manifest, _ = Manifest.load(out)
    if manifest.recipe_hash != asked:
        if update:
            return None
        raise InputError(
            f"{out}: was prepared by another recipe, or from other files; name another folder with --out, "
            "or make this one anew with --update"
        )
    log.info("%s is prepared already", out)
    return manifest


def _begin_anew(out: Path) -> None:
    """Takes the shards of another recipe away, the manifest first: without it there is no prepared folder."""
    removed = out / ".work" / "removed"
    if (out / "manifest.json").exists():
        removed.mkdir(exist_ok=True)
        (out / "manifest.json").replace(removed / "manifest.json")
    if not (removed / "manifest.json").exists():
        return
    manifest, _ = Manifest.load(removed)
    for source in manifest.sources:
        shutil.rmtree(out / source, ignore_errors=True)
    for name in manifest.files():
        if "/" not in name:  # those of sources are gone with their folders
            (out / name).unlink(missing_ok=True)
    shutil.rmtree(removed)


class _Preparation:
    """One preparation that is under way."""

    def __init__(self, recipe: Recipe, inputs: list[Inputs], asked: str, out: Path, engine: Engine) -> None:
        """`asked` is the hash of the recipe with its inputs."""
        self._recipe, self._inputs, self._asked, self._out, self._engine = recipe, inputs, asked, out, engine
        self._work = out / ".work"
        tasks = [task for each in inputs for task in each.tasks()]
        self._tasks: list[Task] = [task for task in tasks if not task.source.startswith(LINKS)]
        self._link_tasks = [task for task in tasks if task.source.startswith(LINKS)]
        self._documents = [
            self._work / "documents" / task.source / f"{index:05d}.jsonl.zst" for index, task in enumerate(self._tasks)
        ]
        self._sources = [task.source for task in self._tasks]
        self._samples = [self._work / "samples" / f"{rank:05d}.json" for rank in range(len(self._tasks))]
        self._lists = self._work / "lists"
        self._filters = Filters(recipe.filters, self._work)
        self._duplicates: Deduplication | None = None
        self._overlaps = recipe.decontaminate and Decontamination(recipe.decontaminate, self._work / "decontaminate")
        self._tokenizer = self._work / "tokenizer" / "tokenizer.json"

    def run(self) -> Manifest:
        # What can be wrong at once comes first.
        if self._recipe.tokenizer.train is None:
            self._make_tokenizer([])
        if self._overlaps:
            self._overlaps.make_table()
        self._make_samples()
        self._link()
        self._filters.make(self._tasks, self._lists, self._engine)
        self._read()
        self._deduplicate()
        self._decontaminate()
        if self._recipe.tokenizer.train is not None:
            self._make_tokenizer(self._contents)
        self._tokenise()
        return self._finish()

    def _make_samples(self) -> None:
        for each in self._inputs:
            if isinstance(each.config, FileSource) and each.config.sample is not None:
                [(path, _)] = each.files
                assert isinstance(path, Path)
                if not path.exists():
                    log.info("%s: collecting %s of this machine", each.source, each.config.sample.replace("_", " "))
                    sample.make(each.config.sample, path)

    def _link(self) -> None:
        """Makes the lists of links."""
        self._linking = Stage(
            self._work / "link", [key_of(described(task.config), files_of(task)) for task in self._link_tasks]
        )
        if not self._link_tasks:
            return
        log.info("links: %d lists, %d tasks", len(self._recipe.links), len(self._link_tasks))
        self._forget_damage(self._linking)
        keys = [self._work / "keys" / f"{rank:05d}.npy" for rank in range(len(self._link_tasks))]
        reader = ReadFiles(self._link_tasks, self._recipe.damaged_files)
        self._linking.run([reader, CollectLinks(keys)], self._engine)
        for name in self._recipe.links:
            if merge([keys[rank] for rank in self._link_ranks(name)], self._lists / f"{name}.npy") == 0:
                raise InputError(f"links.{name}: no link is left of what was read; look at karma and paths")

    def _link_ranks(self, name: str) -> list[int]:
        return [rank for rank, task in enumerate(self._link_tasks) if task.source == f"{LINKS}{name}"]

    def _links_entry(self, name: str) -> LinksEntry:
        counts = sum((self._linking.counts(rank) for rank in self._link_ranks(name)), Counter[str]())
        return place_links(name, self._lists / f"{name}.npy", counts, self._out)

    def _read(self) -> None:
        log.info("reading: %d sources, %d tasks", len(self._recipe.sources), len(self._tasks))
        self._reading = Stage(self._work / "read", list(self._read_keys()))
        self._forget_damage(self._reading)
        reader = ReadFiles(self._tasks, self._recipe.damaged_files, self._lists)
        steps = [
            DropEmpty(),
            ApplySteps(self._tasks, self._lists, self._filters.folder, self._samples),
            WriteDocuments(self._documents),
        ]
        self._reading.run([reader, *steps], self._engine)
        for path in set(self._work.glob("documents/*/*.zst")) - set(self._documents):  # of tasks that are no more
            path.unlink()
        self._contents = [contents_of(path) for path in self._documents]
        self._left = self._contents
        """What decides the documents of each reading task that deduplication leaves."""
        for name in self._recipe.sources:
            counts = self._counts(name)
            if not counts["documents"]:
                why = ", ".join(f"{number:,} {reason}" for reason, number in those_of("dropped/", counts).items())
                raise InputError(
                    f"sources.{name}: no document is left of the {counts['read']:,} that were read ({why or 'no rows'})"
                )

    def _read_keys(self) -> Iterator[str]:
        hashed = cache(hash_of)
        for task in self._tasks:
            made = made_before(task, self._lists, self._filters.folder, hashed)
            yield key_of(FORMAT_VERSION, task.source, described(task.config), files_of(task), made)

    def _forget_damage(self, stage: Stage) -> None:
        """Lets tasks run again that kept damage which is not to be kept any more."""
        if self._recipe.damaged_files == "error":
            for rank in range(stage.tasks):
                if stage.done(rank) and stage.counts(rank)["dropped/damaged_file"]:
                    stage.forget(rank)

    def _ranks(self, source: str) -> list[int]:
        return [rank for rank, task in enumerate(self._tasks) if task.source == source]

    def _counts(self, source: str) -> Counter[str]:
        return sum((self._reading.counts(rank) for rank in self._ranks(source)), Counter())

    def _deduplicate(self) -> None:
        if self._recipe.deduplicate is not None:
            log.info("deduplicating")
            self._duplicates = Deduplication(self._recipe.deduplicate, self._work / "deduplicate", self._sources)
            self._duplicates.find([self._reader()], self._contents, self._engine)
            self._left = [key_of(each, self._duplicates.key(rank)) for rank, each in enumerate(self._contents)]

    def _decontaminate(self) -> None:
        if self._overlaps:
            log.info("looking for examples of evaluation sets")
            drop = [DropDuplicates(self._duplicates.verdicts)] if self._duplicates else []
            self._overlaps.find([self._reader(), *drop], self._left, self._engine)

    def _reader(self) -> ReadDocuments:
        return ReadDocuments([[rank] for rank in range(len(self._tasks))], self._documents)

    def _make_tokenizer(self, learned_from: list[str]) -> None:
        stage = Stage(self._tokenizer.parent, [key_of(described_tokenizer(self._recipe.tokenizer), learned_from)])
        documents = {source: [self._documents[rank] for rank in self._ranks(source)] for source in self._recipe.sources}
        stage.run([MakeTokenizer(self._recipe.tokenizer, documents, self._tokenizer)], Local(1))

    def _tokenise(self) -> None:
        self._groups = [group for source in self._recipe.sources for group in self._groups_of(source)]
        self._group_samples = [self._work / "samples" / "groups" / f"{at:05d}.json" for at in range(len(self._groups))]
        self._tokenising = Stage(self._work / "tokenise", self._group_keys())
        log.info("tokenising: %d tasks", self._tokenising.tasks)
        blocks: list[PipelineStep] = [ReadDocuments([group.files for group in self._groups], self._documents)]
        if self._duplicates:
            blocks.append(DropDuplicates(self._duplicates.verdicts, self._group_samples))
        if self._overlaps:
            blocks.append(self._overlaps.cut(len(self._groups)))
        fraction, size = self._recipe.validation_fraction, self._recipe.shard_tokens
        self._tokenising.run([*blocks, Tokenise(self._groups, self._tokenizer, fraction, size)], self._engine)

    def _group_keys(self) -> list[str]:
        decided = [self._recipe.validation_fraction, self._recipe.shard_tokens, hash_of(self._tokenizer)]
        cut = [self._overlaps.key(rank) if self._overlaps else "" for rank in range(len(self._tasks))]
        return [
            key_of(*decided, group.source, group.out.name, [(self._left[rank], cut[rank]) for rank in group.files])
            for group in self._groups
        ]

    def _groups_of(self, source: str) -> list[Group]:
        files = [(rank, self._reading.counts(rank)["text_bytes"]) for rank in self._ranks(source)]
        return group_files(source, files, self._recipe.shard_tokens, self._work / "shards" / source)

    def _finish(self) -> Manifest:
        sources, counts = {}, {}
        for name in self._recipe.sources:
            ranks = [rank for rank, group in enumerate(self._groups) if group.source == name]
            counts[name] = sum((self._tokenising.counts(rank) for rank in ranks), self._counts(name))
            sources[name] = place_source(name, [self._groups[rank] for rank in ranks], counts[name], self._out)
        manifest = Manifest(
            recipe_hash=self._asked,
            tokenizer=place_tokenizer(self._tokenizer, self._out),
            sources=sources,
            links={name: self._links_entry(name) for name in self._recipe.links},
            filters={
                name: place_filter(name, self._filters.folder / f"{name}.npz", self._out)
                for name in self._recipe.filters
            },
        )
        self._report(manifest, counts)
        manifest.save(self._out)
        for name, source in sources.items():
            if not source.documents:
                log.warning("%s: is left without a document: all are duplicates or contaminated", name)
        if self._recipe.validation_fraction and not any(each.splits["validation"] for each in sources.values()):
            log.warning("no document is held out: raise validation_fraction")
        tokens = sum(source.tokens for source in sources.values())
        log.info("%s: %s tokens in %d shards", self._out, f"{tokens:,}", len(list(manifest.shards())))
        return manifest

    def _report(self, manifest: Manifest, counts: dict[str, Counter[str]]) -> None:
        paths = {name: [self._samples[rank] for rank in self._ranks(name)] for name in self._recipe.sources}
        parts: dict[str, prepare_report.Report] = {"recipe": described_recipe(self._recipe, self._inputs)}
        parts["domains"] = {name: largest_domains(self._lists / f"{name}.npy") for name in self._recipe.links}
        parts["filters"] = self._filters.report()
        if self._duplicates:
            for group, path in zip(self._groups, self._group_samples, strict=True):
                paths[group.source].append(path)
            parts["duplicates"] = {"pairs": pairs_of_sources(self._sources, self._duplicates.verdicts)}
        if self._overlaps:
            found = self._overlaps.report(len(self._groups))
            parts["evaluation_sets"] = {name: each.model_dump() for name, each in found.items()}
        samples = {name: merged(some) for name, some in paths.items()}
        prepare_report.write(self._out, manifest, counts, samples, **parts)
