"""One rank of the engine on made-up batches; rank 0 prints what the hooks saw of each forward of all ranks."""

import json
import sys

from model.objective import task
from parity_worker import VARIANTS, batch, built, dealt
from training.collectives import gather_objects, gather_rows
from training.gradient_norms import GradientNorms

STEPS, MICRO_BATCH = 3, 2


def main(stage: int, precision: str, variant: str, sequence: int) -> None:
    from training.engine import leave

    model, engine = VARIANTS[variant][0], built(stage, precision, MICRO_BATCH, variant, sequence)
    engine.set_lr(0.0)  # the weights stay, so that every step is told from the first ones
    steps = []
    for step in range(STEPS):
        tokens = batch(step)
        deal, padded, weights = dealt(engine, tokens, MICRO_BATCH)
        norms = GradientNorms(engine.network.parameters(), len(deal.forwards), engine.device, engine.groups)
        for part in deal.forwards:
            learned = task(model, padded[part], seed=0, positions=range(padded[part].shape[0]))
            total, _ = engine(*learned, weights[part])
            engine.backward(total * (engine.world_size / len(tokens)), last=part is deal.forwards[-1])
        squares = gather_rows(norms.squares()[: None if engine.place.counts else 0, None])[:, 0].tolist()
        norms.close()
        fired = sum(gather_objects(norms.fired), [])
        norm = engine.step()
        steps.append({"squares": squares, "fired": fired, "forwards": len(deal.forwards), "norm": norm})
    if engine.rank == 0:
        print(json.dumps(steps))
    engine.close()
    leave(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
