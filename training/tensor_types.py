"""The types in which an engine keeps, computes, accumulates and reduces, read off what it has built."""

from typing import Any

import torch
from torch import nn

from training.fragments import fragments, optimizer_state


def tensor_types(engine: Any, network: nn.Module) -> dict[str, torch.dtype]:
    """The types by name; `engine` is DeepSpeed's.

    `parameters` as a forward uses them, `masters` that the optimizer steps, `gradients` as a backward computes them,
    their `accumulation` and `reduction`, and AdamW's `moments`.
    """
    held = next(network.parameters()).dtype
    homes = [each.home for each in fragments(engine, network)]
    computes_in = getattr(engine.module, "computes_in", held)
    optimizer, state = engine.optimizer, optimizer_state(engine)
    if hasattr(optimizer, "fp32_groups_gradients_flat"):  # of DeepSpeed's optimizer for stage 1 in bf16
        accumulation = optimizer.fp32_groups_gradients_flat[0].dtype
    else:  # torch accumulates in the type of the parameter, where ZeRO does not
        accumulation = getattr(optimizer, "gradient_accumulation_dtype", held)
    masters = homes[0].dtype if homes else torch.float32
    return {
        "parameters": computes_in,
        "masters": masters,
        "gradients": computes_in,
        "accumulation": accumulation,
        "reduction": getattr(optimizer, "communication_data_type", engine.communication_data_type),
        # AdamW makes them at its first step, like the masters.
        "moments": next((each["exp_avg"].dtype for each in state.values()), masters),
    }


def said(types: dict[str, torch.dtype]) -> str:
    """The same as one line."""
    short = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    return ", ".join(f"{name} {short.get(each, each)}" for name, each in types.items())
