"""From a recipe to a prepared folder, in stages of which each does only what is not done.

    .work/link/  keys/  lists/    lists of links, where the recipe has any
    .work/read/  documents/       one file of documents a task
    .work/samples/                and of each step a few that it kept and dropped
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
from pathlib import Path

import numpy as np
import xxhash
from filelock import FileLock

from data_pipeline import prepare_report, sample
from data_pipeline.config import Corpus, FileSource, Recipe
from data_pipeline.documents import DropEmpty, ReadDocuments, WriteDocuments
from data_pipeline.errors import InputError
from data_pipeline.executor import Stage, key_of
from data_pipeline.finish import place_source, place_tokenizer, those_of
from data_pipeline.inputs import LINKS, Inputs, described, described_tokenizer, files_of, find, recipe_hash
from data_pipeline.links import CollectLinks, merge
from data_pipeline.make_tokenizer import MakeTokenizer
from data_pipeline.manifest import FORMAT_VERSION, LinksEntry, Manifest
from data_pipeline.reading import ReadFiles, Task
from data_pipeline.samples import merged
from data_pipeline.steps.apply import ApplySteps
from data_pipeline.steps.config import Linked
from data_pipeline.tokenise import Group, Tokenise, group_files

log = logging.getLogger("thalweg.prepare")


def prepare(
    recipe: Recipe, out: Path, workers: int = os.cpu_count() or 1, *, update: bool = False, keep_work: bool = False
) -> Manifest:
    """Prepares `recipe` into the folder `out`, or finishes what an earlier call began.

    `update` makes a folder of another recipe anew; `keep_work` leaves what a later update need not do again. Raises
    InputError for bad input, and where `out` holds something else.
    """
    # Strings that came out of a YAML file know their folder; worker processes want plain ones.
    recipe = Recipe.model_validate(recipe.model_dump(mode="json"))
    out = out.absolute()
    work = out / ".work"
    inputs = find(recipe, work)
    _refuse_foreign(out)
    if not work.exists() and (finished := _finished(recipe, inputs, out, update)):
        return finished
    work.mkdir(parents=True, exist_ok=True)
    if keep_work:
        (work / "kept").touch()
    with FileLock(work / "lock"):
        finished = _finished(recipe, inputs, out, update)
        if finished is None:
            _begin_anew(out)
            finished = _Preparation(recipe, inputs, out, workers).run()
        if not (work / "kept").exists():
            shutil.rmtree(work, ignore_errors=True)
    return finished


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name another folder with --out")
    ours = ("manifest.json", ".work")
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in ours):
        raise InputError(f"{out}: is not empty and is no prepared folder; name another with --out")


def _finished(recipe: Recipe, inputs: list[Inputs], out: Path, update: bool) -> Manifest | None:
    if not (out / "manifest.json").exists():
        return None
    manifest, _ = Manifest.load(out)
    if manifest.recipe_hash != recipe_hash(recipe, inputs):
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
    if not (out / "manifest.json").exists():
        return
    manifest, _ = Manifest.load(out)
    (out / "manifest.json").unlink()
    for source in manifest.sources:
        shutil.rmtree(out / source, ignore_errors=True)


class _Preparation:
    """One preparation that is under way."""

    def __init__(self, recipe: Recipe, inputs: list[Inputs], out: Path, workers: int) -> None:
        self._recipe, self._inputs, self._out, self._workers = recipe, inputs, out, workers
        self._work = out / ".work"
        tasks = [task for each in inputs for task in each.tasks()]
        self._tasks: list[Task] = [task for task in tasks if not task.source.startswith(LINKS)]
        self._link_tasks = [task for task in tasks if task.source.startswith(LINKS)]
        self._documents = [
            self._work / "documents" / task.source / f"{index:05d}.jsonl.zst" for index, task in enumerate(self._tasks)
        ]
        self._samples = [self._work / "samples" / f"{rank:05d}.json" for rank in range(len(self._tasks))]
        self._lists = self._work / "lists"
        self._tokenizer = self._work / "tokenizer" / "tokenizer.json"

    def run(self) -> Manifest:
        self._make_samples()
        self._link()
        self._read()
        self._make_tokenizer()
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
        self._linking.run([reader, CollectLinks(keys)], self._workers)
        for name in self._recipe.links:
            if merge([keys[rank] for rank in self._link_ranks(name)], self._lists / f"{name}.npy") == 0:
                raise InputError(f"links.{name}: no link is left of what was read; look at karma and paths")

    def _link_ranks(self, name: str) -> list[int]:
        return [rank for rank, task in enumerate(self._link_tasks) if task.source == f"{LINKS}{name}"]

    def _links_entry(self, name: str) -> LinksEntry:
        counts = sum((self._linking.counts(rank) for rank in self._link_ranks(name)), Counter[str]())
        addresses = len(np.load(self._lists / f"{name}.npy", mmap_mode="r"))
        return LinksEntry(read=counts["read"], dropped=those_of("dropped/", counts), addresses=addresses)

    def _read(self) -> None:
        log.info("reading: %d sources, %d tasks", len(self._recipe.sources), len(self._tasks))
        self._reading = Stage(self._work / "read", [self._read_key(task) for task in self._tasks])
        self._forget_damage(self._reading)
        reader = ReadFiles(self._tasks, self._recipe.damaged_files)
        steps = [DropEmpty(), ApplySteps(self._tasks, self._lists, self._samples), WriteDocuments(self._documents)]
        self._reading.run([reader, *steps], self._workers)
        for name in self._recipe.sources:
            counts = self._counts(name)
            if not counts["documents"]:
                raise InputError(f"sources.{name}: no document is left of the {counts['read']:,} that were read")

    def _read_key(self, task: Task) -> str:
        assert isinstance(task.config, Corpus)
        lists = [step.links for step in task.config.steps if isinstance(step, Linked)]
        made = [_hash_of(self._lists / f"{name}.npy") for name in lists]
        return key_of(FORMAT_VERSION, task.source, described(task.config), files_of(task), made)

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

    def _make_tokenizer(self) -> None:
        learned_from = self._reading.keys if self._recipe.tokenizer.train is not None else []
        stage = Stage(self._tokenizer.parent, [key_of(described_tokenizer(self._recipe.tokenizer), learned_from)])
        documents = {source: [self._documents[rank] for rank in self._ranks(source)] for source in self._recipe.sources}
        stage.run([MakeTokenizer(self._recipe.tokenizer, documents, self._tokenizer)], workers=1)

    def _tokenise(self) -> None:
        self._groups = [group for source in self._recipe.sources for group in self._groups_of(source)]
        decided = [self._recipe.validation_fraction, self._recipe.shard_tokens, _hash_of(self._tokenizer)]
        keys = [
            key_of(*decided, group.source, group.out.name, [self._reading.keys[rank] for rank in group.files])
            for group in self._groups
        ]
        self._tokenising = Stage(self._work / "tokenise", keys)
        log.info("tokenising: %d tasks", self._tokenising.tasks)
        reader = ReadDocuments([group.files for group in self._groups], self._documents)
        shards = Tokenise(self._groups, self._tokenizer, self._recipe.validation_fraction, self._recipe.shard_tokens)
        self._tokenising.run([reader, shards], self._workers)

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
            recipe_hash=recipe_hash(self._recipe, self._inputs),
            tokenizer=place_tokenizer(self._tokenizer, self._out),
            sources=sources,
            links={name: self._links_entry(name) for name in self._recipe.links},
        )
        samples = {name: merged(self._samples[rank] for rank in self._ranks(name)) for name in self._recipe.sources}
        prepare_report.write(self._out, manifest, counts, samples)
        manifest.save(self._out)
        tokens = sum(source.tokens for source in sources.values())
        log.info("%s: %s tokens in %d shards", self._out, f"{tokens:,}", len(list(manifest.shards())))
        return manifest


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        hashed = xxhash.xxh3_128()
        while part := file.read(2**20):
            hashed.update(part)
    return hashed.hexdigest()
