from pathlib import Path

import pytest

from data_pipeline.engines.local import Local
from data_pipeline.engines.ray import Ray
from data_pipeline.engines.slurm import Slurm
from data_pipeline.errors import InputError
from launcher.prepare_engine import engine_of


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Beside a site.yaml."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "site.yaml").write_text(
        "{account: us, partition: gpu, memory: 500G, cpus_per_node: 64, exclusive: true, python: /env/bin/python, "
        "environment: [module load python], prepare: {partition: cpu, time: 12h}}"
    )
    return tmp_path / "recipe.yaml"


def test_slurm_asks_for_single_cores_and_options_win_over_the_site(recipe: Path) -> None:
    engine = engine_of("slurm", 8, recipe, {"time": "0:30:00", "memory": None, "partition": None})
    assert engine == Slurm(
        ("--account=us", "--partition=cpu", "--time=0-00:30:00", "--cpus-per-task=1", "--mem=4096M"),
        ("module load python",),
        ("/env/bin/python",),
        8,
    )
    engine = engine_of("slurm", None, recipe, {"time": None, "memory": "512Mi", "partition": "debug"})
    assert isinstance(engine, Slurm) and {"--partition=debug", "--mem=512M"} <= set(engine.options)


def test_the_other_engines(recipe: Path) -> None:
    nothing = {"time": None, "partition": None}
    assert engine_of("local", None, recipe, nothing) == Local()
    assert engine_of("local", 3, recipe, nothing) == Local(3)
    assert engine_of("ray", 3, recipe, nothing) == Ray(3)
    with pytest.raises(InputError, match="--partition: goes with --executor slurm"):
        engine_of("ray", 3, recipe, nothing | {"partition": "cpu"})


def test_what_slurm_cannot_take_is_said(recipe: Path) -> None:
    with pytest.raises(InputError, match="options: memory"):
        engine_of("slurm", None, recipe, {"memory": "much"})
    (recipe.parent / "site.yaml").write_text("container: {kind: pyxis, image: /images/train.sqsh}")
    with pytest.raises(InputError, match=r"container: .*submit --prepare"):
        engine_of("slurm", None, recipe, {})
