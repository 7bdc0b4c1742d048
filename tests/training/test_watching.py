"""What only watches a run, against plain computations from the checkpoint of the step that it watched.

Each layout is one run of `thalweg launch` whose last step is measured. Relative tolerances: gradient norms 1e-5, since
gradients are reduced in fp32 at either precision; attention logits and held-out losses 1e-5 in fp32 and 2e-2 in bf16
(8 bits of each activation). Samples are equal to the letter: they are taken from the fp32 weights at either precision.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipeline.errors import InputError
from data_pipeline.loader import Loader
from data_pipeline.opening import open_stream
from data_pipeline.stream import Stream, StreamState
from launcher.config import RunConfig, load_run
from launcher.generate import Sampling, write
from model import attention
from model.config import ModelConfig
from model.gpt import GPT
from model.objective import task
from processes import RUN, metrics, write_run
from ranks import thalweg
from training import checkpoint
from training.batch_ramp import batches
from training.layer_norms import layer_of
from training.state_files import StateFiles

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}
NORM_TOLERANCE = 1e-5
PROMPTS = ["ab", "", "die Straße", "x" * 20]
HELD_OUT = 80
"""Tokens of each source: five windows, dealt to no number of processes evenly."""

BANDED = {
    "attention": "alternating",
    "band": 5,
    "position": "rotary",
    "document_mask": True,
    "end_of_text": 256,
    "mup_base_width": 16,
}

LAYOUTS = [
    (1, 0, "fp32"),
    (2, 1, "fp32"),
    (2, 2, "fp32"),
    (3, 3, "fp32"),
    (3, 1, "bf16"),
    (1, 3, "bf16"),
]


def write_large_weights(folder: Path, **fields: Any) -> None:
    """A checkpoint to begin from, whose texts and logits are less dull than those of a new network."""
    config = ModelConfig.model_validate(RUN["model"] | fields)
    network = GPT(config)
    network.initialise(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(6)
        network.token_embedding.weight[0] = 2 * _most_attentive(network)
    tokenizer = (folder / "prepared" / "tokenizer.json").read_text()
    (folder / "large").mkdir()
    checkpoint.write_weights_only(folder / "large", config, network.named_parameters(), tokenizer)


def _most_attentive(network: GPT) -> Tensor:
    """What attends to itself more than anything else in the first block.

    Token 0 fills up forwards, and is nowhere else in the last batch: it must not be heard.
    """
    width, centred = network.config.d_model, torch.eye(network.config.d_model) - 1 / network.config.d_model
    q, k, _ = network.blocks[0].attention.qkv.weight.view(3, network.config.n_head, -1, width)[:, 0]
    product = centred @ q.T @ k @ centred
    values, vectors = torch.linalg.eigh((product + product.T) / 2)
    return vectors[:, values.abs().argmax()]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = write_run(tmp_path)
    write_large_weights(tmp_path)
    return path


def watching() -> list[str]:
    return [
        "layers.every_steps=2",
        "samples.every_tokens=240",
        f"samples.prompts={json.dumps(PROMPTS)}",
        "samples.temperature=0",
        "samples.max_tokens=24",
        "validation.every_tokens=160",
        f"validation.tokens_per_source={HELD_OUT}",
    ]


def launch(run: Path, processes: int, stage: int, precision: str, *options: str) -> Path:
    """Four steps. Without its first moment AdamW keeps the last step's gradient, and the checkpoint holds it."""
    name = f"run-{len(list(run.parent.iterdir()))}"
    layout = ["--processes", processes, f"zero.stage={stage}", f"train.precision={precision}", f"run_dir={name}"]
    begin = ["seed=1236", "train.tokens=320", "train.init_from=large", "train.betas=[0,0.95]", "train.grad_clip=0.25"]
    thalweg("launch", run, *layout, *begin, *options, cwd=run.parent)
    return run.parent / name


class Plain:
    """What a run of one process without an engine has at hand behind the last step of `run_dir`."""

    def __init__(self, run_dir: Path) -> None:
        self.folder = checkpoint.find(f"{run_dir}@latest")
        self.network = checkpoint.open_network(self.folder)
        self.config: RunConfig = load_run(run_dir / "config.yaml")
        self.stream: Stream = open_stream(self.config.data, self.config.seed, self.config.model.n_ctx, 0, 1)
        self.lines = metrics(run_dir)

    def last_batch(self) -> Tensor:
        """Tokens [N, T + 1] of the last step's global batch."""
        sizes = batches(self.config.train, self.config.model.n_ctx, 0)
        loader = Loader(self.stream, StreamState(), sizes, 8, 0, 1)
        for _ in self.lines:
            batch = next(loader)
        loader.close()
        (micro,) = batch.micro_batches
        return micro.tokens[: batch.sequences].long()

    def gradient_norms(self) -> dict[str, float]:
        """Of the last step's clipped gradient."""
        squares: dict[str, float] = {}
        for name, value in StateFiles(self.folder / "moments").tensors():
            moment, parameter = name.split("/")
            if moment == "exp_avg":
                layer = layer_of(parameter)
                squares[layer] = squares.get(layer, 0.0) + float(value.double().square().sum())
        return {layer: square**0.5 for layer, square in squares.items()}

    @torch.no_grad()
    def attention_logits(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
        """All of them, in fp64."""
        largest, attend = [], attention.attend

        def watched(q: Tensor, k: Tensor, v: Tensor, seen: Any) -> Tensor:
            scores = (q @ k.transpose(-1, -2)).abs() / math.sqrt(q.shape[-1])
            largest.append(float(scores.masked_fill(~seen.mask(q.shape[-2], q.device), 0.0).max()))
            return attend(q, k, v, seen)

        monkeypatch.setattr(attention, "attend", watched)
        tokens = self.last_batch()[:, :-1]
        assert not (tokens == 0).any()
        self.network.double().logits(tokens)
        self.network.float()
        monkeypatch.undo()
        return {f"blocks.{layer}": each for layer, each in enumerate(largest)}

    @torch.no_grad()
    def held_out_losses(self) -> dict[str, float]:
        losses = {}
        for source in self.stream.held_out:
            windows = min(HELD_OUT // self.config.model.n_ctx, source.windows)
            tokens = np.zeros((windows, self.config.model.n_ctx + 1), dtype=np.int64)
            source.read(np.arange(windows), tokens, np.arange(windows))
            _, each = self.network(*task(self.network.config, torch.from_numpy(tokens), 0, range(windows)))
            losses[source.name] = float(each.double().mean())
        return losses


def samples(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "samples.jsonl").read_text().splitlines()]


def assert_watched(run_dir: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Plain(run_dir)
    assert [line["step"] for line in plain.lines if "grad_norm_by_layer" in line] == [2, 4]
    assert [line["step"] for line in plain.lines if "attention_logit_max_by_layer" in line] == [2, 4]
    for line in plain.lines[1::2]:
        summed = sum(norm**2 for norm in line["grad_norm_by_layer"].values()) ** 0.5
        assert summed == pytest.approx(line["grad_norm"], rel=NORM_TOLERANCE)
    last = plain.lines[-1]
    clipped = min(1.0, 0.25 / (last["grad_norm"] + 1e-6))
    assert clipped < 0.9
    norms = {layer: norm * clipped for layer, norm in last["grad_norm_by_layer"].items()}
    assert norms == pytest.approx(plain.gradient_norms(), rel=NORM_TOLERANCE)
    tolerance = TOLERANCE[precision]
    logits = plain.attention_logits(monkeypatch)
    assert last["attention_logit_max_by_layer"] == pytest.approx(logits, rel=tolerance) and len(logits) == 2
    assert last["validation_loss_by_source"] == pytest.approx(plain.held_out_losses(), rel=tolerance)
    lines = samples(run_dir)
    assert [(line["step"], line["tokens"]) for line in lines] == [(3, 240)] * 4 + [(4, 320)] * 4
    texts = write(f"{run_dir}@4", PROMPTS, 24, Sampling(temperature=0))
    assert [(each.prompt, each.text, each.tokens, each.ended) for each in texts] == [
        (line["prompt"], line["text"], line["text_tokens"], line["ended"]) for line in lines[4:]
    ]
    assert len({text for line in lines for text in line["text"]}) > 5


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "stage", "precision"), LAYOUTS)
def test_every_layout_is_watched_as_it_is(
    run: Path, processes: int, stage: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_watched(launch(run, processes, stage, precision, *watching()), precision, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "precision"), [(0, "bf16"), (3, "fp32")])
def test_a_run_that_is_watched_trains_as_it_would_without(
    run: Path, stage: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, alone = launch(run, 2, stage, precision, *watching()), launch(run, 2, stage, precision)
    assert_watched(watched, precision, monkeypatch)
    losses = [[(line["loss"], line["grad_norm"]) for line in metrics(each)] for each in (watched, alone)]
    assert losses[0] == losses[1]
    weights = [dict(checkpoint.read_weights(checkpoint.find(f"{each}@latest"))) for each in (watched, alone)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not (alone / "samples.jsonl").exists()
    assert not [key for line in metrics(alone) for key in line if key.endswith("by_layer")]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "sequence"), [(2, 1), (4, 2)])
def test_bands_documents_rotations_and_mup_are_heeded(
    tmp_path: Path, processes: int, sequence: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path)
    write_large_weights(tmp_path, **BANDED)
    model = [f"model.{key}={json.dumps(value)}" for key, value in BANDED.items()]
    options = [*model, "train.activation_checkpointing=1", "train.micro_batch=1", f"parallel.sequence={sequence}"]
    assert_watched(launch(run, processes, 1, "fp32", *options, *watching()), "fp32", monkeypatch)


@pytest.mark.slow
def test_drawn_samples_are_those_of_thalweg_generate_and_go_on_after_a_resume(run: Path) -> None:
    drawing = ["samples.every_tokens=240", 'samples.prompts=["ab"]', "samples.max_tokens=12", "samples.seed=3"]
    options = [*drawing, "samples.temperature=0.8", "samples.top_p=0.9", "train.init_from=large", "run_dir=drawn"]
    thalweg("train", run, *options, "train.tokens=240", cwd=run.parent)
    thalweg("train", run, *options, "train.tokens=320", cwd=run.parent)
    lines = samples(run.parent / "drawn")
    assert [(line["life"], line["step"]) for line in lines] == [(1, 3), (2, 4)]
    asked = ["--prompt", "ab", "--max-tokens", 12, "--temperature", 0.8, "--top-p", 0.9, "--seed", 3]
    for line in lines:
        printed, _ = thalweg("generate", f"drawn@{line['step']}", *asked, cwd=run.parent)
        assert printed.removesuffix("\n") == line["prompt"] + line["text"]


def test_samples_need_prompts_and_tokens_and_a_network_that_writes(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    for options, words in {
        ("samples.every_tokens=1k",): "samples: every_tokens needs prompts to continue",
        ('samples.prompts=["a"]',): "samples: prompts does nothing without every_tokens",
        (
            'samples.prompts=["a"]',
            "samples.every_tokens=1k",
            "samples.temperature=0",
            "samples.seed=1",
        ): "draws nothing",
        ('samples.prompts=["a"]', "samples.every_tokens=1k", "model.objective=denoise"): "writes no text",
    }.items():
        with pytest.raises(InputError, match=words):
            load_run(run, list(options))
    config = load_run(run, ['samples.prompts=["a", ""]', "samples.every_tokens=1k"])
    (tmp_path / "again.yaml").write_text(config.dump())
    assert load_run(tmp_path / "again.yaml").samples == config.samples
