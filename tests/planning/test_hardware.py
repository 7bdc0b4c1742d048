"""Descriptions of machines."""

from pathlib import Path

import pytest
import yaml

from data_pipeline.errors import InputError
from planning.hardware import FILES, load_hardware


@pytest.mark.parametrize("name", sorted(each.stem for each in FILES.glob("*.yaml")))
def test_what_is_described_is_sound(name: str) -> None:
    hardware = load_hardware(name)
    assert hardware.matmul_flops <= hardware.peak_flops.bf16 and hardware.peak_flops.fp32 < hardware.peak_flops.bf16
    assert hardware.between.bandwidth < hardware.inside.bandwidth < hardware.memory_bandwidth
    assert hardware.memory * hardware.devices_per_node < hardware.host_memory * 2


def test_a_site_describes_its_own(tmp_path: Path) -> None:
    described = yaml.safe_load((FILES / "h100.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described | {"name": "mine", "devices_per_node": 4}))
    assert load_hardware(str(tmp_path / "mine.yaml")).devices_per_node == 4
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described | {"memory": -1, "bandwith": 1}))
    with pytest.raises(InputError, match=r"mine.yaml: memory: .*greater than 0\n.*mine.yaml: bandwith: "):
        load_hardware(str(tmp_path / "mine.yaml"))


def test_an_unknown_name_has_its_nearest_told() -> None:
    with pytest.raises(InputError, match="--gpu h1000: is not described; did you mean h100"):
        load_hardware("h1000")
    with pytest.raises(InputError, match=r"there are a100-40, a100-80, b200, cpu, h100, h200\. Or give"):
        load_hardware("zz")
