"""The command line, in which each rank writes by how much its memory grew, at most, before DeepSpeed got the network.

`grown-RANK` holds JSON: the bytes, and those of the whole network in fp32. What would be imported meanwhile is imported
before. With ENDS in the environment the rank ends there.
"""

import json
import os
import resource
import sys
from pathlib import Path

import accelerate
import torch
import transformers.integrations.deepspeed  # noqa: F401

from launcher import cli, train
from training.engine import leave

built, prepare = train._built, accelerate.Accelerator.prepare
torch.optim.AdamW([torch.ones(1)])
at_first = 0


def most() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def counted(*arguments):
    global at_first
    at_first = most()
    return built(*arguments)


def measured(accelerator, module, optimizer):
    whole = 4 * sum(getattr(each, "ds_numel", each.numel()) for each in module.parameters())
    Path(f"grown-{os.environ['RANK']}").write_text(json.dumps([most() - at_first, whole]))
    if "ENDS" in os.environ:
        leave(0)
    return prepare(accelerator, module, optimizer)


train._built, accelerate.Accelerator.prepare = counted, measured
sys.argv[0] = "thalweg"
cli.main()
