"""The `zero:` section: what is refused, and the dictionary that DeepSpeed gets."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from data_pipeline.errors import InputError
from launcher.config import load_run
from processes import write_run
from ranks import thalweg
from training.deepspeed_config import check_machines, deepspeed_config
from training.zero_config import ZeroConfig


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_defaults_are_left_to_deepspeed(stage: int, precision: str) -> None:
    config = deepspeed_config(ZeroConfig(stage=stage), precision, 8, 0.5)
    assert config["zero_optimization"] == {"stage": stage}
    assert config["communication_data_type"] == "fp32"
    assert ("bf16" in config) == (precision == "bf16" and stage > 0)
    assert config["gradient_clipping"] == (0.5 if stage else 0.0)  # at stage 0 the engine clips


FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"stage": 2, "reduce_bucket": 10, "allgather_bucket": 20},
        {"reduce_bucket_size": 10, "allgather_bucket_size": 20},
    ),
    ({"stage": 2, "overlap": True}, {"overlap_comm": True}),
    ({"stage": 3, "overlap": False}, {"overlap_comm": False}),
    ({"stage": 3, "prefetch_bucket": 0}, {"stage3_prefetch_bucket_size": 0}),
    ({"stage": 3, "persistence_threshold": 0}, {"stage3_param_persistence_threshold": 0}),
    ({"stage": 3, "max_live_parameters": 7}, {"stage3_max_live_parameters": 7}),
    ({"stage": 3, "max_reuse_distance": 7}, {"stage3_max_reuse_distance": 7}),
    ({"stage": 3, "sub_group_size": 7}, {"sub_group_size": 7}),
    ({"stage": 3, "hpz_partition_size": 8}, {"zero_hpz_partition_size": 8}),
    ({"stage": 3, "quantized_weights": True}, {"zero_quantized_weights": True}),
    ({"stage": 3, "quantized_gradients": True}, {"zero_quantized_gradients": True}),
    ({"stage": 1, "offload_optimizer": "cpu"}, {"offload_optimizer": {"device": "cpu", "pin_memory": True}}),
    (
        {"stage": 3, "offload_parameters": "cpu", "pin_memory": False},
        {"offload_param": {"device": "cpu", "pin_memory": False}},
    ),
    (
        {"stage": 3, "offload_optimizer": "nvme", "nvme_path": "/x"},
        {"offload_optimizer": {"device": "nvme", "pin_memory": True, "nvme_path": "/x"}},
    ),
    (
        {"stage": 3, "offload_parameters": "nvme", "nvme_path": "/x", "nvme_buffer": 5, "max_parameters_in_cpu": 0},
        {
            "offload_param": {
                "device": "nvme",
                "pin_memory": True,
                "nvme_path": "/x",
                "buffer_size": 5,
                "max_in_cpu": 0,
            }
        },
    ),
    (
        {"stage": 3, "extra": {"zero_optimization": {"stage3_module_granularity_threshold": 9}}},
        {"stage3_module_granularity_threshold": 9},
    ),
]


@pytest.mark.parametrize(("fields", "expected"), FIELDS)
def test_each_field_reaches_deepspeed(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    made = deepspeed_config(ZeroConfig.model_validate(fields), "bf16", 1, 1.0)["zero_optimization"]
    assert made == {"stage": fields["stage"]} | expected
    taken = DeepSpeedZeroConfig(**made).model_dump(mode="json", by_alias=True)  # it refuses keys that it does not know
    for key, value in expected.items():
        held = taken[key]
        assert {name: held[name] for name in value} == value if isinstance(value, dict) else held == value


def test_every_field_is_tried() -> None:
    elsewhere = {"communication_dtype"}
    tried = {key for fields, _ in FIELDS for key in fields}
    assert tried | elsewhere == set(ZeroConfig.model_fields)


def test_communication_dtype_and_extra_lie_beside_what_the_engine_sets() -> None:
    extra = {"aio": {"block_size": 2**20}, "zero_optimization": {"offload_optimizer": {"buffer_count": 8}}}
    fields = {"stage": 3, "offload_optimizer": "nvme", "nvme_path": "/x", "communication_dtype": "bf16", "extra": extra}
    config = deepspeed_config(ZeroConfig.model_validate(fields), "fp32", 1, 1.0)
    assert config["communication_data_type"] == "bf16" and config["aio"] == {"block_size": 2**20}
    offload = {"device": "nvme", "pin_memory": True, "nvme_path": "/x", "buffer_count": 8}
    assert config["zero_optimization"]["offload_optimizer"] == offload
    assert config["zero_force_ds_cpu_optimizer"] is False  # torch's AdamW steps what is offloaded


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"stage": 2, "offload_parameters": "cpu"}, "offload_parameters needs stage 3, and stage is 2"),
        ({"stage": 0, "offload_optimizer": "cpu"}, "offload_optimizer needs stage 1 or more, and stage is 0"),
        ({"stage": 2, "offload_optimizer": "nvme", "nvme_path": "x"}, "nvme needs stage 3, and stage is 2; take cpu"),
        ({"stage": 3, "offload_optimizer": "nvme"}, "nvme needs nvme_path"),
        ({"stage": 3, "nvme_path": "x"}, "nvme_path does nothing"),
        ({"stage": 3, "offload_parameters": "cpu", "nvme_buffer": 5}, "nvme_buffer is for offload_parameters nvme"),
        ({"stage": 3, "max_parameters_in_cpu": 5}, "max_parameters_in_cpu is for offload_parameters nvme"),
        ({"stage": 3, "pin_memory": False}, "pin_memory does nothing"),
        ({"stage": 2, "hpz_partition_size": 8}, "hpz_partition_size needs stage 3"),
        (
            {"stage": 3, "hpz_partition_size": 8, "offload_parameters": "nvme", "nvme_path": "x"},
            "offload_parameters nvme does not go with",
        ),
        ({"stage": 1, "quantized_weights": True}, "quantized_weights needs stage 3"),
        ({"stage": 2, "quantized_gradients": True}, "quantized_gradients needs stage 3"),
        ({"stage": 0, "overlap": True}, "overlap needs stage 1 or more"),
        ({"stage": 0, "reduce_bucket": 5}, "reduce_bucket needs stage 1 or more"),
        ({"stage": 3, "allgather_bucket": 8}, "allgather_bucket is of stages 1 and 2; at stage 3 set prefetch_bucket"),
        ({"stage": 2, "prefetch_bucket": 5}, "prefetch_bucket needs stage 3"),
        ({"stage": 2, "persistence_threshold": 5}, "persistence_threshold needs stage 3"),
        ({"stage": 2, "max_live_parameters": 5}, "max_live_parameters needs stage 3"),
        ({"stage": 2, "max_reuse_distance": 5}, "max_reuse_distance needs stage 3"),
        ({"stage": 2, "sub_group_size": 5}, "sub_group_size needs stage 3"),
        ({"stage": 3, "mics": 8}, "mics: DeepSpeed 0.19 has no MiCS any more; take hpz_partition_size"),
        (
            {"extra": {"gradient_accumulation_steps": 4}},
            "extra.gradient_accumulation_steps is not for extra: it follows",
        ),
        ({"extra": {"train_batch_size": 4}}, "not for extra: set train.batch_tokens"),
        ({"extra": {"gradient_clipping": 4}}, "not for extra: set train.grad_clip"),
        ({"extra": {"optimizer": {"type": "Lion"}}}, "extra.optimizer is not for extra: set train.lr"),
        ({"extra": {"scheduler": {}}}, "not for extra: set train.schedule"),
        ({"extra": {"fp16": {"enabled": True}}}, "not for extra: set train.precision"),
        ({"extra": {"communication_data_type": "fp16"}}, "not for extra: set zero.communication_dtype"),
        ({"extra": {"flops_profile": {}}}, "no key of DeepSpeed's that goes here; did you mean flops_profiler?"),
        ({"extra": {"aio": {}}}, "extra.aio does nothing"),
        ({"extra": {"zero_optimization": 3}}, "should be a mapping"),
        ({"extra": {"zero_optimization": {"overlap_comm": True}}}, "overlap_comm has a field: set zero.overlap"),
        (
            {
                "stage": 3,
                "offload_optimizer": "cpu",
                "extra": {"zero_optimization": {"offload_optimizer": {"ratio": 0.5}}},
            },
            "offload_optimizer.ratio does not go with this engine",
        ),
        (
            {"extra": {"zero_optimization": {"offload_optimizer": {"buffer_count": 5}}}},
            "extra.zero_optimization.offload_optimizer does nothing while offload_optimizer is none",
        ),
        ({"extra": {"zero_optimization": {"mics_shard_size": 5}}}, "no MiCS any more"),
        ({"extra": {"zero_optimization": {"zenflow": {"topk_ratio": 0.1}}}}, "zenflow.topk_ratio does not go with"),
    ],
)
def test_what_deepspeed_would_ignore_or_break_on_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        ZeroConfig.model_validate(fields)


@pytest.mark.parametrize(
    "fields",
    [{"stage": 4}, {"stage": 3, "hpz_partition_size": 1}, {"stage": 2, "allgather_bucket": 3}, {"reduce_bucket": 0}],
)
def test_value_out_of_range_is_named(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        ZeroConfig.model_validate(fields)
    assert {each["loc"][0] for each in caught.value.errors()} == {list(fields)[-1]}


@pytest.mark.parametrize(
    ("assignment", "is_refused"),
    [
        ("zero={stage: 1, overlap: true}", True),
        ("zero={stage: 1, reduce_bucket: 1M}", True),
        ("zero={stage: 2, overlap: true}", False),
        ("zero={stage: 1, overlap: true, offload_optimizer: cpu}", False),  # another optimizer of DeepSpeed's
    ],
)
def test_what_bf16_leaves_out_at_stage_1_is_refused(tmp_path: Path, assignment: str, is_refused: bool) -> None:
    run = write_run(tmp_path)
    load_run(run, [assignment, "train.precision=fp32"])
    if is_refused:
        with pytest.raises(InputError, match=r"nothing of it at stage 1 in bf16; take zero\.stage 2"):
            load_run(run, [assignment, "train.precision=bf16"])
    else:
        load_run(run, [assignment, "train.precision=bf16"])


def test_a_section_survives_being_written_and_read(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    fields = (
        "zero={stage: 3, offload_optimizer: nvme, nvme_path: scratch, sub_group_size: 4M, extra: {log_level: info}}"
    )
    config = load_run(run, [fields])
    again = tmp_path / "again.yaml"
    again.write_text(config.dump())
    assert load_run(again).zero == config.zero
    assert config.zero.sub_group_size == 4_000_000 and config.zero.nvme_path is not None
    assert config.zero.of_run(Path("runs/one")).nvme_path != config.zero.of_run(Path("other/one")).nvme_path


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can quantise")
@pytest.mark.parametrize("name", ["quantized_weights", "quantized_gradients"])
def test_a_cpu_does_not_quantise(tmp_path: Path, name: str) -> None:
    _, said = thalweg("train", write_run(tmp_path), f"zero={{stage: 3, {name}: true}}", cwd=tmp_path, code=2)
    assert f"zero.{name}: needs GPUs" in said


@pytest.mark.parametrize(("processes", "is_refused"), [(16, False), (8, True), (12, True), (4, True)])
def test_hpz_divides_the_processes(monkeypatch: pytest.MonkeyPatch, processes: int, is_refused: bool) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    if not is_refused:
        check_machines(ZeroConfig(stage=3, hpz_partition_size=8))
        return
    with pytest.raises(InputError, match=f"is 8, which has to be a part of the {processes} processes that divides"):
        check_machines(ZeroConfig(stage=3, hpz_partition_size=8))
