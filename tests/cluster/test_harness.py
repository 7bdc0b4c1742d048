"""The hosts and the Slurm that the other tests here stand on are what they are taken for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hosts import Hosts, kill, name_of
from slurm import Slurm

pytestmark = pytest.mark.slow

SERVER = """
import socket
waiting = socket.create_server(("", 5000))
print("listening", flush=True)
peer = waiting.accept()[0]
while data := peer.recv(9):
    peer.send(data)
"""
CLIENT = """
import socket, sys
peer = socket.create_connection(("host1", 5000))
peer.settimeout(3)
for line in sys.stdin:
    try:
        peer.send(b"x")
        print("answered" if peer.recv(9) else "closed", flush=True)
    except (TimeoutError, ConnectionError) as error:
        print(type(error).__name__, flush=True)
"""
LISTENING_JOB = """
trap 'echo "$(date +%s) USR1"' USR1
trap 'echo "$(date +%s) TERM"; exit 1' TERM
echo "life ${SLURM_RESTART_COUNT:-0}"
[ -z "$SLURM_RESTART_COUNT" ] || exit 0
while :; do sleep 1 & wait $!; done
"""


def test_hosts_have_their_own_names_addresses_and_memory(hosts: Hosts) -> None:
    before = Path("/etc/hosts").read_text()
    seen = set()
    for name in hosts.names:
        script = f"hostname; hostname -I; ls /dev/shm; touch /dev/shm/of_{name}"
        host, address, *files = hosts.run("ctl", ["ssh", name, script]).stdout.split()
        assert host == name and address == hosts.address(name) and files == []
        seen.add(address)
    assert len(seen) == 2
    assert hosts.run("host1", ["ssh", "host2", "hostname"]).stdout == "host2\n"
    assert Path("/etc/hosts").read_text() == before and "10.77" not in before


@pytest.mark.parametrize(
    ("harm", "seen"),
    [
        (lambda hosts: [kill(each) for each in hosts.processes("host1") if name_of(each) == "python3"], "closed"),
        (lambda hosts: hosts.power_off("host1"), "TimeoutError"),
        (lambda hosts: hosts.cut("host1"), "TimeoutError"),
    ],
    ids=["killed", "powered_off", "cut"],
)
def test_only_a_process_that_is_killed_says_goodbye(hosts: Hosts, harm: Callable[[Hosts], None], seen: str) -> None:
    pipes = {"stdin": -1, "stdout": -1, "bufsize": 1}
    with hosts.popen("host1", ["python3", "-c", SERVER], **pipes) as server:
        assert server.stdout.readline() == "listening\n"
        with hosts.popen("host2", ["python3", "-c", CLIENT], **pipes) as client:

            def asked() -> str:
                client.stdin.write("\n")
                return client.stdout.readline().strip()

            assert asked() == "answered"
            harm(hosts)
            assert asked() in (seen, "ConnectionResetError" if seen == "closed" else seen)
            if hosts.is_on("host1") and seen != "closed":
                hosts.heal("host1")
                assert asked() == "answered"
            client.stdin.close()
    hosts.reset()
    assert hosts.run("ctl", ["ssh", "host1", "hostname"]).stdout == "host1\n"
    assert {name_of(each) for each in hosts.processes("host1")} <= {"sshd", ""}


def test_a_job_sees_a_machine_a_node(slurm: Slurm, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = slurm.submit("-N2", "-o", out, script="srun -l sh -c 'hostname; hostname -I'; hostname")
    slurm.wait_for_state(job, "COMPLETED")
    expected = [
        f"{task}: {each}" for task, node in enumerate(slurm.nodes[:2]) for each in (node, slurm.hosts.address(node))
    ]
    assert sorted(out.read_text().replace(" \n", "\n").splitlines()) == sorted([*expected, "node1"])


def test_a_signal_for_the_script_arrives_while_controller_and_daemon_restart(slurm: Slurm, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = slurm.submit("-o", out, "-w", "node2", script=LISTENING_JOB)
    slurm.wait_for_text(out, "life 0", job)
    slurm.kill_slurmd("node2")
    slurm.restart_controller()
    slurm.start_slurmd("node2")
    slurm.wait_until_idle(besides=["node2"])
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    slurm.wait_for_text(out, "USR1", job)
    slurm.run("scancel", job)
    slurm.wait_for_state(job, "CANCELLED")
    assert out.read_text().count("life") == 1


@pytest.mark.parametrize(("partition", "end"), [("low", "COMPLETED"), ("cancelled", "PREEMPTED")])
def test_preemption_signals_the_script_and_then_takes_the_node(
    slurm: Slurm, tmp_path: Path, partition: str, end: str
) -> None:
    """With --signal=B:USR1 the script gets CONT and USR1 as the grace begins and its tasks nothing, and up to 5 s after
    the grace all processes get CONT and TERM. Without it the tasks get CONT and TERM first, the script nothing."""
    out = tmp_path / "out"
    options = ["-p", partition, "-w", "node3", "--exclusive", "-t", 5, "--signal=B:USR1@60", "--open-mode=append"]
    job = slurm.submit(*options, "-o", out, script=LISTENING_JOB)
    slurm.wait_for_text(out, "life 0", job)
    slurm.submit("-w", "node3", "--exclusive", script="true")
    slurm.wait_for_text(out, "USR1", job)
    assert slurm.job(job)["PreemptTime"] != "None"
    assert slurm.wait_for_state(job, end)["Restarts"] == str(int(partition == "low"))
    said = out.read_text().split("\n")
    times = {line.split()[1]: int(line.split()[0]) for line in said if line.endswith(("USR1", "TERM"))}
    assert times["TERM"] - times["USR1"] >= 9
    assert ("life 1" in said) == (partition == "low")


def test_a_job_that_lost_a_node_starts_again(slurm: Slurm, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = slurm.submit("-N2", "-w", "node1", "-o", out, "--open-mode=append", script=LISTENING_JOB)
    slurm.wait_for_text(out, "life 0", job)
    lost = slurm.job(job)["NodeList"].replace("node[1,", "node").replace("node[1-", "node").rstrip("]")
    slurm.power_off(lost)
    slurm.wait_for(f"{lost} is down", lambda: "DOWN" in slurm.node(lost)["State"])
    slurm.wait_for_text(out, "life 1", job)
    assert slurm.wait_for_state(job, "COMPLETED")["Restarts"] == "1"
    assert slurm.past_lives(job) == ["NODE_FAIL", "COMPLETED"]
    assert not slurm.hosts.is_on(lost)
