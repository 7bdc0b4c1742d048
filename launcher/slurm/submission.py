"""What was submitted, written down in the run folder: the job's own account of what it may do and with what."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from data_pipeline.durable import write_whole
from data_pipeline.errors import InputError

FOLDER = "slurm"
"""In the run folder: the submission, the scripts and what the jobs print."""


@dataclass(frozen=True)
class Submission:
    """Read by the job at the start of each life. All paths are absolute."""

    run_dir: str
    submitted: float
    """Seconds since 1970; tells the lives of one submission from those of another."""
    name: str
    """Of its jobs, of which one runs at a time; those that prepare data end in `-prepare`."""
    snapshot: str
    """Folder of the code that the job runs."""
    config: str
    """The resolved configuration in the snapshot."""
    python: str
    nodes: tuple[int, int]
    """Fewest and most nodes of a life."""
    processes_per_node: int
    lead: int
    """Seconds before the time limit at which Slurm sends SIGUSR1."""
    requeue: bool
    """Whether the job may go back to the queue; else a chain of jobs of one name stands in it already."""
    failures: int
    """So many lives in a row that fail without a new checkpoint end the run."""
    preflight: bool
    srun: tuple[str, ...] = ()
    """More arguments of srun, such as those of a container."""
    wrapper: tuple[str, ...] = ()
    """A command that the processes are started with, such as `apptainer exec image`."""
    interrupts: tuple[int, ...] = ()
    """Steps at which lives, one after the other, have Slurm interrupt them, to try that: `submit --verify-resume`."""

    def write(self) -> Path:
        """Writes it into the run folder and returns where."""
        path = Path(self.run_dir) / FOLDER / "submission.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(self), indent=1) + "\n")
        return path


def read_submission(run_dir: Path) -> Submission:
    """Raises InputError where the run was not submitted, or by another version of this package."""
    path = run_dir / FOLDER / "submission.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: is missing; the run was not submitted by `thalweg submit`") from None
    if set(told) != {each.name for each in fields(Submission)}:
        raise InputError(f"{path}: was written by another version of this package; submit the run again")
    values: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in told.items()}
    return Submission(**values)
