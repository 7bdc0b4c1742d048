"""Checks of this machine, and of several that are processes on it, one of which is bad."""

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.preflight.check import Needs, Start, check
from launcher.preflight.judge import hosts_to_leave_out
from processes import command, environment, thalweg, write_run
from training.errors import RunError

BETWEEN = {"all_reduce_between_gb_per_s", "all_gather_between_gb_per_s"}
WITHIN = {"all_reduce_within_gb_per_s", "all_gather_within_gb_per_s"}
ALONE = {"matmul_tflops", "memory_gb_per_s", "write_mb_per_s", "free_gb", "shm_free_mib", "open_files", "clock_seconds"}


QUICK = """
from launcher.preflight import measures, network
measures.SECONDS = network.SECONDS = 0.1
measures.WRITTEN = 2**20
"""


def patched(folder: Path, code: str = "") -> dict[str, str]:
    """Variables with which a rank runs `code` first, and measures for a moment only."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f'import os\nif "RANK" in os.environ:\n    exec({QUICK + code!r})\n')
    return {"PYTHONPATH": os.pathsep.join([str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])}


@pytest.mark.slow
def test_a_good_machine_is_measured_and_passes(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    out, said = thalweg("preflight", run, "--processes", 2, "--json", cwd=tmp_path)
    told = json.loads(out)
    assert told["ok"] and told["faults"] == [] and told["seconds"] < 60 and not said
    (node,) = told["nodes"]
    assert node["values"].keys() == ALONE | WITHIN and node["ranks"] == [0, 1]
    assert all(value > 0 for name, value in node["values"].items() if name != "clock_seconds")
    assert node["same"].keys() >= {"python", "torch", "deepspeed", "thalweg", "manifest", "folder", "gpus"}
    assert node["seconds"].keys() >= node["values"].keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prepared", "run.yaml"]


DIES = """
import signal
if os.environ["RANK"] == "1":
    from launcher.preflight import network
    network.all_reduce_gb_per_s = lambda group, device: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="writes to /proc, where nobody may")
def test_what_is_wrong_with_a_machine_is_told_also_when_a_rank_dies(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (tmp_path / "prepared" / "manifest.json").unlink()
    text = run.read_text().replace("name: t", "name: t\nrun_dir: /proc/run")
    run.write_text(text)
    assert "/proc/run" in text
    done = subprocess.run(
        command("preflight", run, "--processes", 2),
        cwd=tmp_path,
        env=environment(**patched(tmp_path / "patched", DIES)),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400)),
    )
    assert done.returncode == 1, done.stderr
    host = socket.gethostname()
    assert done.stderr == f"preflight: 5 faults, on {host}\n"
    lines = done.stdout.splitlines()[-5:]
    for line, beginning in zip(
        lines,
        (
            "answer: rank 1 is gone or hangs, last at all_reduce_within_gb_per_s; ",
            "write: failed: ",
            "manifest: failed: [Errno 2] No such file or directory: ",
            "free disk: 0 GB; at least ",
            "open files: 400; at least 528 are needed: raise the limit: ulimit -n",
        ),
        strict=True,
    ):
        assert line.startswith(f"{host}: {beginning}"), done.stdout


@pytest.fixture
def ended() -> Iterator[list[subprocess.Popen]]:
    """Processes that are killed at the end of a test."""
    processes: list[subprocess.Popen] = []
    yield processes
    for each in processes:
        each.kill()
        each.wait()


def on_hosts(variables: dict[str, dict[str, str]], ended: list[subprocess.Popen], stops: str = "") -> Start:
    """Starts one rank on each "host", with variables of its own, and waits for all but one that `stops`."""

    def start(module: str, arguments: list[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
        shared |= {"WORLD_SIZE": str(len(variables)), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        for at, (host, own) in enumerate(variables.items()):
            named = {"RANK": str(at), "GROUP_RANK": str(at), "THALWEG_HOST": host}
            asked = [sys.executable, "-P", "-m", module, *arguments]
            ended.append(subprocess.Popen(asked, env=environment(**shared, **named, **own)))
        codes = [each.wait() for host, each in zip(variables, ended, strict=True) if host != stops]
        if any(codes):
            raise RunError(f"exit codes {codes}")

    return start


SLOW = """
import time, torch
matmul = torch.matmul
def slow(*arguments, **named):
    time.sleep(2 if os.environ["RANK"] == "1" else 0.2)  # far more than other work on this machine makes a difference
    return matmul(*arguments, **named)
torch.matmul = slow
"""
OFF = """
from launcher.preflight import measuring
now, hashed = time.time, measuring.manifest_hash
time.time = lambda: now() + 5
measuring.manifest_hash = lambda path: hashed(path.with_name("old"))
"""


@pytest.mark.slow
def test_of_three_machines_the_bad_one_is_named_for_each_of_its_faults(
    tmp_path: Path, ended: list[subprocess.Popen]
) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "old").write_text("{ }")
    good, bad = patched(tmp_path / "good", SLOW), patched(tmp_path / "bad", SLOW + OFF)
    start = on_hosts({"a": good, "b": bad, "c": good}, ended)
    verdict = check(start, Needs(tmp_path / "run", tmp_path / "manifest.json"))
    told = {(fault.host, fault.what): fault for fault in verdict.faults}
    for what in ("matmul_tflops", "clock_seconds", "manifest"):
        assert [host for host, each in told if each == what] == ["b"], verdict.faults
    assert told["b", "clock_seconds"].value == "5.0 s ahead of the others"
    assert "2 of 3 machines have" in told["b", "manifest"].expected
    assert "b" in hosts_to_leave_out(json.loads(json.dumps(verdict.as_json())))
    assert all(node.values.keys() == ALONE | BETWEEN for node in verdict.nodes)


HANGS = """
import signal, time
from launcher.preflight import network
def hang(group, device):
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(3600)  # other threads than this one may be stopped first
network.all_reduce_gb_per_s = hang
"""


@pytest.mark.slow
def test_a_machine_that_hangs_is_named_and_all_others_end(tmp_path: Path, ended: list[subprocess.Popen]) -> None:
    good = patched(tmp_path / "good")
    variables = {"a": good, "b": patched(tmp_path / "bad", HANGS), "c": good}
    verdict = check(on_hosts(variables, ended, stops="b"), Needs(tmp_path), ["a", "b", "c", "d"], limit=12)
    failed = [(fault.host, fault.value) for fault in verdict.faults if "GB/s" not in fault.value]
    assert failed[:2] == [
        ("b", "rank 1 is gone or hangs, last at all_reduce_between_gb_per_s"),
        ("d", "no rank was started there"),
    ], verdict.faults
    assert {"all_reduce_between_gb_per_s", "meeting"}.isdisjoint(fault.what for fault in verdict.faults)
