"""Which part of each parameter's fp32 weight and moments this rank holds, whatever the ZeRO stage.

DeepSpeed lays parameters end to end and cuts them between the ranks. So a rank holds one contiguous part of some of
them, flattened: at stage 0 the whole of each. Where ranks share layers, it is a part of their piece of a parameter.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.cuts import WHOLE, Cut, Shape
from training.state_files import Part
from training.tensor_parallel import cut_of

MOMENTS = ("exp_avg", "exp_avg_sq")
"""The names that AdamW and DeepSpeed's forms of it give their moments."""


@dataclass(frozen=True)
class Fragment:
    """The part [start, start + numel) of the flattened parameter `name`; it lies at `offset` of `home`, flattened.

    `home` is the fp32 tensor that the optimizer steps. Of a parameter that is the piece `cut` of a larger one,
    `shape` is that of the whole.
    """

    name: str
    shape: Shape
    start: int
    numel: int
    home: Tensor
    offset: int
    cut: Cut

    def of(self, tensor: Tensor) -> Tensor:
        """The fragment's part [numel] of `home`, or of a moment that is laid out like it; shares its memory."""
        return tensor.detach().view(-1)[self.offset : self.offset + self.numel]

    def part(self, name: str, tensor: Tensor, copied: bool) -> Part:
        """Of `tensor`, which is laid out like `home`; where it is `copied`, on the CPU."""
        values = self.of(tensor)
        return Part(name, self.shape, self.start, values.to("cpu", copy=True) if copied else values, self.cut)


def dealt(fragments: list[Fragment], rank: int, ranks: int) -> list[Fragment]:
    """Those that are `rank`'s where each could be any rank's: about as many numbers for each rank."""
    total, at, mine = sum(each.numel for each in fragments), 0, []
    for each in fragments:
        if at * ranks // max(total, 1) == rank:
            mine.append(each)
        at += each.numel
    return mine


def by_home(fragments: list[Fragment]) -> Iterator[tuple[Tensor, list[Fragment]]]:
    """Each home once, with what lies in it."""
    held: dict[int, list[Fragment]] = defaultdict(list)
    for each in fragments:
        held[id(each.home)].append(each)
    for group in held.values():
        yield group[0].home, group


@contextmanager
def in_memory(engine: Any, home: Tensor, *, changes: bool = False) -> Iterator[bool]:
    """Brings a home that lies on an nvme, and its moments, into memory meanwhile; yields whether it is there anyway.

    What `changes` is written back. On the nvme, `home` and its moments are empty.
    """
    optimizer, group = engine.optimizer, _group_on_nvme(engine.optimizer, home)
    if group is None:
        yield True
        return
    optimizer._optimizer_states_and_gradient_swap_in(group)
    try:
        yield False
    finally:
        if changes:
            optimizer._optimizer_states_and_gradient_swap_out(group)
        else:
            optimizer._release_swap_buffers(group)


def _group_on_nvme(optimizer: Any, home: Tensor) -> int | None:
    """The group whose home this is, where DeepSpeed keeps it on an nvme: it leaves groups below 1 MiB in memory."""
    if not getattr(optimizer, "swap_optimizer", False):
        return None
    group = next(at for at, each in enumerate(optimizer.fp32_partitioned_groups_flat) if each is home)
    return group if optimizer._swappable_optimizer_subgroup(group) else None


def fragments(engine: Any, network: nn.Module) -> list[Fragment]:
    """Those of this rank, in the order of the network's parameters. `engine` is DeepSpeed's."""
    stage = int(engine.zero_optimization_stage())
    held = {0: _whole, 1: _of_flat_groups, 2: _of_flat_groups, 3: _of_partitions}[stage]
    return [each for each in held(engine.optimizer, network) if each.numel]


def _whole(optimizer: Any, network: nn.Module) -> Iterator[Fragment]:
    for name, parameter in network.named_parameters():
        cut = cut_of(parameter)
        yield Fragment(name, cut.whole_shape(parameter.shape), 0, parameter.numel(), parameter, 0, cut)


def _of_flat_groups(optimizer: Any, network: nn.Module) -> Iterator[Fragment]:
    if hasattr(optimizer, "bf16_groups"):  # DeepSpeed has an optimizer of its own for stage 1 in bf16
        groups, homes = optimizer.bf16_groups, optimizer.fp32_groups_flat_partition
    else:
        groups, homes = optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups
    home_of = {id(parameter): home for group, home in zip(groups, homes, strict=True) for parameter in group}
    named: Iterator[tuple[str, Any]] = network.named_parameters()
    for name, parameter in named:
        if (mapping := parameter._hp_mapping) is not None:
            part, place = mapping.lp_fragment_address, mapping.hp_fragment_address
            home, cut = home_of[id(parameter)], cut_of(parameter)
            yield Fragment(name, cut.whole_shape(parameter.shape), part.start, part.numel, home, place.start, cut)


def _of_partitions(optimizer: Any, network: nn.Module) -> Iterator[Fragment]:
    named: Iterator[tuple[str, Any]] = network.named_parameters()
    for name, parameter in named:
        group, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = size * dist.get_rank(group=parameter.ds_process_group)
        numel = max(min(size, int(parameter.ds_numel) - start), 0)  # the last ranks' parts are filled up
        home, cut = optimizer.fp32_partitioned_groups_flat[group], cut_of(parameter)
        yield Fragment(name, cut.whole_shape(parameter.ds_shape), start, numel, home, offset, cut)


def gradient(engine: Any, parameter: Any, fragment: Fragment) -> Tensor:
    """The fragment's part [numel] of the whole gradient, averaged over ranks, of the `parameter` that it is of.

    It is there between the last backward and the optimizer's step, in fp32, and not clipped. It shares memory with what
    the optimizer will take, on an nvme alone not, and lies where that lies.
    """
    stage, optimizer = int(engine.zero_optimization_stage()), engine.optimizer
    if hasattr(optimizer, "_wait_for_offload_copies"):
        optimizer._wait_for_offload_copies()
    if stage == 0:
        found = parameter.grad
    elif stage == 3:  # filled up at the end of the parameter
        found, _ = optimizer._get_fp32_grad_state_partition(parameter, release_swap_buffers=True)
        if getattr(optimizer, "swap_optimizer", False):  # it lies in a buffer that is free again
            found = found.clone()
    else:
        found = parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group)
    flat: Tensor = found.detach().view(-1)
    # DeepSpeed's own optimizer for stage 1 in bf16 gives the gradient of the whole parameter.
    start = fragment.start if stage in (1, 2) and flat.numel() > fragment.numel else 0
    return flat[start : start + fragment.numel]


def gradients_of_copies(engine: Any, network: nn.Module, held: list[Fragment]) -> list[Tensor]:
    """Of what ranks that share layers have whole each, all that lies here and goes into this rank's gradient norm.

    `held` are this rank's fragments. Shares memory with what the optimizer will take.
    """
    optimizer = engine.optimizer
    if hasattr(optimizer, "bf16_groups"):  # each rank has the whole gradient, and takes the norm of that
        groups = zip(optimizer.bf16_groups, optimizer.fp32_groups_gradients, strict=True)
        pairs = [pair for group, gradients in groups for pair in zip(group, gradients, strict=True)]
        return [gradient for parameter, gradient in pairs if cut_of(parameter) == WHOLE]
    parameters = dict(network.named_parameters())
    return [gradient(engine, parameters[each.name], each) for each in held if each.cut == WHOLE]


def refuse_together(engine: Any, are_finite: bool) -> bool:
    """Whether gradients are finite on all ranks, `are_finite` where DeepSpeed asks all of them by itself.

    At stage 1 in bf16 each rank has the whole gradient and looks at that alone, and those that leave a step out do not
    meet the others behind it. So all are given a number that is not finite where one has it. Every rank must call it.
    """
    if not hasattr(engine.optimizer, "bf16_groups"):
        return are_finite
    flats = engine.optimizer.fp32_groups_gradients_flat
    found = (torch.stack([flat.isfinite().all() for flat in flats]).all() & are_finite).int()
    dist.all_reduce(found, op=dist.ReduceOp.MIN)
    if not found:
        for flat in flats:
            flat.fill_(torch.nan)
    return bool(found)


def optimizer_state(engine: Any) -> dict[Tensor, dict[str, Any]]:
    """What torch's optimizer keeps for each `home`; empty before its first step."""
    # DeepSpeed looks into it after each step, also after one that was left out: that alone makes empty entries.
    return {home: kept for home, kept in _base(engine).state.items() if kept}


def _base(engine: Any) -> torch.optim.Optimizer:
    """The optimizer of torch, which DeepSpeed wraps where it shards."""
    base: torch.optim.Optimizer = engine.optimizer.optimizer if engine.zero_optimization_stage() else engine.optimizer
    return base


def steps_taken(engine: Any) -> int:
    """How often the optimizer has stepped."""
    return max((int(state["step"]) for state in optimizer_state(engine).values()), default=0)


def forget_moments(engine: Any) -> None:
    """Brings the optimizer to where it is before its first step, also what lies on an nvme."""
    _base(engine).state.clear()
    if getattr(engine.optimizer, "swap_optimizer", False):
        engine.optimizer.optimizer_swapper.purge_state()


@torch.no_grad()
def set_steps(engine: Any, home: Tensor, steps: int) -> dict[str, Any]:
    """Gives the optimizer its count of steps and empty moments for a home that is in memory; returns them."""
    held = {
        "step": torch.tensor(float(steps), device=home.device),
        **{moment: torch.zeros_like(home.detach()) for moment in MOMENTS},
    }
    _base(engine).state[home] = held
    return held


def refresh_weights(engine: Any) -> None:
    """Has the network compute with the fp32 weights as they are now. Every rank must call it."""
    optimizer, stage = engine.optimizer, int(engine.zero_optimization_stage())
    if stage in (1, 2):
        optimizer.update_lp_params()
    if stage == 3:
        optimizer._partition_all_parameters()  # what is whole, as small parameters are, would not be gathered anew
        for group, home in enumerate(optimizer.fp32_partitioned_groups_flat):
            with in_memory(engine, home):
                optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.invalidate_secondary_tensor()  # the copies of hpz_partition_size
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
