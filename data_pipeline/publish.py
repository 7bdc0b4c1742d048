"""A prepared folder on an object store: uploaded file by file, the manifest last, without which there is none.

.manifest.json.partial    while files are on their way: the manifest of the folder that they make
<source>/<split>/...      tokenizer.json, prepare.json, prepare.html
manifest.json             and the partial one goes
"""

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from data_pipeline.config import Recipe
from data_pipeline.errors import InputError
from data_pipeline.inputs import find, recipe_hash
from data_pipeline.manifest import Manifest
from data_pipeline.remote_files import RemoteFolder, for_all

MANIFEST, PARTIAL = "manifest.json", ".manifest.json.partial"
REPORTS = ("prepare.json", "prepare.html")
AT_ONCE = 4
"""Files that are uploaded at a time."""

log = logging.getLogger("thalweg.prepare")


def prepare_at_url(recipe: Recipe, url: str, folder: Path, make: Callable[[Path], Manifest], update: bool) -> Manifest:
    """Has `make` prepare `recipe` into a folder of this machine and uploads that to `url`, if it is not there yet.

    Raises InputError where another recipe was prepared at `url` and `update` is not asked for.
    """
    remote = RemoteFolder(url, recipe.storage, threading.Event(), options="storage", anew="prepare again")
    before = _read(remote, MANIFEST)
    if before is not None:
        there = Manifest.parse(before, remote.url(MANIFEST))
        if there.recipe_hash == recipe_hash(recipe, find(recipe, folder / ".work")):
            log.info("%s is prepared already", url)
            return there
        if not update:
            raise InputError(
                f"{url}: was prepared by another recipe, or from other files; name another URL with --out, "
                "or make this one anew with --update"
            )
    manifest = make(folder)
    upload(folder, remote)
    return manifest


def upload(folder: Path, remote: RemoteFolder) -> None:
    """Uploads a prepared folder, or goes on with that; what an earlier one left there is replaced."""
    data = (folder / MANIFEST).read_bytes()
    manifest = Manifest.parse(data, str(folder / MANIFEST))
    sizes = {name: entry.bytes for name, entry in manifest.files().items()}
    sizes |= {name: (folder / name).stat().st_size for name in REPORTS if (folder / name).exists()}
    present = {name: info.get("size") for name, info in remote.retried("", remote.files, "listed").items()}
    if _read(remote, PARTIAL) != data:
        _remove_others(remote, present, {*sizes, *REPORTS})
        present = {}
        remote.retried(PARTIAL, lambda: remote.write(PARTIAL, folder / MANIFEST), "written")
    # An object is whole or not there; one of this folder that has its size was uploaded from it.
    left = [name for name, size in sizes.items() if present.get(name) != size]
    log.info("%s: %d of %d files are to be uploaded", remote.url(""), len(left), len(sizes))
    for_all(left, lambda name: remote.retried(name, lambda: remote.write(name, folder / name), "written"), AT_ONCE)
    remote.retried(MANIFEST, lambda: remote.write(MANIFEST, folder / MANIFEST), "written")
    remote.retried(PARTIAL, lambda: remote.remove(PARTIAL), "removed")
    log.info("%s: %d files uploaded", remote.url(MANIFEST), len(left) + 1)


def _remove_others(remote: RemoteFolder, present: Iterable[str], ours: Iterable[str]) -> None:
    """Takes the files of other preparations away, the manifest first; what none of them made stays."""
    names = set(ours)
    for name in (MANIFEST, PARTIAL):
        if (data := _read(remote, name)) is not None:
            names |= Manifest.parse(data, remote.url(name)).files().keys()

    def remove(name: str) -> None:
        remote.retried(name, lambda: remote.remove(name), "removed")

    if MANIFEST in present:
        remove(MANIFEST)
    for_all(sorted(names.intersection(present)), remove, AT_ONCE)


def _read(remote: RemoteFolder, name: str) -> bytes | None:
    if remote.retried(name, lambda: remote.info(name), "looked for") is None:
        return None
    return remote.retried(name, lambda: remote.read(name))
