"""The whole way on this machine: prepare the sample, train, stop, resume, generate.

Run by `make smoke`. Prints the table of loss and share per source, generated text and the path of the metrics,
and fails unless the loss is clearly below that of a unigram model of the same tokens.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from data_pipeline.manifest import Manifest
from data_pipeline.shards import token_type
from launcher.config import load_run

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "smoke.yaml"
CLEARLY_BELOW = 0.5
"""Nats per token."""


def thalweg(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("thalweg")), *arguments]


def step(what: str) -> None:
    print(f"\n== {what}", flush=True)


def train_until_a_checkpoint(run_dir: Path) -> None:
    """Trains, and asks the launcher to end as soon as a checkpoint is complete."""
    process = subprocess.Popen(thalweg("launch", str(CONFIG), "--processes", "2"))
    try:
        while not (run_dir / "checkpoints" / "latest").exists():
            if process.poll() is not None:
                sys.exit(f"smoke: training ended by itself with exit code {process.returncode}")
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        process.wait()
    finally:
        process.kill()


def unigram_loss(folder: Path, shares: dict[str, float]) -> float:
    """Cross-entropy in nats per token of the best model that knows frequencies alone, on this mixture."""
    manifest = Manifest.load(folder)[0]
    size = manifest.tokenizer.vocab_size
    mixed = np.zeros(size)
    for name, share in shares.items():
        counts = np.zeros(size)
        for shard in manifest.sources[name].splits["train"]:
            tokens = np.fromfile(folder / f"{shard.name}.tokens", token_type(size))
            counts += np.bincount(tokens, minlength=size)
        mixed += share / sum(shares.values()) * counts / counts.sum()
    mixed = mixed[mixed > 0]
    return float(-(mixed * np.log(mixed)).sum())


def main() -> None:
    config = load_run(CONFIG)
    for made_before in (config.folder, config.data.folder):
        shutil.rmtree(made_before, ignore_errors=True)
    step("prepare: text of this machine as WARC, MediaWiki dump and books, to token shards")
    subprocess.run(thalweg("prepare", str(config.data.prepare), "--out", str(config.data.folder)), check=True)
    step("train: 2 processes, ZeRO-1, stopped after the first checkpoint")
    train_until_a_checkpoint(config.folder)
    step("resume: the same command again")
    subprocess.run(thalweg("launch", str(CONFIG), "--processes", "2"), check=True)
    step("generate")
    checkpoint, prompt = f"{config.folder}@latest", "The function returns"
    subprocess.run(
        thalweg("generate", checkpoint, "--prompt", prompt, "--max-tokens", "60", "--top-p", "0.9"), check=True
    )
    metrics = config.folder / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    events = [json.loads(line) for line in (config.folder / "events.jsonl").read_text().splitlines()]
    resumed = [each for each in events if each["event"] == "resume" and each["step"] > 0]
    if not resumed or events[-1]["event"] != "end" or lines[-1]["tokens"] < config.train.tokens:
        sys.exit("smoke: the run was not resumed from its checkpoint and finished")
    loss = sum(line["loss"] for line in lines[-10:]) / 10
    unigram = unigram_loss(config.data.folder, config.data.mixture)
    step(f"loss {loss:.2f} nats per token; a unigram model of the same tokens has {unigram:.2f}")
    print(f"metrics: {metrics}")
    if loss > unigram - CLEARLY_BELOW:
        sys.exit(f"smoke: the loss is not {CLEARLY_BELOW} below that of a unigram model")


if __name__ == "__main__":
    main()
