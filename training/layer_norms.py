"""The norm of each layer's gradient: of the global batch, averaged over ranks, before clipping.

Each rank sums the squares of the parts that it holds, whatever the ZeRO stage, and one all-reduce adds them up. So the
squares of all layers add up to that of `grad_norm`.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.loader import RankBatch
from training.callback import Callback, StepResult
from training.engine import Engine
from training.run import Run
from training.watching_config import LayersConfig


def layer_of(parameter: str) -> str:
    """The layer of a parameter by its name: `blocks.3`, `token_embedding`, `norm` and so on."""
    parts = parameter.split(".")
    return ".".join(parts[:2]) if parts[0] == "blocks" else parts[0]


@torch.no_grad()
def norms_by_layer(engine: Engine) -> dict[str, float]:
    """The norm of each layer's gradient, in the order of the network; on every rank the same."""
    layers = list(dict.fromkeys(layer_of(name) for name, _ in engine.network.named_parameters()))
    squares = torch.zeros(len(layers), dtype=torch.float64, device=engine.device)
    for part in engine.gradients():
        squares[layers.index(layer_of(part.name))] += _square(part.values).to(engine.device)
    dist.all_reduce(squares)
    return dict(zip(layers, squares.sqrt().tolist(), strict=True))


def _square(values: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values, dtype=torch.float64)
    return norm.square()


class LayerNorms(Callback):
    """Puts `grad_norm_by_layer` into the line of every few steps."""

    def __init__(self, config: LayersConfig) -> None:
        self._every = config.every_steps
        self._norms: dict[str, float] | None = None

    def on_gradients(self, run: Run, batch: RankBatch, losses: Tensor) -> None:
        self._norms = None
        if self._every and (run.progress.step + 1) % self._every == 0:
            self._norms = norms_by_layer(run.engine)

    def on_step(self, run: Run, result: StepResult) -> None:
        if self._norms is not None:
            run.fields["grad_norm_by_layer"] = self._norms
