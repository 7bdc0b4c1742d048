"""Runs whose processes share layers, against runs whose processes do not; tolerances are in layouts.py."""

import json
import shutil
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.opening import open_stream
from launcher.announce import announce
from launcher.config import RunConfig, load_run
from layouts import SHORT, WATCHED, assert_numbers_of_the_whole, assert_same, assert_watched_alike, split
from model.config import ModelConfig
from model.gpt import GPT
from processes import RUN, events, metrics, write_run, write_untrained
from ranks import thalweg
from training.building import fill, keep
from training.checkpoint import open_network
from training.parallel_config import ParallelConfig, Place
from training.state_files import StateFiles
from training.tensor_parallel import cut_of, split_layers


@pytest.mark.slow
def test_losses_and_gradients_of_every_kind_of_network_are_those_of_the_whole() -> None:
    assert_numbers_of_the_whole("tensor")


@pytest.mark.slow
def test_a_rank_computes_its_part_of_the_inner_width() -> None:
    for kind, found in split("tensor").items():
        assert found["shapes"] == [[3, 32, 32]] and found["inner"] == [[3, 32, 64]], kind  # of a width of 128
        whole, here = found["kept"]
        assert here < 0.7 * whole or kind in ("sinusoidal", "documents", "documents in bands"), kind  # computed again


@pytest.mark.parametrize("bias", [True, False])
def test_the_pieces_of_all_ranks_make_the_whole(bias: bool) -> None:
    config = ModelConfig(n_layer=2, n_head=4, d_model=32, n_ctx=16, vocab_size=64, qkv_bias=bias)
    whole = GPT(config)
    whole.initialise(0)
    for parameter in whole.parameters():  # biases too
        torch.nn.init.normal_(parameter)
    rebuilt = {name: torch.full_like(value, torch.nan) for name, value in whole.named_parameters()}
    numel = 0
    for rank in range(4):
        with torch.device("meta"):
            network = GPT(config)
        split_layers(network, Place(rank, 4, tensor=4))
        fill(network, ((name, value.detach().clone()) for name, value in whole.named_parameters()), keep)
        for name, piece in network.named_parameters():
            assert piece.untyped_storage().nbytes() == piece.nbytes, "it holds no more than it needs"
            view = cut_of(piece).view(rebuilt[name])
            view.copy_(piece.detach().view(view.shape))
        numel = sum(each.numel() for name, each in network.named_parameters() if name.startswith("blocks"))
    assert all(torch.equal(rebuilt[name], value) for name, value in whole.named_parameters())
    assert numel < 0.3 * sum(each.numel() for each in whole.blocks.parameters())


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_every_rank_has_a_place_of_its_own_and_shares_with_its_neighbours(data: int, seq: int, tensor: int) -> None:
    world = data * seq * tensor
    places = [ParallelConfig(sequence=seq, tensor=tensor).place(rank, world) for rank in range(world)]
    at = [(each.data_rank, each.sequence_rank, each.tensor_rank) for each in places]
    assert at == list(product(range(data), range(seq), range(tensor)))
    assert [each.data_rank for each in places if each.counts] == list(range(data)) == list(range(places[0].data_size))


LAYOUTS = [
    (0, "fp32", 2, 1), (1, "fp32", 4, 1), (2, "fp32", 2, 1), (3, "fp32", 4, 1), (0, "bf16", 4, 1), (1, "bf16", 2, 1),
    (2, "bf16", 4, 1), (3, "bf16", 2, 1), (1, "fp32", 4, 2), (3, "fp32", 4, 2),
]  # fmt: skip
"""ZeRO stage, precision, processes, and how many share a sequence; two share a layer."""


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "precision", "processes", "sequence"), LAYOUTS)
def test_a_run_is_that_of_one_process(alone: Path, stage: int, precision: str, processes: int, sequence: int) -> None:
    layout = ["parallel.tensor=2", f"parallel.sequence={sequence}", f"zero.stage={stage}"]
    more = ["train.activation_checkpointing=selective"] if stage in (0, 3) else ["drift.every_steps=2"]
    more += ["zero.offload_optimizer=cpu"] if stage == 2 else []
    name = f"{stage}-{precision}-{processes}-{sequence}"
    settings = ["--processes", processes, *layout, f"train.precision={precision}", *SHORT, *more, f"run_dir={name}"]
    _, said = thalweg("launch", alone / "run.yaml", *settings, cwd=alone)
    assert f"layout: {processes} processes are {processes // sequence // 2} data" in said
    assert "2 of a layer's 4 heads and 64 of its inner width of 128" in said
    assert_same(alone / name, alone / precision, precision)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "groups", "sequence"), [(0, 2, 1), (1, 1, 2), (2, 1, 1), (3, 2, 1)])
def test_a_run_is_watched_as_that_of_as_many_processes_as_it_has_groups(
    unshared: Path, stage: int, groups: int, sequence: int
) -> None:
    layout = ["--processes", 2 * groups * sequence, f"parallel={{tensor: 2, sequence: {sequence}}}"]
    settings = [*layout, f"zero.stage={stage}", *SHORT, *WATCHED, f"run_dir=stage{stage}"]
    thalweg("launch", unshared / "run.yaml", *settings, cwd=unshared)
    assert_watched_alike(unshared / f"stage{stage}", unshared / f"groups{groups}")


@pytest.mark.slow
def test_a_checkpoint_goes_on_in_any_other_layout(alone: Path) -> None:
    layouts = [(4, 2, 1, 3, 240), (1, 1, 1, 1, 400), (4, 4, 1, 2, 480), (2, 2, 1, 0, 560), (4, 2, 2, 1, 640)]
    for processes, tensor, sequence, stage, tokens in [*layouts, (3, 1, 1, 3, 800)]:
        layout = [f"parallel={{tensor: {tensor}, sequence: {sequence}}}", f"zero.stage={stage}"]
        settings = ["--processes", processes, *layout, *SHORT, f"train.tokens={tokens}", "run_dir=moved"]
        _, said = thalweg("launch", alone / "run.yaml", *settings, cwd=alone)
    assert "parallel.tensor: 2 -> 1" in said and "processes: 4 -> 3" in said
    assert [each["step"] for each in events(alone / "moved") if each["event"] == "resume"] == [3, 5, 6, 7, 8]
    assert_same(alone / "moved", alone / "fp32", "fp32")


@pytest.mark.slow
def test_a_checkpoint_of_pieces_is_a_network_to_everyone(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    settings = [*SHORT, "train.tokens=160", "zero.stage=1"]
    thalweg("train", run, *settings, "run_dir=one", cwd=tmp_path)
    samples = "samples={every_tokens: 160, prompts: [a], max_tokens: 8, seed: 1}"
    shared = ["--processes", 4, "parallel.tensor=4", samples, "run_dir=shared"]
    thalweg("launch", run, *settings, *shared, cwd=tmp_path)
    one, other = (open_network(tmp_path / name / "checkpoints/step-0000002") for name in ("one", "shared"))
    for (name, value), same in zip(one.named_parameters(), other.parameters(), strict=True):
        # AdamW's first steps go by the sign of a gradient, however near to zero that is.
        assert (value - same).norm() <= 0.01 * value.norm(), name
    (sample,) = (json.loads(line) for line in (tmp_path / "shared/samples.jsonl").read_text().splitlines())
    asked = ["--prompt", "a", "--max-tokens", 8, "--seed", 1]
    written, _ = thalweg("generate", "shared@latest", *asked, cwd=tmp_path)
    assert sample["text"] and sample["text"] in written
    held = StateFiles(tmp_path / "shared/checkpoints/step-0000002/weights")
    assert held.shapes["blocks.0.attention.out.weight"] == (32, 32)


@pytest.mark.slow
def test_a_run_begins_from_given_weights_in_compiled_pieces(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_untrained(tmp_path / "given", run, seed=5)
    settings = ["train.init_from=given", "train.tokens=400"]
    thalweg("train", run, *settings, "run_dir=one", cwd=tmp_path)
    compiled = ["train.compile=true"] if shutil.which("g++") else []
    thalweg("launch", run, *settings, "--processes", 2, "parallel.tensor=2", *compiled, "run_dir=two", cwd=tmp_path)
    one, two = ([line["loss"] for line in metrics(tmp_path / name)] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-5) and len(one) == 5


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"parallel": {"tensor": 4}}, r"parallel.tensor 4 does not divide model.n_head 2, .* take 2"),
        ({"parallel": {"tensor": 2}, "model": RUN["model"] | {"d_ff": 63}}, r"model.d_ff 63, .* take 1"),
        (
            {"parallel": {"tensor": 2, "sequence": 2}},
            r"sequence 2 times parallel.tensor 2 does not divide model.n_head 2",
        ),
        (
            {"parallel": {"tensor": 2}, "zero": {"stage": 3, "hpz_partition_size": 2}},
            r"zero.hpz_partition_size does not go with parallel.tensor",
        ),
        (
            {"parallel": {"tensor": 2}, "zero": {"stage": 3, "offload_optimizer": "nvme", "nvme_path": "disk"}},
            r"zero: nvme does not go with parallel.tensor",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(changed: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RunConfig.model_validate(RUN | changed)


def test_a_number_of_processes_that_cannot_share_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    _, said = thalweg("launch", run, "--processes", 3, "parallel.tensor=2", cwd=tmp_path, code=2)
    assert said.count("\n") == 1 and "parallel.tensor 2 does not divide the 3 processes; start 2 or 4" in said


def test_sharing_across_machines_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_run(write_run(tmp_path), ["parallel.tensor=2", f"data.path={tmp_path / 'prepared'}"])
    with closing(open_stream(config.data, config.seed, config.model.n_ctx)) as stream:
        for there, warned in ((3, True), (2, False)):
            monkeypatch.setenv("LOCAL_WORLD_SIZE", str(there))
            caplog.clear()
            announce(config, stream, 6, last_position=100)
            assert ("2 processes share, and a machine has 3: some" in caplog.text) == warned
