import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "stream.py"


def row(text: str, contender: str) -> list[str]:
    [found] = [line for line in text.splitlines() if line.startswith(f"| {contender} | 0 |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("megatron") is not None, reason="needs an environment where a contender cannot run")
def test_a_small_run_writes_a_whole_result_and_names_what_broke(tmp_path: Path) -> None:
    small = ["--rounds", "1", "--tokens", "1.4M", "--seconds", "0.2", "--data", tmp_path / "data"]
    chosen = ["--only", "thalweg", "numpy", "megatron", "--other-python", sys.executable]
    subprocess.run([sys.executable, SCRIPT, *small, *chosen, "--out", tmp_path / "out"], check=True)
    [path] = (tmp_path / "out").glob("*-stream-cpu.md")
    text = path.read_text()
    for contender in ("thalweg", "numpy"):
        _, _, *numbers, exact, memory, over_imports = row(text, contender)
        assert exact == "yes"
        assert all(float(each) > 0 for each in (*numbers, memory)) and len(numbers) == 6
        assert float(over_imports) < float(memory)
    assert row(text, "megatron")[2:] == ["-"] * 9
    assert "- megatron: its data could not be written (ModuleNotFoundError: No module named 'megatron')" in text
    assert "tokens/s, ours over NumPy" in text
    cells = json.loads(path.with_suffix(".json").read_text())["cells"]
    for cell in cells[:2]:
        [run], [resume] = cell["run"], cell["resume"]
        assert run["digest"] != resume["digest"] == cell["reference"]["digest"]
        assert run["peak"] >= run["imported"] > 0


@pytest.mark.slow
def test_what_names_no_contender_or_too_few_tokens_is_refused() -> None:
    for wrong, words in ((["--tokens", "1M"], "at least 1.4M"), (["--only", "nobody"], "nobody")):
        ended = subprocess.run([sys.executable, SCRIPT, *wrong], capture_output=True, text=True)
        assert ended.returncode == 2 and words in ended.stderr
