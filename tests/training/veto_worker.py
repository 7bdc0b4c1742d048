"""One rank: steps that are made, refused, and on one rank spoilt or made apart; prints which changed anything.

What is spoilt `late` is so after ranks were averaged, as by faulty memory.
"""

import json
import math
import sys

import torch

from model.objective import task
from parity_worker import MODEL, batch, built, dealt
from training.collectives import gather_objects
from training.cuts import WHOLE
from training.engine import leave

MICRO_BATCH = 2
PLAN = ("refused", "made", "refused", "spoilt", "late", "made", "apart")


def state(engine) -> dict[str, torch.Tensor]:
    parts = [
        (f"{kind}/{part.name}/{part.start}", part.values) for kind, some in engine.parts().items() for part in some
    ]
    return {name: values.clone() for name, values in parts} | {
        # At stage 3 a weight is whole now and then only; its part is always there.
        f"network/{name}": getattr(each, "ds_tensor", each).detach().clone()
        for name, each in engine.network.named_parameters()
    }


def backward(engine, step: int) -> None:
    tokens = batch(step)
    deal, padded, weights = dealt(engine, tokens, MICRO_BATCH)
    for part in deal.forwards:
        learned = task(MODEL, padded[part], seed=0, positions=range(padded[part].shape[0]))
        total, _ = engine(*learned, weights[part])
        engine.backward(total * (engine.place.replicas / len(tokens)), last=part is deal.forwards[-1])


def main(stage: int, precision: str, zero: str) -> None:
    fields = json.loads(zero)
    engine, seen = built(stage, precision, MICRO_BATCH, **fields), []
    # DeepSpeed takes the norm of what it offloads while it reduces that: what is spoilt behind that nobody sees.
    plan = PLAN if fields.get("offload_optimizer", "none") == "none" else [each for each in PLAN if each != "late"]
    for step, what in enumerate(plan):
        before, asked = state(engine), []

        def approves(norm: float, what: str = what, asked: list[float] = asked) -> bool:
            asked.append(norm)
            return what != "refused" and all(map(math.isfinite, gather_objects(norm)))  # as the loop does

        engine.set_lr(1e-3)
        hooks = []
        if what in ("spoilt", "apart") and engine.rank == engine.world_size - 1:
            weight, factor = next(iter(engine.network.parameters())), {"spoilt": math.nan, "apart": 1.01}[what]
            hooks.append(weight.register_hook(lambda gradient, factor=factor: gradient * factor))
        backward(engine, step)
        for hook in hooks:
            hook.remove()
        if what == "late" and engine.rank == engine.world_size - 1:
            engine.gradients()[0].values.view(-1)[0] = math.nan
        norm = engine.step(approves)
        after = state(engine)
        same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
        everywhere = gather_objects((what, asked == [norm], what == "late" or norm, engine.stepped, same))
        assert len(set(everywhere)) == 1, everywhere
        if engine.place.tensor > 1:  # what each has whole is the same on all
            held = [(each.name, each.of(each.home).tolist()) for each in engine._fragments if each.cut == WHOLE]
            assert all(each == held for each in gather_objects(held, engine.groups.tensor)), what
        seen.append({"what": what, "asked_once": asked == [norm], "finite": math.isfinite(norm)})
        seen[-1] |= {"stepped": engine.stepped, "same": same, "steps": engine.optimizer_steps}
    if engine.rank == 0:
        print(json.dumps(seen))
    engine.close()
    leave(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
