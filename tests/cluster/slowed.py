"""Submitted runs that take their time until a test lets them go."""

import yaml

from submitted import Submitted

SLOW = """
import os, time
from pathlib import Path
from training import checkpoint_writing as writing, loop

step, write = loop._step, writing.write

def slow_step(*arguments):
    if not Path({gate!r}).exists():
        time.sleep({a_step})
    return step(*arguments)

def slow_write(path, parts):
    if os.environ["RANK"] == "1" and path.parent.name == "weights" and not Path({gate!r}).exists():
        time.sleep({a_save})
    write(path, parts)

loop._step, writing.write = slow_step, slow_write
"""


def slow_down(run: Submitted, a_step: float = 2.0, a_save: float = 0.0, **site: object) -> None:
    """Makes every step take seconds longer, and rank 1 every save; `site` is what else site.yaml says."""
    patched = run.folder / "patched"
    patched.mkdir()
    slow = SLOW.format(gate=str(run.folder / "gate"), a_step=a_step, a_save=a_save)
    (patched / "sitecustomize.py").write_text(f'import os\nif "RANK" in os.environ:\n    exec({slow!r})\n')
    environment = [f"export PYTHONPATH={patched}"]
    (run.folder / "site.yaml").write_text(yaml.safe_dump({"environment": environment} | site))


def let_go(run: Submitted) -> None:
    """From now on nothing is slow."""
    (run.folder / "gate").touch()
