"""One rank of the engine on made-up batches; rank 0 prints what the hooks saw of each forward of all ranks."""

import json
import sys

import torch

from data_pipeline.deal import Deal
from model.gpt import GPT
from model.objective import task
from parity_worker import TRAIN, VARIANTS, batch
from training.collectives import gather_objects, gather_rows
from training.compilation import compile_blocks
from training.gradient_norms import GradientNorms
from training.optimizer import build_optimizer

STEPS, MICRO_BATCH = 3, 2


def main(stage: int, precision: str, variant: str) -> None:
    from training.engine import build_engine, leave

    model, recompute, compiles = VARIANTS[variant]
    network = GPT(model, recompute)
    network.initialise(0)
    compile_blocks(network, compiles, stage)
    engine = build_engine(
        network,
        build_optimizer(network, TRAIN),
        zero_stage=stage,
        precision=precision,
        micro_batch=MICRO_BATCH,
        grad_clip=TRAIN.grad_clip,
    )
    engine.set_lr(0.0)  # the weights stay, so that every step is told from the first ones
    steps = []
    for step in range(STEPS):
        tokens = batch(step)
        deal = Deal(len(tokens), engine.world_size, MICRO_BATCH)
        mine = tokens[deal.part(engine.rank)]
        padded = torch.zeros(deal.slots, tokens.shape[1], dtype=torch.int64)
        padded[: len(mine)] = mine
        weights = (torch.arange(deal.slots) < len(mine)).float()
        norms = GradientNorms(network.parameters(), len(deal.forwards), engine.device)
        for part in deal.forwards:
            learned = task(model, padded[part], seed=0, positions=range(padded[part].shape[0]))
            total, _ = engine(*learned, weights[part])
            engine.backward(total * (engine.world_size / len(tokens)), last=part is deal.forwards[-1])
        squares = gather_rows(norms.squares()[:, None])[:, 0].tolist()
        norms.close()
        fired = sum(gather_objects(norms.fired), [])
        norm = engine.step()
        steps.append({"squares": squares, "fired": fired, "forwards": len(deal.forwards), "norm": norm})
    if engine.rank == 0:
        print(json.dumps(steps))
    engine.close()
    leave(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
