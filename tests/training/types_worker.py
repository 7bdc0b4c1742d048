"""One rank of the engine; on rank 0 prints what the log says of its types, and those seen in a step."""

import json
import logging
import sys
from pathlib import Path

import torch
from torch.profiler import profile

from model.objective import task
from parity_worker import MODEL, batch, built, dealt
from training.fragments import optimizer_state

SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", "float": "fp32", "c10::BFloat16": "bf16"}


class Lines(logging.Handler):
    said: list[str] = []  # noqa: RUF012

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def accumulated(engine) -> list[torch.Tensor]:
    """What holds gradients between the last backward and the optimizer's step."""
    optimizer = engine._engine.optimizer
    if flat := getattr(optimizer, "fp32_groups_gradients_flat", None):
        return list(flat)
    if gradients := getattr(optimizer, "averaged_gradients", None):
        return [tensor for group in gradients.values() for tensor in group]
    return [each.grad for each in engine.network.parameters()]


def main(stage: int, precision: str, trace: Path) -> None:
    from training.engine import leave

    logger = logging.getLogger("thalweg.train")
    logger.setLevel(logging.INFO)
    logger.addHandler(Lines())
    engine = built(stage, precision, 2)
    seen = {"parameters": set(), "gradients": set()}

    def look(module: torch.nn.Module, _: object) -> None:
        seen["parameters"].add(module.weight.dtype)
        module.weight.register_hook(lambda gradient: seen["gradients"].add(gradient.dtype))

    engine.network.blocks[0].norm_attention.register_forward_pre_hook(look)
    deal, padded, weights = dealt(engine, batch(0), 2)
    engine.set_lr(1e-3)
    with profile(record_shapes=True) as profiled:
        for part in deal.forwards:
            total, _ = engine(*task(MODEL, padded[part], seed=0, positions=range(2)), weights[part])
            engine.backward(total, last=part is deal.forwards[-1])
    seen["accumulation"] = {each.dtype for each in accumulated(engine)}
    engine.step()
    state = optimizer_state(engine._engine)
    seen["masters"] = {home.dtype for home in state}
    seen["moments"] = {each[name].dtype for each in state.values() for name in ("exp_avg", "exp_avg_sq")}
    if engine.rank == 0:
        profiled.export_chrome_trace(str(trace))
        happened = json.loads(trace.read_text())["traceEvents"]
        kinds = ("gloo:all_reduce", "gloo:reduce_scatter", "gloo:reduce")
        seen["reduction"] = {each["args"]["Input type"][0] for each in happened if each["name"] in kinds}
        shown = {name: sorted(SHORT[each] for each in types) for name, types in seen.items()}
        print(json.dumps({"seen": shown, "said": Lines.said}))
    engine.close()
    leave(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
