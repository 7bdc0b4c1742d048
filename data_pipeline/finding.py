"""The files at a path: a file, a folder with all below it, or a pattern; the same ones on every machine."""

import errno
import fnmatch
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from data_pipeline.errors import InputError

LOST = "lost+found"
"""What stands at the top of many disks, closed to all but root, and holds nobody's data."""

_MAGIC = frozenset("*?[")


def files_at(path: Path) -> list[Path]:
    """The files at `path`, sorted and not resolved: itself, all in the folder and below, or all that match.

    Links to folders are followed. Of the ways to one folder the one without links counts, else the first by name at
    the fewest links. Files whose names begin with a dot are left out, by patterns also folders of such names,
    unless the pattern spells the dot. Raises InputError for a folder that cannot be listed.
    """
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            found = {folder / name for folder, names in _folders(path) for name in names if not _is_hidden(name)}
        else:
            base = fixed_part(path)
            found = set(_matching(base, path.parts[len(base.parts) :]))
        return sorted(each for each in found if stat.S_ISREG(_mode(each)))
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be listed ({error.strerror}), and what lies there would be missing; allow it or "
            "name what is wanted beside it"
        ) from None


def files_of_kind(path: Path, suffixes: Sequence[str], log: logging.Logger, *, of_patterns: bool = False) -> list[Path]:
    """The files at `path`, of a folder those that end in one of `suffixes`; how many do not is logged.

    So it is with a pattern if `of_patterns`. A file that is named itself may have any suffix.
    """
    found = files_at(path)
    if path.is_file() or not (of_patterns or path.is_dir()):
        return found
    taken = [each for each in found if each.name.lower().endswith(tuple(suffixes))]
    if left := len(found) - len(taken):
        log.info("%s: %d files are left out, which do not end in %s", path, left, ", ".join(suffixes))
    return taken


def each_once(files: Iterable[Path]) -> list[Path]:
    """Absolute and sorted; one that is reached on several ways keeps the name that tells how it is compressed."""
    found: dict[Path, Path] = {}
    for file in files:
        found.setdefault(file.resolve(), file.absolute())
    return sorted(found.values())


def fixed_part(pattern: Path) -> Path:
    """The folder above the first part that stands for more than one name."""
    parts = pattern.parts
    fixed = next((at for at, part in enumerate(parts) if _MAGIC & set(part)), len(parts) - 1)
    return Path(*parts[:fixed])


def names_of(files: Sequence[Path]) -> list[str]:
    """Relative to the folder that they share: where it lies does not matter."""
    if not files:
        return []
    shared = os.path.commonpath([file.parent for file in files])
    return [printable(os.path.relpath(file, shared)) for file in files]


def printable(name: str) -> str:
    """A name as it is, or with escapes where it is no UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _folders(top: Path, *, hidden: bool = True) -> Iterator[tuple[Path, list[str]]]:
    """`top` and the folders below it, each once, with the names of what is no folder in them."""
    # Compared by their real paths, as callers compare files: some network file systems give all folders one inode.
    seen: set[str] = set()
    tops = [top]
    while tops:
        links: list[Path] = []
        for each in sorted(tops):
            for folder, folders, others in os.walk(each, onerror=_raise):
                if (real := os.path.realpath(folder)) in seen:
                    folders.clear()
                    continue
                seen.add(real)
                folders[:] = [name for name in folders if name != LOST and (hidden or not _is_hidden(name))]
                links += [link for name in folders if (link := Path(folder, name)).is_symlink()]
                yield Path(folder), others
        tops = links


def _matching(base: Path, parts: Sequence[str]) -> Iterator[Path]:
    """What lies below `base` by a pattern's `parts`, perhaps several times; glob ends loops of links at the 40th."""
    if not parts:
        yield base
        return
    part, rest = parts[0], parts[1:]
    if not _MAGIC & set(part):
        yield from _matching(base / part, rest)
    elif not stat.S_ISDIR(_mode(base)):
        return
    elif part == "**":
        for folder, _ in _folders(base, hidden=False):
            yield from _matching(folder, rest or ("*",))
    else:
        for name in fnmatch.filter([each.name for each in base.iterdir()], part):
            if name != LOST and (_is_hidden(part) or not _is_hidden(name)):
                yield from _matching(base / name, rest)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _mode(path: Path) -> int:
    """0 where nothing is there. Raises OSError where that cannot be told, which is_file() of Python 3.14 does not."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return 0
        raise


def _raise(error: OSError) -> NoReturn:
    raise error
