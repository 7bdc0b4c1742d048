"""Talking to Slurm: what stands in the queue, and putting something there."""

import fnmatch
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from data_pipeline.errors import InputError
from training.errors import RunError

HANDED_ON = (
    *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH"),
    "SLURM_CONF",
)
"""Variables that every job gets. SBATCH_* are none of them: they would win over what the script says."""


def check_installed() -> None:
    """Raises InputError where there is no Slurm."""
    for program in ("sbatch", "squeue", "scancel"):
        if shutil.which(program) is None:
            raise InputError(
                f"{program}: is not on this machine; submit from a login node of the cluster, or give --dry-run to "
                "see the script"
            )


def queued(*names: str, only_waiting: bool = False) -> list[str]:
    """The ids of the jobs of these names that wait, or run as well.

    A job that goes back to the queue waits already while its processes end.
    """
    states = ["--states=PENDING,COMPLETING"] if only_waiting else []
    command = ["squeue", "--noheader", f"--name={','.join(names)}", *states, "--format=%A"]
    return sorted(set(_run(command, "the queue").split()))


def submit(script: Path, dependency: str | None, variables: list[str]) -> str:
    """Puts a script into the queue and returns the job's id. Of the environment it is shown what is named."""
    waits = [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"] if dependency else []
    names = [name for name in os.environ if any(fnmatch.fnmatchcase(name, each) for each in (*HANDED_ON, *variables))]
    told = _run(["sbatch", "--parsable", *waits, str(script)], str(script), {name: os.environ[name] for name in names})
    return told.strip().splitlines()[-1].partition(";")[0]  # id;cluster


def cancel(jobs: list[str]) -> None:
    """Takes jobs out of the queue. Raises RunError where Slurm refuses."""
    _run(["scancel", *jobs], f"job {', '.join(jobs)}")


def note(folder: Path, kind: str, job: str) -> None:
    """Appends to jobs.jsonl what was submitted."""
    with (folder / "jobs.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time(), "job": job, "kind": kind}) + "\n")


def _run(command: list[str], what: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        lines = [line.removeprefix(f"{command[0]}: error: ").strip() for line in done.stderr.splitlines()]
        said = "; ".join(line for line in lines if line) or f"exit code {done.returncode}"
        raise RunError(f"{what}: {command[0]} failed: {said}")
    return done.stdout
