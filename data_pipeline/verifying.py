"""Reading a whole prepared folder against its manifest, here or on an object store."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from data_pipeline.errors import InputError
from data_pipeline.manifest import Manifest
from data_pipeline.shards import FileEntry

if TYPE_CHECKING:
    from data_pipeline.remote_files import RemoteFolder


def verify_folder(folder: Path) -> list[str]:
    """What is wrong with the files of a prepared folder, a line a fault."""
    manifest, _ = Manifest.load(folder)
    return [fault for name, entry in manifest.files().items() if (fault := entry.fault(folder / name))]


def verify_url(url: str) -> list[str]:
    """The same of a prepared folder on an object store, whose credentials come from the environment.

    Nothing is kept: each file is hashed as it arrives.
    """
    from data_pipeline.remote_files import RemoteFolder

    remote = RemoteFolder(url, None, threading.Event())
    data = remote.retried("manifest.json", lambda: remote.read("manifest.json"))
    manifest = Manifest.parse(data, remote.url("manifest.json"))
    return [fault for name, entry in manifest.files().items() if (fault := _fault(remote, name, entry))]


def _fault(remote: "RemoteFolder", name: str, entry: FileEntry) -> str | None:
    def hashed() -> str:
        digest = xxhash.xxh3_64()
        for piece in remote.pieces(name, entry.bytes):
            digest.update(piece)
        return digest.hexdigest()

    try:
        found = remote.retried(name, hashed)
    except InputError as error:
        return str(error)
    return None if found == entry.xxh3 else f"{remote.url(name)}: has hash {found}, its manifest says {entry.xxh3}"
