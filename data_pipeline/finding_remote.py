"""The files at URLs and in lists of files, found with few requests however many they are."""

import gzip
import logging
import zlib
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from data_pipeline.config import LISTS, Located
from data_pipeline.errors import InputError
from data_pipeline.finding import each_once, files_of_kind, names_of, printable
from data_pipeline.remote_inputs import InputFile, RemoteFile, Store, is_web
from data_pipeline.urls import is_url, without_password

VERSIONS = ("ETag", "etag", "generation", "Last-Modified", "LastModified", "mtime")
"""What stores say by which a change can be told, the surest first."""


def files_in(
    config: Located, suffixes: Sequence[str], store: Store, log: logging.Logger
) -> tuple[list[tuple[InputFile, str]], list[str]]:
    """The files of a source with their names, and those of its paths at which there is nothing.

    The names are relative to what all files share, also those that `files` leaves out.
    """
    files: list[InputFile] = []
    missing: list[str] = []
    for path in config.paths:
        at_path = _at_url(path, suffixes, store, log) if isinstance(path, str) else files_of_kind(path, suffixes, log)
        for file in at_path:
            if not str(file).endswith(LISTS):
                files.append(file)
                continue
            listed = list(_listed(file, config.base, store))
            missing += [f"{each} (in {file})" for each in listed if isinstance(each, Path) and not each.is_file()]
            files += listed
        if not at_path:
            missing.append(str(path))
    named = _named(files)
    count = min(config.files or len(named), len(named))
    return [named[at * len(named) // count] for at in range(count)], missing


def _named(files: Sequence[InputFile]) -> list[tuple[InputFile, str]]:
    """Each once, sorted: those of this machine first."""
    local = each_once(file for file in files if isinstance(file, Path))
    remote = {file.url: file for file in files if isinstance(file, RemoteFile)}
    if not remote:
        return list(zip(local, names_of(local), strict=True))
    every: list[InputFile] = [*local, *(remote[url] for url in sorted(remote, key=lambda url: url.split("/")))]
    parts = [(_shown(file.url) if isinstance(file, RemoteFile) else printable(str(file))).split("/") for file in every]
    levels = zip(*(each[:-1] for each in parts), strict=False)
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    return [(file, "/".join(each[shared:])) for file, each in zip(every, parts, strict=True)]


def _shown(url: str) -> str:
    """Without what may be a secret: a user, and what a signature stands in."""
    return without_password(url).partition("?")[0]


def _at_url(url: str, suffixes: Sequence[str], store: Store, log: logging.Logger) -> list[RemoteFile]:
    """The files at a URL: itself, those in the folder and below that end so, or all that match."""
    parts = url.split("/")
    magic = "*[" if is_web(url) else "*?["
    at = next((at for at, part in enumerate(parts[3:], 3) if set(magic) & set(part)), None)
    if at is not None:
        above, pattern = "/".join(parts[:at]), "/".join(parts[at:])
        remote = store.folder(above)
        found = remote.retried(pattern, lambda: remote.files(pattern), "listed")
        return _remote(above, found, store)
    if not url.endswith("/"):
        remote, name = store.parent(url)
        info = remote.retried(name, lambda: remote.info(name), "looked for")
        if info is None or info["type"] == "file":
            return [] if info is None else _remote(url.removesuffix(f"/{name}"), {name: info}, store)
    remote = store.folder(url)
    found = remote.retried("", remote.files, "listed")
    taken = {name: info for name, info in found.items() if name.lower().endswith(tuple(suffixes))}
    if left := len(found) - len(taken):
        log.info("%s: %d files are left out, which do not end in %s", url, left, ", ".join(suffixes))
    return _remote(url.rstrip("/"), taken, store)


def _remote(above: str, found: dict[str, dict[str, Any]], store: Store) -> list[RemoteFile]:
    return [
        RemoteFile(f"{above}/{name}", store, info.get("size"), _version(info))
        for name, info in found.items()
        if not name.rpartition("/")[2].startswith(".")
    ]


def _version(info: dict[str, Any]) -> str | None:
    return next((str(info[key]) for key in VERSIONS if info.get(key) is not None), None)


def _listed(file: InputFile, base: Path | str | None, store: Store) -> Iterator[InputFile]:
    """The files that a list names. Nothing is asked about those elsewhere: a crawl has 90,000 of them."""
    above = str(base or str(file).rpartition("/")[0]).rstrip("/")
    for line in _lines(file):
        if is_url(line):
            yield RemoteFile(line, store)
        elif is_url(above):
            yield RemoteFile(f"{above}/{line.lstrip('/')}", store)
        else:
            yield Path(above, line)


def _lines(file: InputFile) -> list[str]:
    try:
        data = file.read_bytes() if isinstance(file, Path) else _read(file)
        text = gzip.decompress(data) if str(file).endswith(".gz") else data
        lines = [line.strip() for line in text.decode().splitlines()]
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{file}: is no list of files, one a line ({error}); fetch it again") from None
    return [line for line in lines if line]


def _read(file: RemoteFile) -> bytes:
    remote, name = file.store.parent(file.url)
    return remote.retried(name, lambda: remote.read(name))
