"""Preparing on first use, and the table that says what became of each source."""

import logging
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from rich.table import Table

from data_pipeline.config import DataConfig, Recipe
from data_pipeline.errors import InputError
from data_pipeline.manifest import Manifest
from data_pipeline.prepare_report import summary
from data_pipeline.urls import is_url, without_password
from launcher.config import load_recipe

log = logging.getLogger("thalweg.prepare")


def ensure_prepared(data: DataConfig) -> None:
    """Makes the prepared folder of a run, where the run names a recipe and the folder is not there.

    Of several processes one prepares and the others wait. Raises InputError where the folder is of another recipe.
    """
    if data.prepare is None:
        return
    assert isinstance(data.folder, Path)
    there = (data.folder / "manifest.json").exists()
    if there and int(os.environ.get("RANK", "0")) > 0:
        return
    from data_pipeline.errors import MissingInputError
    from data_pipeline.prepare import prepare

    data.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(data.folder.with_name(f".{data.folder.name}.lock")):
        try:
            prepare(load_recipe(data.prepare), data.folder, wait=True)
        except MissingInputError as error:
            if not there:
                raise
            log.warning("%s is taken as it is: its recipe cannot be compared (%s)", data.folder, error)


def prepare_at(recipe: Recipe, out: str, work: Path | None, make: Callable[[Path], Manifest], update: bool) -> Manifest:
    """Has `make` prepare into the folder `out`, or into `work` what is uploaded to the URL `out`."""
    if not is_url(out):
        if work is not None:
            raise InputError("--work: goes with an --out that is a URL; leave it out")
        return make(Path(out))
    if work is None:
        raise InputError(f"--out {without_password(out)}: is a URL; name a folder of this machine with --work, too")
    from data_pipeline.publish import prepare_at_url

    return prepare_at_url(recipe, out, work, make, update)


def report_table(manifest: Manifest, out: str) -> Table:
    """Per source the documents read, dropped by step or reason and kept, the tokens, and what was masked and cut."""
    sources = summary(manifest)["sources"]
    more = [name for name in ("masked", "split") if any(source[name] for source in sources.values())]
    table = Table(title=f"Prepared in {out}")
    for column in ("source", "read", "dropped", "kept", "of these held out", "tokens", *more):
        is_text = column in ("source", "dropped", *more)
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    for name, source in sources.items():
        counts = [f"{source[key]:,}" for key in ("documents", "validation_documents", "tokens")]
        table.add_row(
            name, f"{source['read']:,}", _each(source["dropped"]), *counts, *(_each(source[name]) for name in more)
        )
    for name, entry in manifest.links.items():
        table.add_row(f"links.{name}", f"{entry.read:,}", _each(entry.dropped), f"{entry.addresses:,} addresses")
    return table


def _each(counts: dict[str, int]) -> str:
    """Reasons of one step, which begin with its name and a colon, together: prepare.json has them one by one."""
    steps = Counter[str]()
    for what, count in counts.items():
        steps[what.partition(":")[0]] += count
    return "\n".join(f"{count:,} {what}" for what, count in steps.items()) or "-"
