"""`thalweg launch --hostfile` on two hosts with addresses of their own, over ssh."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import launcher.logs
from hosts import Hosts, kill, name_of, started_inside, words_of
from processes import command, environment, events, metrics, thalweg, wait_for, write_run

pytestmark = pytest.mark.slow
LONG = ["train.tokens=100M", "train.decay_tokens=100M", "checkpoint.every_tokens=800"]
OURS = ("sshd", "ssh", "nsenter")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "hosts").write_text("host1 slots=1\nhost2 slots=1\n")
    return write_run(tmp_path)


@contextmanager
def launching(hosts: Hosts, run: Path, *arguments: object, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`thalweg launch` on ctl, in the folder of the run."""
    process = hosts.popen(
        "ctl",
        command("launch", run, "--hostfile", "hosts", *arguments),
        cwd=run.parent,
        env=environment(TORCH_ELASTIC_SHUTDOWN_TIMEOUT="5", **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(run.parent / "said").open("a"),
    )
    try:
        yield process
    finally:
        for each in hosts.processes("ctl"):
            if name_of(each) not in OURS:
                kill(each)
        process.wait()


def launched(hosts: Hosts, run: Path, *arguments: object, code: int = 0, **variables: str) -> str:
    """What a launch says that ends by itself with `code`."""
    with launching(hosts, run, *arguments, **variables) as process:
        process.wait()
        said = (run.parent / "said").read_text()
        assert process.returncode == code, said
        return said


def left_running(hosts: Hosts) -> list[str]:
    """Processes of ours on the hosts that are on."""
    found = [(host, " ".join(words_of(each))) for host in hosts.names for each in hosts.processes(host)]
    return [f"{host}: {words}" for host, words in found if "launcher" in words]


def steps(run: Path) -> int:
    path = run.parent / "runs" / "t" / "metrics.jsonl"
    return metrics(path.parent)[-1]["step"] if path.exists() and metrics(path.parent) else 0


def test_hosts_train_the_same_run_as_one_machine(hosts: Hosts, run: Path) -> None:
    run.write_text(run.read_text() + "run_dir: ${SCRATCH_OF_MINE}/t\n")
    given = {"SCRATCH_OF_MINE": 'it\'s "here" $HOME'}
    launched(hosts, run, "--env", "SCRATCH_OF_MINE", **given)
    thalweg("launch", run, "--processes", 2, "run_dir=here", cwd=run.parent, **given)
    folder = run.parent / given["SCRATCH_OF_MINE"] / "t"
    for one, other in zip(metrics(folder), metrics(run.parent / "here"), strict=True):
        assert (one["step"], one["data_hash"]) == (other["step"], other["data_hash"])
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    [logs] = (folder / "logs").iterdir()
    assert sorted(path.name for path in logs.iterdir()) == ["rank-00000.log", "rank-00001.log"]
    assert not left_running(hosts)


def test_a_host_that_vanishes_ends_the_run_and_the_same_command_goes_on(hosts: Hosts, run: Path) -> None:
    """Its processes live on, hear nothing more from the launcher, and end by themselves."""
    with launching(hosts, run, *LONG) as process:
        wait_for(lambda: steps(run) > 30, process)
        hosts.cut("host2")
        assert process.wait() == 1
    assert "host2: the connection was lost" in (run.parent / "said").read_text().splitlines()[-1]
    assert not [each for each in left_running(hosts) if each.startswith("host1")]
    while left_running(hosts):
        assert hosts.is_on("host2")
    hosts.heal("host2")
    launched(hosts, run, *LONG, "train.tokens=8000", "checkpoint.every_tokens=null")
    folder = run.parent / "runs" / "t"
    lines = {line["step"]: line for line in metrics(folder)}
    assert sorted(lines) == list(range(1, max(lines) + 1)) and lines[max(lines)]["tokens"] >= 8000
    told = [each["event"] for each in events(folder) if each["event"] in ("start", "resume", "end")]
    assert told == ["start", "resume", "end"]


def test_a_run_starts_again_when_a_host_is_back_and_not_when_that_is_no_longer_wanted(hosts: Hosts, run: Path) -> None:
    folder = run.parent / "runs" / "t"

    def told(event: str) -> int:
        return [each["event"] for each in events(folder)].count(event)

    with launching(hosts, run, *LONG, "--restarts", 1) as process:
        for number in (1, 2):
            wait_for(lambda: steps(run) > 30 * number, process)  # noqa: B023
            hosts.power_off("host2")
            wait_for(lambda: told("life_end") == number, process)  # noqa: B023
            if number == 1:
                wait_for(lambda: "asks again" in (run.parent / "said").read_text(), process)
                hosts.boot("host2")
                wait_for(lambda: told("resume") == 1, process)
        out = hosts.run("ctl", command("stop", folder), env=environment(), cwd=run.parent).stdout
        assert process.wait() == 75
    assert "asked" in out and told("stop") == 1 and told("resume") == 1
    [first, _] = [each for each in events(folder) if each["event"] == "life_end"]
    assert first["then"] == "again" and first["reason"].startswith("host2: the connection was lost")


def test_a_preflight_names_a_host_that_is_gone_and_checks_the_others(hosts: Hosts, run: Path) -> None:
    (run.parent / "hosts").write_text("root@host1 slots=1\nhost9\nroot@host2 slots=1\n")
    asked = command("preflight", run, "--hostfile", "hosts", "--json")
    done = hosts.run("ctl", asked, check=False, env=environment(), cwd=run.parent)
    told = json.loads(done.stdout)
    assert done.returncode == 1 and [node["host"] for node in told["nodes"]] == ["host1", "host2", "host9"]
    assert [fault["host"] for fault in told["faults"] if fault["what"] == "answer"] == ["host9"]
    assert "does not answer over ssh" in told["faults"][0]["value"]
    assert all("all_reduce_between_gb_per_s" in node["values"] for node in told["nodes"][:2])


def test_a_killed_rank_ends_all_and_its_last_lines_are_shown(hosts: Hosts, run: Path) -> None:
    with launching(hosts, run, *LONG) as process:
        wait_for(lambda: steps(run) > 5, process)
        [rank] = [each for each in hosts.processes("host2") if "launcher.cli" in words_of(each)]
        rank.kill()
        assert process.wait() == 1
    said = (run.parent / "said").read_text()
    assert "rank 1 ended with SIGKILL" in said.splitlines()[-1]
    assert not left_running(hosts)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_launcher_that_is_interrupted_saves_everywhere(hosts: Hosts, run: Path, number: signal.Signals) -> None:
    with launching(hosts, run, *LONG) as process:
        wait_for(lambda: steps(run) > 5, process)
        started_inside(process).send_signal(number)
        assert process.wait() == 75
    told = events(run.parent / "runs" / "t")
    [signalled] = [each["step"] for each in told if each["event"] == "signal"]
    assert max(each["step"] for each in told if each["event"] == "checkpoint") == signalled == steps(run)
    assert not left_running(hosts)


def test_a_killed_launcher_leaves_no_process_behind(hosts: Hosts, run: Path) -> None:
    with launching(hosts, run, *LONG) as process:
        wait_for(lambda: steps(run) > 5, process)
        started_inside(process).kill()
        for each in hosts.processes("ctl"):
            if name_of(each) == "ssh":
                kill(each)
        while left_running(hosts):
            assert hosts.is_on("host1")


def other_file(hosts: Hosts, host: str, path: Path, change: tuple[str, str], folder: Path) -> None:
    """Has a host see another text in the place of a file, until it is booted again."""
    text, copy = path.read_text(), folder / f"other-{path.name}"
    assert change[0] in text
    copy.write_text(text.replace(*change))
    hosts.run(host, ["mount", "--bind", str(copy), str(path)])


def test_a_host_that_does_not_answer_is_named_before_anything_starts(hosts: Hosts, run: Path) -> None:
    (run.parent / "hosts").write_text("host1 slots=1\nhost9 slots=1\n")
    said = launched(hosts, run, code=2)
    assert said.splitlines()[-1].startswith("host9: does not answer over ssh")
    assert not (run.parent / "runs").exists()


def test_hosts_that_differ_are_named_before_anything_starts(hosts: Hosts, run: Path) -> None:
    """Another configuration, other code, another version of a package: a line each, and nothing has started."""
    import accelerate

    [metadata] = Path(accelerate.__file__).parents[1].glob("accelerate-*.dist-info/METADATA")
    try:
        other_file(hosts, "host2", run, ("0.003", "0.004"), run.parent)
        other_file(hosts, "host2", Path(launcher.logs.__file__), ("\n", "\n\n"), run.parent)
        other_file(hosts, "host2", metadata, ("\nVersion: ", "\nVersion: 9."), run.parent)
        said = launched(hosts, run, code=2).splitlines()
    finally:
        hosts.power_off("host2")
        hosts.boot("host2")
    for what in ("configuration", "code", "accelerate"):
        assert [line for line in said if line.startswith(f"host2: {what} is ")], said
    assert not [line for line in said if line.startswith("host1: ")]
    assert not (run.parent / "runs").exists()
