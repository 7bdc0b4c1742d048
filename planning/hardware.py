"""Machines as a plan needs to know them: files of configs/hardware/, or a site's own of the same form."""

import difflib
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from data_pipeline.config_base import Section
from data_pipeline.errors import InputError
from planning.layout import Device

FILES = Path(__file__).resolve().parents[1] / "configs" / "hardware"


class Peaks(Section):
    """FLOP/s of one device without sparsity."""

    bf16: float = Field(gt=0, description="Of its data sheet; mfu is a share of it.")
    fp32: float = Field(gt=0, description="Of products in fp32, or TF32 where they may be.")


class Link(Section):
    """What a device sends over, and receives over at the same time; of storage a node."""

    name: str
    bandwidth: float = Field(gt=0, description="Bytes per second in one direction.")


class Hardware(Section):
    """Nodes of devices of one kind."""

    name: str
    source: str = Field(description="Where the figures are from.")
    device: Device = Field("cuda", description="What a device is: a GPU (cuda) or the CPU of a process.")
    devices_per_node: int = Field(gt=0)
    memory: float = Field(gt=0, description="Bytes of one device that a process can have.")
    peak_flops: Peaks
    matmul_flops: float = Field(gt=0, description="FLOP/s of the fastest large product in bf16 that was measured.")
    memory_bandwidth: float = Field(gt=0, description="Bytes per second of a device's memory.")
    inside: Link = Field(description="Between the devices of a node.")
    between: Link = Field(description="Between nodes, for each device.")
    host: Link = Field(description="Between a device and the memory of its host.")
    host_memory: float = Field(gt=0, description="Bytes of memory of a node's host.")
    storage: Link = Field(description="To where checkpoints are written, of each node while all of them write.")
    watts: float = Field(gt=0, description="Of one device with its share of the node, when it is busy.")


def load_hardware(name: str) -> Hardware:
    """The hardware of a name in configs/hardware/, or of a file. Raises InputError with every mistake."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FILES / f"{name}.yaml"
    if not path.is_file():
        known = sorted(each.stem for each in FILES.glob("*.yaml"))
        near = difflib.get_close_matches(name, known, n=1)
        mend = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
        raise InputError(f"--gpu {name}: is not described; {mend} Or give a file such as configs/hardware/h100.yaml")
    try:
        return Hardware.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        mistakes = [f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise InputError("\n".join(mistakes)) from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is no YAML ({' '.join(str(error).split())})") from None
