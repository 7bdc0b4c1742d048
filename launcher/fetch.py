"""Fetching a checkpoint that is on an object store alone into the run folder."""

import logging
from pathlib import Path

from filelock import FileLock

from data_pipeline.errors import InputError
from data_pipeline.urls import user_of, without_password
from launcher.config import RunConfig
from training import checkpoint
from training.copies import Copies

log = logging.getLogger("thalweg.checkpoint")


def newest(config: RunConfig, resume: str) -> Path | None:
    """The newest checkpoint at `checkpoint.copy_to`, fetched, or None where there is none.

    Raises InputError where the run must not resume.
    """
    copies = Copies(str(config.checkpoint.copy_to), config.checkpoint.storage)
    if (name := copies.newest()) is None:
        return None
    if resume == "never":
        raise InputError(
            f"checkpoint.copy_to: {copies.url(name)} is there already; name another place or leave out --resume never"
        )
    with _alone_to_fetch(copies.url(name), config.folder):
        return checkpoint.latest(config.folder) or _fetched(copies, name, config.folder)


def named(config: RunConfig, url: str) -> Path:
    """The checkpoint at a URL, fetched unless it is in the run folder already.

    Raises InputError where there is none, or where the run folder has another one of that name.
    """
    place, _, name = url.rstrip("/").rpartition("/")
    if user_of(url):
        raise InputError(
            f"--resume: {without_password(url)} was given with a user or password; put them into the environment"
        )
    if not name.startswith("step-"):
        raise InputError(f"--resume: {url} names no checkpoint; name one, such as {url.rstrip('/')}/step-0000123")
    copies = Copies(place, config.checkpoint.storage)
    manifest, folder = copies.manifest(name), config.folder / "checkpoints" / name
    if not (folder / "manifest.json").exists():
        with _alone_to_fetch(url, config.folder):
            if not (folder / "manifest.json").exists():
                return _fetched(copies, name, config.folder)
    if (folder / "manifest.json").read_bytes() != manifest:
        raise InputError(f"{folder}: is another checkpoint than {url}; give another run_dir, or resume from it")
    return folder


def _fetched(copies: Copies, name: str, run_dir: Path) -> Path:
    folder = run_dir / "checkpoints" / name
    copies.fetch(name, folder)
    return folder


def _alone_to_fetch(url: str, run_dir: Path) -> FileLock:
    """One process of a machine fetches and the others wait for it, the one that is heard among them perhaps."""
    log.info("fetches %s", url)
    run_dir.mkdir(parents=True, exist_ok=True)
    return FileLock(run_dir / ".fetch.lock")
