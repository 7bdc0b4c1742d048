"""The largest attention logit of each layer: a run that becomes unstable often shows it there first.

Of every query and key that see each other in a step's global batch, in all heads, |q . k| / sqrt(width of a head), as
it goes into the softmax. Kernels of attention give no logits, and compiled blocks call no hooks. So the batch goes
through the network once more behind the step, without gradients and with its blocks uncompiled, and queries and keys
are multiplied in fp32, a few queries at a time. They are taken where they meet, in the attention's core: a rank that
shares sequences has there all positions of some of the heads, and the others have the rest.
"""

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from data_pipeline.loader import MicroBatch, RankBatch
from model.attention import Core, Visible
from model.gpt import Attention
from model.objective import task
from training.callback import Callback, StepResult
from training.collectives import largest
from training.compilation import uncompiled
from training.run import Run
from training.watching_config import LayersConfig

SCORES = 2**26
"""So many are held at a time, in fp32: 256 MiB."""


@torch.no_grad()
def largest_logit(q: Tensor, k: Tensor, seen: Visible, scores: int = SCORES) -> Tensor:
    """The largest magnitude of a logit between queries and keys B H T D that see each other, in fp32.

    About so many `scores` are held at a time.
    """
    batch, heads, length, width = q.shape
    rows = max(1, scores // (batch * heads * length))
    most = torch.zeros((), device=q.device)
    for at in range(0, length, rows):
        query, key = torch.arange(at, min(at + rows, length), device=q.device), _keys(seen, at, rows, length)
        logits = q[:, :, query].float() @ k[:, :, key].float().transpose(-1, -2)  # B H rows keys
        hidden = ~seen.between(query[:, None], torch.arange(key.start, key.stop, device=q.device))
        if seen.documents is not None:
            own, others = seen.documents[:, query], seen.documents[:, key]
            hidden = hidden | (own[:, None, :, None] != others[:, None, None, :])
        most = torch.maximum(most, logits.abs_().masked_fill_(hidden, 0.0).amax())
    return most / math.sqrt(width)


def _keys(seen: Visible, at: int, rows: int, length: int) -> slice:
    """Those that any of the queries [at, at + rows) may see."""
    first = 0 if seen.band is None else max(0, at - seen.band + 1)
    behind = 0 if seen.causal else length if seen.band is None else seen.band - 1
    return slice(first, min(at + rows + behind, length))


class _Watch:
    """Hooks that take the largest logit of each layer while the network is called, until `close`."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        cores = [_core(each) for each in network.modules() if isinstance(each, Attention)]
        self.most = torch.zeros(len(cores), device=device)
        """By layer, of all calls so far."""
        self.rows = torch.empty(0)
        """The sequences of the next call that count."""
        self._hooks = [core.register_forward_pre_hook(partial(self._take, layer)) for layer, core in enumerate(cores)]

    def _take(self, layer: int, core: nn.Module, inputs: tuple[Tensor, Tensor, Tensor, Visible]) -> None:
        q, k, _, seen = inputs
        if seen.documents is not None:
            seen = replace(seen, documents=seen.documents[self.rows])
        if len(self.rows):
            most = largest_logit(q[self.rows], k[self.rows], seen)
            self.most[layer] = torch.maximum(self.most[layer], most)

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _core(attention: Attention) -> Core:
    """The attention's own core, whatever was put around it."""
    return next(each for each in attention.core.modules() if isinstance(each, Core))


class AttentionLogits(Callback):
    """Puts `attention_logit_max_by_layer` into the line of every few steps.

    It is that of the step's batch and of the weights that the step left, which a checkpoint of it holds. Every rank
    calls the network as often, since a sharded one gathers its weights in each call.
    """

    def __init__(self, config: LayersConfig) -> None:
        self._every = config.every_steps
        self._batch: list[MicroBatch] = []

    def on_gradients(self, run: Run, batch: RankBatch, losses: Tensor) -> None:
        self._batch = []
        if self._every and (run.progress.step + 1) % self._every == 0:
            self._batch = batch.micro_batches

    def on_step(self, run: Run, result: StepResult) -> None:
        if self._batch:
            run.fields["attention_logit_max_by_layer"] = self._measure(run)

    @torch.no_grad()
    def _measure(self, run: Run) -> dict[str, float]:
        network, batch, self._batch = run.engine.network, self._batch, []
        watch = _Watch(network, run.engine.device)
        network.eval()
        try:
            with uncompiled(network):
                for micro in batch:
                    run.phase.move()
                    watch.rows = micro.weights.nonzero().flatten()  # those without any fill up the forwards
                    run.engine(*task(run.model, micro.tokens, run.stream.seed, micro.positions), micro.weights)
        finally:
            watch.close()
            network.train()
        most = largest(watch.most.tolist(), run.engine.device)
        return {f"blocks.{layer}": each for layer, each in enumerate(most)}
