"""Checking what is on disk against its hashes."""

import json
from pathlib import Path

from data_pipeline.errors import InputError
from data_pipeline.urls import without_password
from data_pipeline.verifying import verify_folder, verify_url


def verify_path(name: str) -> str:
    """One line that says what was found whole.

    Raises InputError with a line for each file that is not what its manifest says.
    """
    if "://" in name:
        return _told(verify_url(name), without_password(name), "prepared folder")
    from training import checkpoint

    folder = checkpoint.find(name)
    is_data = _manifest_keys(folder) & {"sources", "recipe_hash"}
    faults = verify_folder(folder) if is_data else checkpoint.verify(folder)
    return _told(faults, str(folder), "prepared folder" if is_data else "checkpoint")


def _told(faults: list[str], name: str, what: str) -> str:
    if faults:
        raise InputError("\n".join(faults))
    return f"{name}: whole, every file of the {what} as its manifest says"


def _manifest_keys(folder: Path) -> set[str]:
    try:
        return set(json.loads((folder / "manifest.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return set()
