"""A copy of the code and of the configuration in the run folder, which a job runs whatever becomes of the checkout.

RUN_DIR/snapshots/<hash of the code>/
  code/                  the packages, configs/, slurm/, pyproject.toml
    commit               of the checkout, `-dirty` where it was edited
    changes.diff         those edits
  run-<hash>.yaml        the resolved configuration; all paths are absolute
  recipe-<hash>.yaml     of data that are prepared on first use
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import xxhash

from data_pipeline.durable import whole_folder, write_whole
from launcher.config import RunConfig, load_recipe
from launcher.preflight.versions import ROOMS
from launcher.yaml_file import write_yaml
from training.run_folder import commit

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, or the code of a snapshot."""

PARTS = (*ROOMS, "configs", "slurm")


class Snapshot:
    """What a job is to run. Nothing is written before `write`, and the same code is copied once."""

    def __init__(self, config: RunConfig) -> None:
        """`config` is one whose paths are all absolute. Raises InputError for a recipe that cannot be read."""
        self._files = {str(path.relative_to(ROOT)): path.read_bytes() for path in _files()}
        hashed = xxhash.xxh3_128()
        for name, content in sorted(self._files.items()):
            hashed.update(f"{name}\0{len(content)}\0".encode() + content)
        self.folder = config.folder / "snapshots" / hashed.hexdigest()[:16]
        self.code = self.folder / "code"
        self._texts: dict[Path, str] = {}
        self.recipe: Path | None = None
        if config.data.prepare is not None:
            self.recipe = self._add("recipe", write_yaml(load_recipe(config.data.prepare).model_dump(mode="json")))
            data = config.data.model_copy(update={"prepare": self.recipe})
            config = config.model_copy(update={"data": data})
        self.config = self._add("run", config.dump())

    def _add(self, kind: str, text: str) -> Path:
        path = self.folder / f"{kind}-{xxhash.xxh3_64_hexdigest(text.encode())}.yaml"
        self._texts[path] = text
        return path

    def write(self) -> None:
        """Puts into the run folder what is not there yet."""
        if not self.folder.exists():
            with whole_folder(self.folder) as folder:
                for name, content in self._files.items():
                    path = folder / "code" / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                (folder / "code" / "commit").write_text(commit() or "")
                if changes := _changes():
                    (folder / "code" / "changes.diff").write_bytes(changes)
        for path, text in self._texts.items():
            if not path.exists():
                write_whole(path, text)


def resolved(config: RunConfig) -> RunConfig:
    """The same run from any working directory."""
    data = config.data
    if isinstance(data.folder, Path):
        data = data.model_copy(update={"path": data.folder.absolute()})
    return config.model_copy(update={"run_dir": config.folder.absolute(), "data": data})


def _files() -> Iterator[Path]:
    yield ROOT / "pyproject.toml"
    for part in PARTS:
        for path in (ROOT / part).rglob("*"):
            within = path.relative_to(ROOT).parts
            if path.is_file() and not any(name.startswith(".") or name == "__pycache__" for name in within):
                yield path


def _changes() -> bytes:
    """How the code that is copied differs from the commit; empty where there is no checkout. New files are left out."""
    command = ["git", "-C", str(ROOT), "diff", "--binary", "HEAD", "--", *PARTS, "pyproject.toml"]
    try:
        return subprocess.run(command, capture_output=True, check=False).stdout
    except OSError:
        return b""
