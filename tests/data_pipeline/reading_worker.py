"""A rank that reads its part of a run and settles it with the others: FOLDER OUT MICRO_BATCH STEPS POSITION HASH."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.append(str(Path(__file__).parent))

from data_pipeline.loader import Loader
from data_pipeline.stream import StreamState
from test_loader import stream_of
from training.collectives import talk_over_loopback
from training.ledger import Ledger

folder, out, micro, steps, position, running = sys.argv[1:]
talk_over_loopback()
dist.init_process_group("gloo")
stream, state = stream_of(Path(folder)), StreamState(int(position))
ledger = Ledger(stream, torch.device("cpu"))
ledger.data_hash = running
loader = Loader(stream, state, 13, int(micro), dist.get_rank(), dist.get_world_size())
for _ in range(int(steps)):
    batch = next(loader)
    ledger.enter(batch, torch.zeros(len(batch.token_hashes)))
    state = batch.state
ledger.settle()
loader.close()
if dist.get_rank() == 0:
    Path(out).write_text(f"{state.position} {ledger.data_hash}")
dist.barrier()
dist.destroy_process_group()
