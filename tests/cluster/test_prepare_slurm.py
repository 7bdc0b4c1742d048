"""Preparing by arrays of jobs on a real Slurm: the same bytes as on one machine, whatever happens on the way."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from corpora import contents, pages_warc, prose
from data_pipeline.config import Recipe
from data_pipeline.prepare import prepare
from hosts import started_inside, words_of
from processes import command
from slurm import Slurm
from whole_recipe import made, made_up

pytestmark = pytest.mark.slow

HELD = """
import os, time
held = os.environ.get("SLURM_ARRAY_TASK_ID") == "1" or os.environ.get("SLURM_ARRAY_TASK_COUNT") == "1"
while held and os.path.exists({hold!r}):
    time.sleep(0.1)
"""
"""For the second job of an array, or the only one, at its start: waits while a file is there."""


class Preparing:
    """`thalweg prepare --executor slurm` of three files of pages, twins of each other, and one of rows, into `out`."""

    def __init__(self, slurm: Slurm, folder: Path) -> None:
        self.slurm, self.folder, self.out = slurm, folder, folder / "made on nodes"
        self.pages = [pages_warc(folder / f"{n}.warc.gz", 20) for n in range(3)]
        (folder / "rows.jsonl").write_text("".join(json.dumps({"text": prose(n)}) + "\n" for n in range(50)))
        self.recipe: dict[str, Any] = {
            "tokenizer": {"train": {"vocab_size": 400}},
            "shard_tokens": 2000,
            "deduplicate": {},
            "sources": {
                "web": {"kind": "warc", "paths": [f"{folder}/*.warc.gz"]},
                "rows": {"kind": "jsonl", "paths": [f"{folder}/rows.jsonl"]},
            },
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(self.recipe, sort_keys=False))
        (folder / "site.yaml").write_text(yaml.safe_dump({"partition": "main", "memory": "60G", "time": "1h"}))
        self.hold = folder / "hold"
        (folder / "patched").mkdir()
        (folder / "patched" / "sitecustomize.py").write_text(HELD.format(hold=str(self.hold)))

    @property
    def command(self) -> list[str]:
        return command("prepare", "recipe.yaml", "--out", self.out, "--executor", "slurm", "--memory", "1G")

    @property
    def environment(self) -> dict[str, str]:
        paths = [str(self.folder / "patched"), *filter(None, [os.environ.get("PYTHONPATH")])]
        return dict(os.environ) | self.slurm.environment | {"PYTHONPATH": os.pathsep.join(paths)}

    def run(self) -> "subprocess.CompletedProcess[str]":
        """To its end, whatever that is."""
        return self.slurm.hosts.run("ctl", self.command, cwd=self.folder, env=self.environment, check=False)

    def start(self) -> "subprocess.Popen[str]":
        return self.slurm.hosts.popen(
            "ctl", self.command, cwd=self.folder, env=self.environment, stderr=subprocess.PIPE
        )

    def held(self) -> psutil.Process | None:
        """The process of the job that waits, once there is nothing else to do."""
        done = len(list(self.out.glob(".work/read/completions/*")))
        jobs = [each for node in self.slurm.nodes for each in self.slurm.hosts.processes(node) if _is_a_job(each)]
        return jobs[0] if done == 3 and len(jobs) == 1 else None

    def wait_until_held(self) -> psutil.Process:
        found = self.slurm.wait_for("the second job alone is left", self.held)
        assert found is not None
        return found

    def expected(self) -> dict[str, bytes]:
        """What one process of this machine makes."""
        prepare(Recipe.model_validate(self.recipe), self.folder / "here", workers=1)
        return contents(self.folder / "here")


def _is_a_job(process: psutil.Process) -> bool:
    return "datatrove.tools.launch_pickled_pipeline" in words_of(process)


@pytest.fixture
def preparing(slurm: Slurm, tmp_path: Path) -> Preparing:
    return Preparing(slurm, tmp_path)


def test_the_same_bytes_though_a_job_is_killed(preparing: Preparing) -> None:
    preparing.hold.touch()
    started = preparing.start()
    job = preparing.wait_until_held()
    preparing.hold.unlink()
    job.kill()
    _, said = started.communicate()
    assert started.returncode == 0, said
    assert "1 task ended without a word" in said and "Traceback" not in said
    assert contents(preparing.out) == preparing.expected()


def test_a_bad_file_is_one_line_and_another_engine_goes_on(preparing: Preparing) -> None:
    whole = preparing.pages[2].read_bytes()
    preparing.pages[2].write_bytes(whole[:-20])
    ended = preparing.run()
    assert ended.returncode == 2
    assert f"{preparing.pages[2]}: breaks off at byte" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr and not preparing.slurm.run("squeue", "--noheader")
    read = preparing.out / ".work" / "documents" / "web" / "00000.jsonl.zst"
    made = read.stat().st_mtime_ns
    preparing.pages[2].write_bytes(whole[:-30])
    assert "breaks off at byte" in preparing.run().stderr and read.stat().st_mtime_ns == made
    preparing.pages[2].write_bytes(whole)
    prepare(Recipe.model_validate(preparing.recipe), preparing.out, workers=2)
    assert contents(preparing.out) == preparing.expected()


def test_what_was_interrupted_leaves_nothing_in_the_queue(preparing: Preparing) -> None:
    """Nor does a call that was killed, once it is given again."""
    preparing.hold.touch()
    killed = preparing.start()
    lost = preparing.wait_until_held()
    started_inside(killed).kill()
    killed.communicate()
    again = preparing.start()
    preparing.slurm.wait_for("the first job is gone", lambda: not lost.is_running())
    preparing.wait_until_held()
    started_inside(again).send_signal(signal.SIGINT)
    _, said = again.communicate()
    assert again.returncode == 130 and "taken out of the queue" in said, said
    preparing.slurm.wait_for("an empty queue", lambda: not preparing.slurm.run("squeue", "--noheader"))
    preparing.hold.unlink()
    assert preparing.run().returncode == 0
    assert contents(preparing.out) == preparing.expected()


def test_the_whole_recipe_has_the_bytes_of_one_machine(slurm: Slurm, tmp_path: Path) -> None:
    """Links, the quality filter, deduplication and decontamination, too."""
    asked = made(made_up(tmp_path / "corpora"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(asked.model_dump(mode="json", exclude_defaults=True)))
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"partition": "main", "time": "1h"}))
    words = command("prepare", "recipe.yaml", "--out", "made", "--executor", "slurm", "--memory", "1G")
    ended = slurm.hosts.run("ctl", words, cwd=tmp_path, env=dict(os.environ) | slurm.environment, check=False)
    assert ended.returncode == 0, ended.stderr
    prepare(asked, tmp_path / "here", 2)
    assert contents(tmp_path / "made") == contents(tmp_path / "here")
