"""Builds real engines on torch's fake process group, and reads off them what a rank holds.

A line of stdin is a JSON list of cases. Each is built in a fork of this process, which has imported what an engine
needs and begun nothing. The answer is a JSON list of what was read.

The fake group answers every collective at once and with nothing: a rank of any world starts alone, and computes with
weights of no meaning where it should have gathered some. How much it holds does not depend on them.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.engine import _prepare_deepspeed, build_engine

NEEDED = [
    "accelerate", "deepspeed.runtime.zero.muon.muon_optimizer", "torch._dynamo", "torch._inductor.compile_fx",
    "transformers.integrations.deepspeed",
]  # fmt: skip


def main() -> None:
    _prepare_deepspeed()
    for name in NEEDED:
        import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps([in_fork(case) for case in json.loads(line)]), file=answers, flush=True)


def in_fork(case: dict[str, Any]) -> dict[str, Any] | None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, json.dumps(read(case)).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return json.loads(told) if told else None


def read(case: dict[str, Any]) -> dict[str, Any]:
    """What the engine of a case holds when its first step has been made."""
    zero, engine = built(case)
    parameters, optimizer = list(engine.network.parameters()), engine._engine.optimizer
    tokens = torch.ones(1, engine.network.config.n_ctx, dtype=torch.int64)
    held = {}
    for last in (False, True):
        engine.backward(engine(tokens, tokens)[0], last)
        if last == (zero.stage != 1):  # whose gradients the last one cuts
            held["gradients"] = memory(accumulated(optimizer, parameters, zero.stage))
    held["raw_gradients"] = memory(each.grad for each in parameters if each.dtype == torch.bfloat16)
    held["secondary"] = memory(getattr(each, "ds_secondary_tensor", None) for each in parameters)
    stepped = homes(optimizer, parameters, zero.stage)
    on_host = zero.offload_optimizer != "none"
    held["stepped_gradients"] = memory(each.grad for each in stepped if on_host)
    engine.step(lambda norm: True)
    weights, base = memory(stepped), optimizer.optimizer if zero.stage else optimizer
    for moment in ("exp_avg", "exp_avg_sq"):
        assert memory(each[moment] for each in base.state.values()) == weights or not engine.stepped
    used = [each.ds_tensor for each in parameters] if zero.stage == 3 else parameters
    assert bool(places(used) & places(stepped)) == (zero.stage == 0)
    held["parameters"] = memory(used)
    held["optimizer"] = weights.numbers, weights.bytes * (3 if zero.stage else 2)  # at stage 0 parameters are weights
    small = getattr(optimizer, "persistent_parameters", ())
    held["persistent"] = sum(each.ds_numel for each in small), sum(each.ds_numel * each.itemsize for each in small)
    return {
        **{name: numbers for name, (numbers, _) in held.items()},
        "padding": weights.numbers - sum(each.numel for each in engine._fragments),
        "bytes": {name: taken for name, (_, taken) in held.items()},
        "kind": type(optimizer).__name__,
    }


def built(case: dict[str, Any]) -> tuple[Any, Any]:
    from deepspeed.runtime.zero import partitioned_param_coordinator
    from torch.testing._internal.distributed import fake_pg  # noqa: F401 - which makes the backend known

    from model.config import ModelConfig
    from model.gpt import GPT
    from training.config import TrainConfig
    from training.optimizer import build_optimizer
    from training.parallel_config import ParallelConfig
    from training.tensor_parallel import split_layers
    from training.zero_config import ZeroConfig

    # It compares with what rank 0 says, and that says nothing.
    partitioned_param_coordinator.assert_ints_same_as_other_ranks = lambda *_: None
    rank, world, precision = case["rank"], case["world"], case["precision"]
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    dist.init_process_group("fake", rank=rank, world_size=world)
    zero, place = ZeroConfig.model_validate(case["zero"]), ParallelConfig(**case["parallel"]).place(rank, world)
    network = GPT(ModelConfig.model_validate(case["model"]))
    if place.tensor > 1:
        split_layers(network, place)
    train = TrainConfig.model_validate(case["train"])
    optimizer = build_optimizer(network, train)
    return zero, build_engine(
        network, optimizer, zero=zero, precision=precision, micro_batch=1, grad_clip=1.0, place=place
    )


def accumulated(optimizer: Any, parameters: Sequence[nn.Parameter], stage: int) -> list[Tensor]:
    """The gradients in fp32 between two backward passes; of stage 2 behind the last."""
    if stage == 3:
        return [optimizer.grad_partitions_flat_buffer]
    if stage == 2:
        on_host = list(getattr(optimizer, "accumulated_grads_in_cpu", {}).values())
        return on_host or [each for group in optimizer.averaged_gradients.values() for each in group]
    if hasattr(optimizer, "bf16_groups"):
        return optimizer.fp32_groups_gradients_flat
    return [getattr(each, "grad_accum", None) if each.grad is None else each.grad for each in parameters]


def homes(optimizer: Any, parameters: Sequence[nn.Parameter], stage: int) -> Sequence[Tensor]:
    """What AdamW steps."""
    for name in ("fp32_groups_flat_partition", "single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        if hasattr(optimizer, name):
            return getattr(optimizer, name)
    assert stage == 0
    return parameters


class Memory(NamedTuple):
    """What lies below tensors."""

    numbers: int
    bytes: int


def memory(tensors: Iterable[Tensor | None]) -> Memory:
    """Of memory that several share once."""
    below = {each.untyped_storage().data_ptr(): each for each in tensors if each is not None and each.numel()}
    sizes = [(each.untyped_storage().nbytes(), each.element_size()) for each in below.values()]
    return Memory(sum(taken // each for taken, each in sizes), sum(taken for taken, _ in sizes))


def places(tensors: Iterable[Tensor]) -> set[int]:
    return {each.untyped_storage().data_ptr() for each in tensors}


if __name__ == "__main__":
    main()
