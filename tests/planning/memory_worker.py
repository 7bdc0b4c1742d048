"""A rank of a real group, which tells how many bytes its tensors have when gradients are whole."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from memory import Case, held

from training.engine import leave

os.write(1, f"{held(Case(**json.loads(sys.argv[1])))}\n".encode())  # whole: ranks share it
leave(0)
