"""The engine that runs a preparation, as the command line and site.yaml ask for it."""

import sys
from pathlib import Path
from typing import Any

from data_pipeline.engines.base import Engine
from data_pipeline.engines.local import Local
from data_pipeline.engines.ray import Ray
from data_pipeline.engines.slurm import Slurm
from data_pipeline.errors import InputError
from launcher.config import validate
from launcher.slurm.site import Resources, read_site
from launcher.yaml_file import override


def engine_of(executor: str, workers: int | None, recipe: Path, asked: dict[str, str | None]) -> Engine:
    """The engine of the name `local`, `slurm` or `ray`, which runs at most so many tasks at a time.

    `asked` is what each job of Slurm's asks for; what it leaves out stands in a site.yaml. Raises InputError where
    another engine is given any of it.
    """
    given = {key: value for key, value in asked.items() if value is not None}
    if executor == "slurm":
        return _slurm(workers, recipe, given)
    if given:
        raise InputError(f"--{next(iter(given))}: goes with --executor slurm alone; leave it out")
    if executor == "ray":
        return Ray(workers)
    return Local(workers) if workers else Local()


def _slurm(workers: int | None, recipe: Path, asked: dict[str, str]) -> Slurm:
    """Jobs of one core each. Of what site.yaml says, cores and memory are those of whole nodes."""
    sized: dict[str, Any] = override({}, [f"memory={asked.get('memory', '4Gi')}"])
    site, options = read_site(recipe, {}), validate(Resources, asked | sized, Path("options"))
    if site.container:
        raise InputError(
            "container: the jobs of --executor slurm run outside of containers; give another site.yaml beside "
            f"{recipe}, or prepare on one node with `thalweg submit --prepare`"
        )
    given = {name: getattr(options, name) for name in options.model_fields_set}
    job = site.for_prepare().model_copy(update={"cpus_per_node": 1, "exclusive": False, **given})
    return Slurm(tuple(job.options()), tuple(site.environment), (site.python or sys.executable,), workers)
