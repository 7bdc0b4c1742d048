"""Starts the real command line in processes of its own and ends all that it started."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from folder import write_folder

VOCAB_SIZE = 257
RUN = {
    "name": "t",
    "model": {"n_layer": 2, "n_head": 2, "d_model": 32, "n_ctx": 16, "vocab_size": VOCAB_SIZE},
    "data": {"path": "prepared", "mixture": {"a": 0.6, "b": 0.3, "c": 0.1}},
    "train": {"tokens": 1600, "batch_tokens": 80, "micro_batch": 2, "lr": 3e-3, "precision": "fp32"},
    "zero": {"stage": 1},
    "checkpoint": {"every": None},
}
"""Twenty steps of five sequences."""


def write_run(folder: Path) -> Path:
    """A prepared folder and a RUN.yaml that trains on it."""
    (folder / "prepared").mkdir(parents=True)
    vocabulary = {byte: at for at, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary | {"<|endoftext|>": 256}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    shards = {"a": [4000, 3000], "b": [2000], "c": [500]}
    write_folder(folder / "prepared", shards, VOCAB_SIZE, validation=400, tokenizer=tokenizer.to_str())
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return path


def write_untrained(folder: Path, run: Path, seed: int) -> None:
    """A checkpoint that holds weights alone, as `thalweg import` writes it, of a network that was never trained."""
    from model.config import ModelConfig
    from model.gpt import GPT
    from training.checkpoint import write_weights_only

    folder.mkdir()
    model = ModelConfig.model_validate(RUN["model"])
    network = GPT(model)
    network.initialise(seed)
    tokenizer = (run.parent / "prepared" / "tokenizer.json").read_text(encoding="utf-8")
    write_weights_only(folder, model, network.named_parameters(), tokenizer)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", "launcher.cli", *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return kept | {"OMP_NUM_THREADS": "1"} | variables


@contextlib.contextmanager
def started(*arguments: object, cwd: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, all of which is killed at the end."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill(process)
        process.communicate()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Returns once `condition` holds. Fails if the process ends before."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.0005)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for a command and all that it started, at once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        started_by_it = psutil.Process(process.pid).children(recursive=True)
        for each in (*started_by_it, process):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                each.kill()


def thalweg(*arguments: object, cwd: Path, code: int = 0, **variables: str) -> tuple[str, str]:
    """Runs a command to its end; stdout and stderr of it. Fails unless it exits with `code`."""
    with started(*arguments, cwd=cwd, **variables) as process:
        out, err = process.communicate()
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
        return out, err


def metrics(run_dir: Path) -> list[dict]:
    return whole_lines(run_dir / "metrics.jsonl")


def events(run_dir: Path) -> list[dict]:
    return whole_lines(run_dir / "events.jsonl")


def whole_lines(path: Path) -> list[dict]:
    """The objects of a file that may be written to at this time."""
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
