"""One rank of the engine on made-up batches; prints the losses and gradient norms of the steps on rank 0."""

import json
import os
import sys

import torch

from data_pipeline.deal import Deal
from model.config import ModelConfig, Recompute
from model.gpt import GPT
from model.objective import task
from training.collectives import gather_objects, gather_rows
from training.compilation import compile_blocks
from training.config import TrainConfig
from training.optimizer import build_optimizer
from training.parallel_config import Place
from training.tensor_parallel import split_layers
from training.zero_config import ZeroConfig

MODEL = ModelConfig(n_layer=2, n_head=4, d_model=32, n_ctx=16, vocab_size=64)
ALTERNATING = MODEL.model_copy(update={"attention": "alternating", "band": 5, "position": "rotary"})
VARIANTS: dict[str, tuple[ModelConfig, Recompute, bool]] = {
    "plain": (MODEL, "none", False),
    "alternating": (ALTERNATING, "none", False),
    "mup": (MODEL.model_copy(update={"mup_base_width": 16}), "none", False),
    "wide": (MODEL.model_copy(update={"d_model": 256}), "none", False),
    "every block": (MODEL, 1, False),
    "every second block": (ALTERNATING, 2, False),
    "selective": (ALTERNATING, "selective", False),
    "compiled": (MODEL, "none", True),
    "compiled every block": (MODEL, 1, True),
}
"""Network, what is recomputed, whether blocks are compiled: none of the last two may change a number."""

TRAIN = TrainConfig(tokens=1, batch_tokens=1, lr=3e-3, grad_clip=0.5)
STEPS = 20


def batch(step: int) -> torch.Tensor:
    """The tokens of a global batch [N, T + 1]; N differs from step to step and divides by no number of ranks."""
    generator = torch.Generator().manual_seed(step)
    sequences = (7, 11, 5)[step % 3]
    walk = torch.randint(0, 3, (sequences, MODEL.n_ctx + 1), generator=generator).cumsum(dim=1)
    return (walk + torch.randint(0, 64, (sequences, 1), generator=generator)) % 64


def lr(step: int) -> float:
    return TRAIN.lr * (1 - step / (2 * STEPS))


def built(
    stage: int,
    precision: str,
    micro_batch: int,
    variant: str = "plain",
    sequence: int = 1,
    tensor: int = 1,
    *,
    whole: bool = False,
    **zero: object,
):
    """The engine of a variant's network, which may be `whole` before; `zero` are more fields of that section.

    `sequence` ranks share a sequence, `tensor` a layer.
    """
    from training.engine import build_engine

    model, recompute, compiles = VARIANTS[variant]
    with torch.device("cpu" if whole else "meta"):
        network = GPT(model, recompute)
    if whole:
        network.initialise(0)
    place = Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), sequence, tensor)
    if tensor > 1:
        split_layers(network, place)
    compile_blocks(network, compiles, stage)
    optimizer = build_optimizer(network, TRAIN)
    return build_engine(
        network,
        optimizer,
        zero=ZeroConfig(stage=stage, **zero),
        precision=precision,
        micro_batch=micro_batch,
        grad_clip=TRAIN.grad_clip,
        place=place,
        values=None if whole else network.drawn(0),
    )


def dealt(engine, tokens: torch.Tensor, micro_batch: int) -> tuple[Deal, torch.Tensor, torch.Tensor]:
    """How a global batch [N, T + 1] is dealt, this rank's sequences [slots, T + 1] with filler, and their weights."""
    deal = Deal(len(tokens), engine.place.data_size, micro_batch)
    mine = tokens[deal.part(engine.place.data_rank)]
    padded = torch.zeros(deal.slots, tokens.shape[1], dtype=torch.int64)
    padded[: len(mine)] = mine
    return deal, padded, (torch.arange(deal.slots) < len(mine)).float()


def main(stage: int, precision: str, micro_batch: int, variant: str, zero: str) -> None:
    from training.engine import leave

    model, engine = VARIANTS[variant][0], built(stage, precision, micro_batch, variant, **json.loads(zero))
    losses, norms = [], []
    for step in range(STEPS):
        tokens = batch(step)
        deal, padded, weights = dealt(engine, tokens, micro_batch)
        engine.set_lr(lr(step))
        seen = []
        forwards = deal.forwards
        for part in forwards:
            learned = task(model, padded[part], seed=0, positions=range(padded[part].shape[0]))
            total, by_sequence = engine(*learned, weights[part])
            engine.backward(total * (engine.world_size / len(tokens)), last=part is forwards[-1])
            seen.append(by_sequence)
        mean = gather_rows(torch.cat(seen)[weights > 0, None]).mean()
        losses.append(float(mean))
        norms.append(engine.step())
    final: dict[str, float] = {}
    mine = [(each.name, each.values.double().abs().sum().item()) for each in engine.parts()["weights"]]
    for sums in gather_objects(mine):
        for name, part in sums:
            final[name] = final.get(name, 0.0) + part
    if engine.rank == 0:
        print(json.dumps({"losses": losses, "norms": norms, "weights": final}))
    engine.close()
    leave(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])
