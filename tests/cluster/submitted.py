"""Runs that are submitted to the Slurm of the tests."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml

from hosts import words_of
from processes import command, environment, events, metrics, write_run
from slurm import Slurm

LONG = ["train.tokens=100M", "train.decay_tokens=100M", "checkpoint.every_tokens=800", "metrics.every_steps=1"]

PACED = ["train.tokens=3200", "train.decay_tokens=3200", "checkpoint.every_tokens=800", "metrics.every_steps=1"]
"""Forty steps with a checkpoint every ten, for runs that are `paced`."""
PACE = """
import time
from training import loop

step = loop._step

def paced(*arguments):
    time.sleep(0.2)
    return step(*arguments)

loop._step = paced
"""

UNSAVED = "checkpoint.every_tokens=null"
"""For one that saves at its end alone."""


class Submitted:
    """A run folder and the job that trains it."""

    def __init__(self, slurm: Slurm, folder: Path) -> None:
        self.slurm, self.folder = slurm, folder
        self.config = write_run(folder)
        self.run_dir = folder / "runs" / "t"
        self.job = 0

    def set(self, **sections: object) -> None:
        """Changes sections of RUN.yaml."""
        told = yaml.safe_load(self.config.read_text())
        self.config.write_text(yaml.safe_dump(told | sections))

    def patch(self, code: str) -> None:
        """Has each rank run `code` before all else."""
        folder = self.folder / "patched"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(f'import os\nif "RANK" in os.environ:\n    exec({code!r})\n')
        lines = [f"export PYTHONPATH={folder}", "export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=5"]
        (self.folder / "site.yaml").write_text(yaml.safe_dump({"environment": lines}))

    def rank_on(self, node: str) -> psutil.Process:
        """The process that trains there."""
        [rank] = [each for each in self.processes(node) if "launcher.cli" in words_of(each)]
        return rank

    def processes(self, node: str, word: str = "launcher.") -> list[psutil.Process]:
        """All that run code of ours there, or those with a certain word in their command line."""
        found = self.slurm.hosts.processes(node)
        return [each for each in found if any(part.startswith(word) for part in words_of(each))]

    def thalweg(self, *arguments: object, **options: object) -> str:
        """What a command prints that a user gives on ctl."""
        kept = environment(TORCH_ELASTIC_SHUTDOWN_TIMEOUT="5", PATH=os.environ["PATH"])
        return self.slurm.run(*command(*arguments), env=kept, cwd=self.folder, **options)

    def submit(self, *arguments: object, nodes: object = 2, preflight: bool = False) -> int:
        """Submits it, without the pre-flight unless that is what is tested: it takes a quarter of a minute."""
        options = ["--nodes", nodes, *([] if preflight else ["--no-preflight"])]
        said = self.thalweg("submit", self.config, *options, *arguments)
        self.job = int(re.findall(r"train: job (\d+)", said)[0])
        return self.job

    def events(self, *kinds: str) -> list[dict]:
        """Those of some kinds, or all."""
        told = events(self.run_dir) if (self.run_dir / "events.jsonl").exists() else []
        return [each for each in told if not kinds or each["event"] in kinds]

    @property
    def step(self) -> int:
        """The last step that is in the metrics."""
        lines = metrics(self.run_dir) if (self.run_dir / "metrics.jsonl").exists() else []
        return lines[-1]["step"] if lines else 0

    def wait_for_step(self, step: int) -> None:
        """Waits until that many steps are done."""
        self.wait_for(f"step {step}", lambda: self.step >= step)

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        """Fails with what the job printed where it ends before."""
        self.slurm.wait_for(what, condition, self.job)

    def wait_for_end(self, *states: str) -> None:
        """Waits until the job is over."""
        self.slurm.wait_for_state(self.job, *(states or ("COMPLETED",)))

    def data_of(self, steps: int) -> list[tuple[int, str]]:
        """Step and running hash of the data of each step, the last life's word for one that was done twice."""
        lines = {line["step"]: line["data_hash"] for line in metrics(self.run_dir)}
        return [(step, lines[step]) for step in range(1, steps + 1)]

    def reasons(self) -> list[tuple[str, str]]:
        """What became of each life, and why."""
        return [(each["then"], each["reason"]) for each in self.events("life_end")]
