"""`site.yaml`: what the jobs of a cluster have in common, so that run files need not say it."""

import math
import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from data_pipeline.config_base import Section
from launcher.config import validate
from launcher.yaml_file import read_yaml
from training.config import Duration

FILE = "site.yaml"
_SLURMS = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def _slurms(value: Any) -> Any:
    """Reads Slurm's own ways to write a duration; leaves everything else to `Duration`."""
    if isinstance(value, int):
        raise ValueError("is a number to YAML, as 12:00:00 is; write it like 12h, or in quotes: '12:00:00'")
    if not isinstance(value, str) or not (match := _SLURMS.fullmatch(value)):
        return value
    days, *given = match.groups()
    parts = [int(part) for part in given if part is not None]
    if days is None and len(parts) < 3:
        parts = [0, *parts]  # minutes, or minutes:seconds
    hours, minutes, seconds = [*parts, 0, 0][:3]
    return float(((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds)


TimeLimit = Annotated[Duration, BeforeValidator(_slurms), Field(gt=0)]
"""Seconds, written like 12h or as Slurm does."""


class Container(Section):
    """A container that the processes run in."""

    kind: Literal["pyxis", "enroot", "apptainer"] = Field(description="pyxis is enroot by way of srun's own options.")
    image: str = Field(description="As that tool takes it; a file by its absolute path.")
    mounts: list[str] = Field(
        default_factory=list,
        description="Folders as /outside:/inside. The run folder and the prepared folder are there by themselves.",
    )
    python: str = Field("python3", description="The interpreter inside; DeepSpeed and the rest are the image's.")

    def srun(self, mounts: list[str]) -> list[str]:
        """What srun has to be told."""
        if self.kind != "pyxis":
            return []
        # What the image has set itself wins otherwise.
        options = [f"--container-image={self.image}", "--container-env=PYTHONPATH"]
        return [*options, f"--container-mounts={','.join([*self.mounts, *mounts])}"]

    def wrapper(self, mounts: list[str], code: Path, gpus: int) -> list[str]:
        """The command that starts another one inside."""
        if self.kind == "pyxis":
            return []
        option = "--bind" if self.kind == "apptainer" else "--mount"
        bound = [word for mount in (*self.mounts, *mounts) for word in (option, mount)]
        if self.kind == "apptainer":
            return ["apptainer", "exec", *(["--nv"] if gpus else []), *bound, self.image]
        return ["enroot", "start", "--conf", str(code / "slurm" / "enroot.conf"), *bound, self.image]


class Resources(Section):
    """What a job asks Slurm for."""

    account: str | None = Field(None, description="Whose hours are used.")
    partition: str | None = Field(None, description="Slurm's partition.")
    qos: str | None = Field(None, description="Quality of service.")
    constraint: str | None = Field(None, description="Features of the nodes, such as h100&nvlink.")
    time: TimeLimit | None = Field(
        None, description="The limit of one job, as 12h or in Slurm's own form in quotes; the partition's by default."
    )
    cpus_per_node: int | None = Field(
        None,
        gt=0,
        description="CPU cores of each node; by default one for each process where there are no GPUs, else Slurm's.",
    )
    memory: int | None = Field(None, ge=0, description="Bytes of memory of each node, such as 500G; 0 is all of it.")
    exclusive: bool = Field(False, description="Whether nodes are shared with no other job.")
    sbatch: list[str] = Field(default_factory=list, description="More options of sbatch, such as --comment=thalweg.")

    def options(self) -> list[str]:
        """Those of sbatch, as they stand behind #SBATCH."""
        given = {
            "account": self.account,
            "partition": self.partition,
            "qos": self.qos,
            "constraint": self.constraint,
            "time": self.time and _written(self.time),
            "cpus-per-task": self.cpus_per_node,  # there is one task to a node
            "mem": None if self.memory is None else f"{math.ceil(self.memory / 2**20)}M",
        }
        named = [f"--{name}={shlex.quote(str(value))}" for name, value in given.items() if value is not None]
        return [*named, *(["--exclusive"] if self.exclusive else []), *self.sbatch]


class Site(Resources):
    """A cluster: a site.yaml. All of it is optional, and the options of `thalweg submit` win over it."""

    gpus_per_node: int = Field(0, ge=0, description="GPUs of each node, with a process for each.")
    gpu_type: str | None = Field(None, description="Slurm's name for them, where it has several, such as h100.")
    lead: Duration = Field(
        300,
        gt=0,
        description="So long before the limit a job is told to save, until the run's own checkpoints tell how long "
        "that takes; at most a third of the limit.",
    )
    requeue: bool = Field(
        True,
        description="Whether a job may go back to the queue, and goes there when it is preempted. Else a chain of jobs "
        "of one name does the same.",
    )
    chain: int = Field(10, gt=0, description="Jobs of that chain.")
    environment: list[str] = Field(
        default_factory=list,
        description="Lines of shell at the beginning of each job, such as `module load cuda/12.8`. $NAME is read in "
        "the job, ${NAME} when this file is.",
    )
    variables: list[str] = Field(
        default_factory=list,
        description="Environment variables that are handed on to the jobs besides a few, such as WANDB_API_KEY or "
        "NCCL_*. They are written to no file.",
    )
    scratch: str | None = Field(
        None,
        description="A folder on each node's own disk that is there when a job starts: temporary files and compiled "
        "kernels go there. May hold $SLURM_JOB_ID and the like.",
    )
    python: str | None = Field(
        None, description="The interpreter on the compute nodes; that of `thalweg submit` by default."
    )
    container: Container | None = Field(None, description="In which the processes run.")
    srun: list[str] = Field(default_factory=list, description="More arguments of srun.")
    prepare: Resources = Field(
        Resources(), description="What differs for jobs that prepare data, such as a partition without GPUs."
    )

    def gpu_options(self) -> list[str]:
        """Those of sbatch that ask for GPUs."""
        kind = f"{self.gpu_type}:" if self.gpu_type else ""
        return [f"--gpus-per-node={kind}{self.gpus_per_node}"] if self.gpus_per_node else []

    def for_prepare(self) -> Resources:
        """What a job that prepares data asks for: a whole node where nothing is said of cores."""
        own = {name: getattr(self, name) for name in Resources.model_fields}
        merged = own | {name: getattr(self.prepare, name) for name in self.prepare.model_fields_set}
        return Resources.model_construct(**merged | {"exclusive": merged["exclusive"] or not merged["cpus_per_node"]})


def _written(seconds: float) -> str:
    """As Slurm reads it; it counts in whole minutes."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 1440}-{minutes // 60 % 24:02}:{minutes % 60:02}:00"


def read_site(run: Path, given: dict[str, Any]) -> Site:
    """The site.yaml of the user, over it the one beside a RUN.yaml, and over both what was `given` as options.

    Each key is taken whole. Raises InputError with every mistake of a file.
    """
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = [path for path in (home / "thalweg" / FILE, run.parent / FILE) if path.is_file()]
    read = [validate(Site, read_yaml(path), path) for path in files]
    read.append(validate(Site, {key: value for key, value in given.items() if value is not None}, Path("options")))
    together = {name: getattr(each, name) for each in read for name in each.model_fields_set}
    return Site.model_construct(**{**dict(Site()), **together})
