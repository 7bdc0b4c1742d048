"""From a recipe to a prepared folder, in four stages of which each is done once.

    .work/plan.json               what decides the result
    .work/inputs.json             names and sizes of the input files
    .work/link/  keys/  lists/    lists of links, where the recipe has any
    .work/read/  documents/       stage 1: one file of documents a task
    .work/tokenizer.json          stage 2
    .work/tokenise/  shards/      stage 3
    <source>/<split>/00000.*      stage 4: the shards moved to their place, tokenizer.json, manifest.json last

Everything appears under its name only when it is whole, so that after a crash the same call goes on and
makes the same folder, bit for bit, with any number of workers.
"""

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from data_pipeline import sample
from data_pipeline.config import Corpus, FileSource, Recipe
from data_pipeline.documents import DropEmpty, WriteDocuments, read_documents
from data_pipeline.durable import to_disk, write_whole
from data_pipeline.errors import InputError
from data_pipeline.executor import Stage
from data_pipeline.inputs import LINKS, Inputs, find, plan_of, recipe_hash, state_of
from data_pipeline.links import CollectLinks, merge
from data_pipeline.manifest import SPLITS, LinksEntry, Manifest, SourceEntry, TokenizerEntry
from data_pipeline.reading import ReadFiles, Task
from data_pipeline.shards import SUFFIXES, FileEntry, ShardEntry
from data_pipeline.steps.apply import ApplySteps
from data_pipeline.steps.config import Karma, Linked
from data_pipeline.tokenise import Group, Tokenise, entries_of, group_files

log = logging.getLogger("thalweg.prepare")


def prepare(recipe: Recipe, out: Path, workers: int = os.cpu_count() or 1) -> Manifest:
    """Prepares `recipe` into the folder `out`, or finishes what an earlier call began.

    Raises InputError for bad input, and where `out` holds something else.
    """
    # Strings that came out of a YAML file know their folder; worker processes want plain ones.
    recipe = Recipe.model_validate(recipe.model_dump(mode="json"))
    out = out.absolute()
    inputs = find(recipe, out / ".work")
    _refuse_foreign(out)
    if not (out / ".work").exists() and (finished := _finished(recipe, inputs, out)):
        return finished
    (out / ".work").mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".work" / "lock"):
        finished = _finished(recipe, inputs, out)
        if finished is None:
            finished = _Preparation(recipe, inputs, out, workers).run()
        shutil.rmtree(out / ".work", ignore_errors=True)
    return finished


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name another folder with --out")
    ours = ("manifest.json", ".work")
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in ours):
        raise InputError(f"{out}: is not empty and is no prepared folder; name another with --out")


def _finished(recipe: Recipe, inputs: list[Inputs], out: Path) -> Manifest | None:
    if not (out / "manifest.json").exists():
        return None
    manifest, _ = Manifest.load(out)
    if manifest.recipe_hash != recipe_hash(recipe, inputs):
        raise InputError(f"{out}: was prepared by another recipe; name another folder with --out, or delete it")
    log.info("%s is prepared already", out)
    return manifest


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
        self._reading = Stage(self._work / "read", len(self._tasks))
        self._linking = Stage(self._work / "link", len(self._link_tasks))
        self._keys = [self._work / "keys" / f"{rank:05d}.npy" for rank in range(len(self._link_tasks))]
        self._lists = self._work / "lists"

    def run(self) -> Manifest:
        self._begin()
        self._make_samples()
        self._link()
        self._read()
        self._make_tokenizer()
        groups = self._groups()
        tokenising = Stage(self._work / "tokenise", len(groups))
        log.info("tokenising: %d tasks", tokenising.tasks)
        step = Tokenise(
            groups, self._work / "tokenizer.json", self._recipe.validation_fraction, self._recipe.shard_tokens
        )
        tokenising.run([step], self._workers)
        return self._finish(groups)

    def _begin(self) -> None:
        """Refuses the remains of another recipe, and forgets what was made of files that have changed since."""
        plan = json.loads(json.dumps(plan_of(self._recipe, self._inputs)))
        if _written_once(self._work / "plan.json", plan) != plan:
            raise InputError(
                f"{self._out}: holds an unfinished preparation of another recipe; "
                "name another folder with --out, or delete it"
            )
        state = state_of(self._inputs)
        before = _written_once(self._work / "inputs.json", state)
        stale = self._stale(self._reading, self._tasks, before, state)
        if links := self._stale(self._linking, self._link_tasks, before, state):
            stale = [rank for rank, task in enumerate(self._tasks) if rank in stale or _is_linked(task)]
        if stale:
            for rank in stale:
                self._reading.forget(rank)
            for made in ("tokenizer.json", "tokenise", "shards"):
                _remove(self._work / made)
            for source in self._recipe.sources:
                _remove(self._out / source)
        # Last: a crash before leaves them stale, and what was read by them with them.
        for rank in links:
            self._linking.forget(rank)
            _remove(self._lists)
        _write(self._work / "inputs.json", state)

    def _stale(self, stage: Stage, tasks: list[Task], before: Any, state: Any) -> list[int]:
        """Tasks that are done, of files as they were, or that keep damage which is no longer to be kept."""

        def is_stale(rank: int, task: Task) -> bool:
            if any(before[task.source].get(name) != state[task.source].get(name) for _, name in task.files):
                return True
            return self._recipe.damaged_files == "error" and stage.counts(rank)["dropped/damaged_file"] > 0

        return [rank for rank, task in enumerate(tasks) if stage.done(rank) and is_stale(rank, task)]

    def _make_samples(self) -> None:
        for each in self._inputs:
            if isinstance(each.config, FileSource) and each.config.sample is not None:
                [(path, _)] = each.files
                if not path.exists():
                    log.info("%s: collecting %s of this machine", each.source, each.config.sample.replace("_", " "))
                    sample.make(each.config.sample, path)

    def _link(self) -> None:
        """Makes the lists of links."""
        if not self._link_tasks:
            return
        log.info("links: %d lists, %d tasks", len(self._recipe.links), len(self._link_tasks))
        reader = ReadFiles(self._link_tasks, self._recipe.damaged_files)
        self._linking.run([reader, CollectLinks(self._keys)], self._workers)
        for name in self._recipe.links:
            path = self._lists / f"{name}.npy"
            if not path.exists() and merge([self._keys[rank] for rank in self._link_ranks(name)], path) == 0:
                raise InputError(f"links.{name}: no link is left of what was read; look at karma and paths")

    def _link_ranks(self, name: str) -> list[int]:
        return [rank for rank, task in enumerate(self._link_tasks) if task.source == f"{LINKS}{name}"]

    def _links_entry(self, name: str) -> LinksEntry:
        counts = sum((self._linking.counts(rank) for rank in self._link_ranks(name)), Counter[str]())
        addresses = len(np.load(self._lists / f"{name}.npy", mmap_mode="r"))
        return LinksEntry(read=counts["read"], dropped=_those_of("dropped/", counts), addresses=addresses)

    def _read(self) -> None:
        log.info("reading: %d sources, %d tasks", len(self._inputs), len(self._tasks))
        reader = ReadFiles(self._tasks, self._recipe.damaged_files)
        steps = [DropEmpty(), ApplySteps(self._tasks, self._lists), WriteDocuments(self._documents)]
        self._reading.run([reader, *steps], self._workers)
        for name in self._recipe.sources:
            counts = self._counts(name)
            if not counts["documents"]:
                raise InputError(f"sources.{name}: no document is left of the {counts['read']:,} that were read")

    def _ranks(self, source: str) -> list[int]:
        return [rank for rank, task in enumerate(self._tasks) if task.source == source]

    def _counts(self, source: str) -> Counter[str]:
        return sum((self._reading.counts(rank) for rank in self._ranks(source)), Counter())

    def _make_tokenizer(self) -> None:
        from data_pipeline import tokenizer

        path, config = self._work / "tokenizer.json", self._recipe.tokenizer
        if path.exists():
            return
        if config.path is not None:
            made = tokenizer.from_path(config.path)
        elif config.hub is not None:
            made = tokenizer.from_hub(config.hub)
        else:
            assert config.train is not None
            log.info("training the tokenizer: %d entries", config.train.vocab_size)
            made = tokenizer.train(self._texts_to_learn_from(config.train.bytes_per_source), config.train)
        partial = path.with_name(".tokenizer.json.partial")
        made.save(str(partial))
        partial.replace(path)

    def _texts_to_learn_from(self, bytes_per_source: int) -> Iterator[str]:
        for source in self._recipe.sources:
            left = bytes_per_source
            texts = (text for rank in self._ranks(source) for text, _ in read_documents(self._documents[rank]))
            for text in texts:
                part = text.encode()[:left].decode(errors="ignore")
                yield part
                left -= len(part.encode())
                if left < 4:
                    break

    def _groups(self) -> list[Group]:
        groups: list[Group] = []
        for source in self._recipe.sources:
            files = [(self._documents[rank], self._reading.counts(rank)["text_bytes"]) for rank in self._ranks(source)]
            groups += group_files(source, files, self._recipe.shard_tokens, self._work / "shards" / source)
        return groups

    def _finish(self, groups: list[Group]) -> Manifest:
        sources = {name: self._source_entry(name, groups) for name in self._recipe.sources}
        path = self._out / "tokenizer.json"
        shutil.copyfile(self._work / "tokenizer.json", self._out / ".tokenizer.json.partial")
        (self._out / ".tokenizer.json.partial").replace(path)
        manifest = Manifest(
            recipe_hash=recipe_hash(self._recipe, self._inputs),
            tokenizer=_describe(path),
            sources=sources,
            links={name: self._links_entry(name) for name in self._recipe.links},
        )
        manifest.save(self._out)
        tokens = sum(source.tokens for source in sources.values())
        log.info("%s: %s tokens in %d shards", self._out, f"{tokens:,}", len(list(manifest.shards())))
        return manifest

    def _source_entry(self, source: str, groups: list[Group]) -> SourceEntry:
        counts = self._counts(source)
        splits: dict[str, list[ShardEntry]] = {split: [] for split in SPLITS}
        for group in (group for group in groups if group.source == source):
            for split, entries in entries_of(group).items():
                for entry in entries:
                    name = f"{source}/{split}/{len(splits[split]):05d}"
                    _move_shard(group.out / entry.name, self._out / name, entry)
                    splits[split].append(entry.model_copy(update={"name": name}))
        shards = [entry for entries in splits.values() for entry in entries]
        described = SourceEntry(
            read=counts["read"],
            dropped=_those_of("dropped/", counts),
            masked=_those_of("masked/", counts),
            documents=sum(shard.documents for shard in shards),
            tokens=sum(shard.tokens for shard in shards),
            splits=splits,
        )
        kept = described.read - sum(described.dropped.values())
        assert described.documents == counts["documents"] == kept, (source, counts)
        return described


def _is_linked(task: Task) -> bool:
    return isinstance(task.config, Corpus) and any(isinstance(step, Linked | Karma) for step in task.config.steps)


def _those_of(kind: str, counts: Counter[str]) -> dict[str, int]:
    return {name.removeprefix(kind): counts[name] for name in sorted(counts) if name.startswith(kind)}


def _describe(path: Path) -> TokenizerEntry:
    from data_pipeline.tokenizer import Encoder

    encoder = Encoder(path)
    return TokenizerEntry(vocab_size=encoder.vocab_size, end_of_text=encoder.end_of_text, file=FileEntry.of(path))


def _move_shard(made: Path, place: Path, entry: ShardEntry) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    for suffix in SUFFIXES:
        source, target = made.with_name(made.name + suffix), place.with_name(place.name + suffix)
        # A crash may have come between two files: what is not here any more is there already.
        if source.exists():
            source.replace(target)
        elif not target.exists() or target.stat().st_size != entry.files[suffix].bytes:
            raise InputError(f"{target}: was made and is lost; delete the folder and prepare again")
    to_disk(place.parent)


def _written_once(path: Path, value: Any) -> Any:
    if not path.exists():
        _write(path, value)
    return json.loads(path.read_text())


def _write(path: Path, value: object) -> None:
    write_whole(path, json.dumps(value))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
