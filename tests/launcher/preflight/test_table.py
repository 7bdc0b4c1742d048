import pytest

from launcher.preflight.judge import Fault
from launcher.preflight.nodes import Node
from launcher.preflight.table import show


def test_a_row_for_each_node_with_what_is_wrong_marked_and_a_line_for_each_fault(
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = Node("n0", [0], values={"matmul_tflops": 612.3, "open_files": 65536}, same={"torch": "2.13.0"})
    bad = Node("n1", [1], values={"matmul_tflops": 61.2, "open_files": 65536}, seconds={"matmul_tflops": 1.26})
    slow = Fault("n1", "matmul_tflops", "61.2 TFLOP/s", "the median of 3 is 612 TFLOP/s", "look")
    full = Fault("n1", "write_mb_per_s", "failed: disk full", "expected a value", "make room")
    show([good, bad], [slow, full], 12.3)
    out = capsys.readouterr().out
    (first, second) = [line.split("│")[1:-1] for line in out.splitlines() if line.startswith("│")]
    assert [cell.strip() for cell in first] == ["n0", "1", "612 TFLOP/s", "-", "65536"]
    assert [cell.strip() for cell in second] == ["n1 !", "1", "61.2 TFLOP/s !", "- !", "65536"]
    assert "2 nodes, 12 s" in out and "torch 2.13.0" in out and "seconds: matmul_tflops 1.3" in out
    assert out.splitlines()[-2:] == [
        "n1: matrix multiply: 61.2 TFLOP/s; the median of 3 is 612 TFLOP/s: look",
        "n1: write: failed: disk full; expected a value: make room",
    ]
