"""What has to be the same on all machines: versions, the code itself, the prepared data."""

import platform
import re
from pathlib import Path

import torch
import xxhash

from training.run_folder import package_version

ROOMS = ("model", "data_pipeline", "training", "evaluation", "planning", "launcher")
DRIVER = Path("/proc/driver/nvidia/version")


def versions() -> dict[str, str]:
    """The version of each thing that this machine has."""
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deepspeed": package_version("deepspeed"),
        "thalweg": f"{package_version('thalweg')} {code_hash(Path(__file__).parents[2])}",
        "cuda": torch.version.cuda,
    }
    if torch.cuda.is_available():
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    if DRIVER.exists() and (told := re.search(r"\s(\d+\.\d[\d.]*)\s", DRIVER.read_text())):
        found["driver"] = told[1]
    return {name: value for name, value in found.items() if value is not None}


def code_hash(root: Path) -> str:
    """Of the Python files of this package's folders in `root`, by name and content: the version alone never tells."""
    told = xxhash.xxh3_64()
    for path in sorted(path for room in ROOMS for path in (root / room).rglob("*.py")):
        told.update(f"{path.relative_to(root)}\0".encode())
        told.update(path.read_bytes())
    return told.hexdigest()


def manifest_hash(path: Path) -> str:
    """Of the bytes of a prepared folder's manifest. Raises OSError where it is not there."""
    return xxhash.xxh3_128_hexdigest(path.read_bytes())
