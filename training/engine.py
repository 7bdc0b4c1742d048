"""The DeepSpeed engine, built by Accelerate, behind the few calls that the loop needs.

What DeepSpeed 0.19 does wrong, or differently from stage to stage, is put right here and nowhere else;
docs/decisions/0004-engine.md has the findings.
"""

import io
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from typing import Any, NoReturn, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_pipeline.errors import InputError
from model.gpt import GPT
from training.bf16 import CastToBf16, round_to_bf16
from training.building import Values, fill, keep, sharding
from training.collectives import talk_over_loopback
from training.cuts import WHOLE
from training.deepspeed_config import Precision, check_machines, deepspeed_config
from training.fragments import (
    MOMENTS,
    Fragment,
    by_home,
    dealt,
    forget_moments,
    fragments,
    gradient,
    gradients_of_copies,
    in_memory,
    optimizer_state,
    refresh_weights,
    refuse_together,
    set_steps,
    steps_taken,
)
from training.groups import Groups
from training.nvme import prepare_nvme, remove_swapped, with_own_folder
from training.parallel_config import Place
from training.sequence_parallel import SplitSequences
from training.state_files import Part, StateFiles
from training.tensor_parallel import cut_of, join_layers
from training.tensor_types import said, tensor_types
from training.veto import Veto
from training.zero_config import ZeroConfig

log = logging.getLogger("thalweg.train")


def _name_rank() -> None:
    """Names this process the only rank where no launcher did: DeepSpeed would look for MPI otherwise.

    Port 0 lets the system choose a free one; nobody else needs to know which.
    Raises InputError where a launcher did half of its work.
    """
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in os.environ]
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        os.environ.update(alone)
        talk_over_loopback()
    elif missing:
        raise InputError(f"{', '.join(missing)}: not set in the environment; start ranks by torchrun or thalweg launch")
    # Accelerate builds no DeepSpeed engine without it, and not every launcher sets it.
    os.environ.setdefault("LOCAL_RANK", str(int(os.environ["RANK"]) % max(torch.cuda.device_count(), 1)))


def _prepare_deepspeed() -> None:
    """Makes DeepSpeed quiet, and keeps it from compiling what is not needed. Before the process group starts."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # torch tells it, at each rank, which collectives have new names.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # Its progress goes to stdout, where results belong. Warnings, on stderr, are all that is wanted.
    for name in ("DeepSpeed", "ds_accelerator"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(sys.stderr)

    # On a CPU DeepSpeed compiles an all-reduce through shared memory, half a minute at each first start and not
    # at all without a compiler. Only its inference calls it; training's all-reduces go through gloo regardless.
    # This is the table it looks into; putting one there also saves probing a compiler for all of its extensions.
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}


@contextmanager
def _prints_to_log() -> Iterator[None]:
    """Some of DeepSpeed's chatter is plain print(): its bf16 optimizer's memory at start, its keys at loading."""
    chatter = io.StringIO()
    try:
        with redirect_stdout(chatter):
            yield
    finally:
        log.debug("DeepSpeed printed: %s", chatter.getvalue())


@contextmanager
def _layout_told(groups: Groups | None) -> Iterator[None]:
    """Hands DeepSpeed a layout, for which Accelerate has no argument."""
    import deepspeed

    initialize = deepspeed.initialize
    deepspeed.initialize = partial(initialize, mpu=groups)
    try:
        yield
    finally:
        deepspeed.initialize = initialize


def build_engine(
    network: GPT,
    optimizer: torch.optim.Optimizer,
    *,
    zero: ZeroConfig,
    precision: Precision,
    micro_batch: int,
    grad_clip: float,
    place: Place | None = None,
    values: Values | None = None,
) -> "Engine":
    """Starts the processes' group where there is none and hands network and optimizer to DeepSpeed.

    All ranks are data-parallel but for a `place` of this one in another layout. Where that shares layers,
    `split_layers` has divided the network's. `values` are what a network on the meta device begins from: at stage 3 it
    is never whole in a process. Raises InputError for what `zero` asks and these machines cannot do.
    """
    _name_rank()
    place = place or Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    check_machines(zero)
    _prepare_deepspeed()
    if zero.uses_nvme:
        prepare_nvme(zero)
        zero = with_own_folder(zero)
    # DeepSpeed reads the environment, and the prepared logger and table, while it is imported and started.
    from accelerate import Accelerator, DeepSpeedPlugin
    from deepspeed import DeepSpeedEngine, __version__

    selective = network.recompute == "selective"
    config = deepspeed_config(zero, precision, micro_batch, grad_clip, selective=selective)
    with _prints_to_log():
        accelerator = Accelerator(deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config))
        groups, module = Groups(place), cast(nn.Module, network)
        if values is not None:
            fill(network, values, sharding(config, groups.replicas) if zero.stage == 3 else keep)
        if precision == "bf16":
            round_to_bf16(network)
        if place.tensor > 1:
            join_layers(network, groups.tensor)
        if place.sequence > 1:
            module = SplitSequences(network, place, groups.sequence)
        if precision == "bf16" and not zero.stage:
            module = CastToBf16(module)
        with _layout_told(groups if place.tensor > 1 else None):
            engine, _ = accelerator.prepare(module, optimizer)
    if not isinstance(engine, DeepSpeedEngine):
        raise RuntimeError(f"Accelerate built a {type(engine).__name__} instead of a DeepSpeed engine")
    world, device = engine.world_size, torch.device(engine.device)
    log.info("engine: DeepSpeed %s, ZeRO stage %d, %d processes on %s", __version__, zero.stage, world, device)
    log.info("engine: %s", said(tensor_types(engine, network)))
    if device.type == "cpu" and world > 1:
        log.info("engine: gloo reduces; DeepSpeed's all-reduce through shared memory would have to be compiled")
    return Engine(engine, network, grad_clip if zero.stage == 0 else None, place, groups)


def leave(code: int) -> NoReturn:
    """Ends a process that had an engine, without taking the interpreter down first.

    A thread of gloo may still hold a tensor of the last collective. When it lets go of it while the interpreter
    ends, it aborts the process: a run that was done would end with SIGABRT (1 in 10 at stage 3).
    """
    remove_swapped()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it is gone
            stream.flush()
    os._exit(code)


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    return nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])


class Engine:
    """One rank of a DeepSpeed engine.

    `network` is the module that was handed over. Run it through the engine only: at stage 3 its weights are
    elsewhere between calls, and at stage 0 in bf16 they are fp32.
    """

    def __init__(self, engine: Any, network: GPT, clip_here: float | None, place: Place, groups: Groups) -> None:
        self._engine, self.network = engine, network
        self._clip_here, self.place, self.groups = clip_here, place, groups
        self.rank, self.world_size = int(engine.global_rank), int(engine.world_size)
        self.device = torch.device(engine.device)
        self._fragments = fragments(engine, network)
        self._veto = Veto(engine.optimizer) if clip_here is None else None
        self.stepped = True
        """Whether the last call of `step` changed the weights."""

    def __call__(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """The network's outputs; inputs are moved to the device."""
        moved = [each if each is None else each.to(self.device, non_blocking=True) for each in inputs]
        outputs: tuple[Tensor, ...] = self._engine(*moved)
        return outputs

    def backward(self, loss: Tensor, last: bool) -> None:
        """Adds the gradient of `loss` to what is accumulated; `last` ends the accumulation and averages over ranks.

        Every rank makes the same number of calls; the number may change from step to step.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, approves: Callable[[float], bool] = math.isfinite) -> float:
        """One step of the optimizer; returns the norm of the whole gradient before clipping.

        `approves` is asked once, with that norm, before any weight changes; collectives are allowed in it, and its
        answer must be the same on every rank. Where it says no the step is left out and its gradients are dropped.
        A gradient that is not finite has an infinite norm, and no step is ever made with it.
        """
        are_finite = self.place.tensor == 1 or self._tie_copies()
        are_finite = refuse_together(self._engine, are_finite)
        asked = approves if are_finite else lambda _: approves(math.inf) and False
        norm = self._step_whole(asked) if self._veto is None else self._step_sharded(self._veto, asked)
        return norm if are_finite else math.inf

    def _tie_copies(self) -> bool:
        """Averages the gradients of what ranks that share layers have whole each; whether they are finite on all ranks.

        They differ by rounding where replicas were averaged in another order, and what is whole has to stay the same.
        DeepSpeed's norm takes those of the first of these ranks.
        """
        held = gradients_of_copies(self._engine, self.network, self._fragments)
        flat = torch.cat([torch.zeros(1, device=self.device), *(each.view(-1).to(self.device) for each in held)])
        # At stage 0 each replica steps with what it has, which several groups of ranks might add up in several orders.
        group, ranks = (self.groups.tensor, self.place.tensor) if self._veto else (None, self.world_size)
        dist.all_reduce(flat, group=group)
        averages = flat.div_(ranks)[1:].split([each.numel() for each in held])
        for each, average in zip(held, averages, strict=True):
            each.copy_(average.view_as(each))
        found = flat.isfinite().all().int()
        dist.all_reduce(found, op=dist.ReduceOp.MIN)
        return bool(found)

    def _step_whole(self, approves: Callable[[float], bool]) -> float:
        norm = self._clip()
        norm = norm if math.isfinite(norm) else math.inf
        self.stepped = approves(norm) and math.isfinite(norm)
        if self.stepped:
            self._engine.step()
        else:
            self._engine.zero_grad()  # at the other stages DeepSpeed does the like
        return norm

    def _step_sharded(self, veto: Veto, approves: Callable[[float], bool]) -> float:
        veto.arm(approves)
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        if veto.answer is None:  # DeepSpeed found a number that is not finite, and left the step out by itself
            veto.drop_gradients()
            approves(norm)
        self.stepped = bool(veto.answer)
        return norm

    def _clip(self) -> float:
        parameters = [each for each in self.network.parameters() if each.grad is not None]
        norm = _norm([each for each in parameters if cut_of(each) == WHOLE])
        if self.place.tensor > 1:
            squares = _norm([each for each in parameters if cut_of(each) != WHOLE]).square()
            dist.all_reduce(squares, group=self.groups.tensor)
            norm = (norm.square() + squares).sqrt().nan_to_num(nan=math.inf)  # no number is larger than NaN
            dist.all_reduce(norm, op=dist.ReduceOp.MAX)
        if self._clip_here:
            nn.utils.clip_grads_with_norm_(parameters, self._clip_here, norm)
        return float(norm)

    def close(self) -> None:
        """Ends the processes' group, once all ranks have come here."""
        dist.barrier()
        dist.destroy_process_group()

    def set_lr(self, lr: float) -> None:
        """The learning rate of the next step, which each group's `lr_multiple` scales."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr * group["lr_multiple"]

    def parts(self, *, moments: bool = True, copied: bool = False) -> dict[str, list[Part]]:
        """Parts of the fp32 `weights` that are this rank's, and of the `moments`.

        Of these there are none before the first step, and where they are not asked for.
        Those of all ranks make the whole. They share memory with what is trained, unless they are to be `copied` to
        the CPU; what lies on an nvme is always a copy.
        """
        state, mine = optimizer_state(self._engine), self._own_fragments()
        parts: dict[str, list[Part]] = {"weights": [], "moments": []}
        for home, held in by_home(mine):
            with in_memory(self._engine, home) as stays:
                copies = copied or not stays
                parts["weights"] += [each.part(each.name, home, copies) for each in held]
                parts["moments"] += [
                    each.part(f"{moment}/{each.name}", state[home][moment], copies)
                    for each in held
                    for moment in (MOMENTS if moments and home in state else ())
                ]
        return parts

    def gradients(self) -> list[Part]:
        """Parts of the whole gradient that are this rank's, between the last backward and `step`, before clipping.

        Those of all ranks make the whole. They share memory with what the optimizer will take.
        """
        parameters = dict(self.network.named_parameters())
        return [
            Part(each.name, each.shape, each.start, gradient(self._engine, parameters[each.name], each), each.cut)
            for each in self._own_fragments()
        ]

    def _own_fragments(self) -> list[Fragment]:
        """Those of which no other rank has the same."""
        place = self.place
        own = [each for each in self._fragments if each.cut != WHOLE or place.tensor_rank == 0]
        if self._engine.zero_optimization_stage() == 0:  # where all replicas hold all
            return dealt(own, self.rank // place.tensor, place.replicas)
        return own

    @property
    def optimizer_steps(self) -> int:
        """How often the optimizer has stepped, skipped steps left out."""
        return steps_taken(self._engine)

    @torch.no_grad()
    def restore(
        self, weights: StateFiles, moments: StateFiles, optimizer_steps: int, moved: Callable[[], None] = lambda: None
    ) -> None:
        """Takes over what `parts` gave on other ranks, however many and at whatever stage. Every rank must call it.

        `moved` is called for each part that is read. Raises InputError where something is missing.
        """
        forget_moments(self._engine)
        for home, held in by_home(self._fragments):
            with in_memory(self._engine, home, changes=True):
                state = set_steps(self._engine, home, optimizer_steps) if optimizer_steps else {}
                for each in held:
                    moved()
                    stop = each.start + each.numel
                    each.of(home).copy_(weights.read(each.name, each.start, stop, each.cut))
                    for moment in MOMENTS if optimizer_steps else ():
                        held_before = moments.read(f"{moment}/{each.name}", each.start, stop, each.cut)
                        each.of(state[moment]).copy_(held_before)
        refresh_weights(self._engine)
