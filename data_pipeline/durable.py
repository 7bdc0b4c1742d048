"""Files that are whole or not there, also after a power cut."""

import os
from pathlib import Path


def to_disk(path: Path) -> None:
    """Forces a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, text: str) -> None:
    """Writes a file under a hidden name and renames it: under its own name it is either old or whole."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    to_disk(partial)
    partial.replace(path)
    to_disk(path.parent)
