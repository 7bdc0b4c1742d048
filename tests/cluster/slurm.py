"""A Slurm of its own on hosts of `hosts.Hosts`: the controller on ctl, where jobs are submitted, and a node a host.

Everything stands in one folder; nothing of a Slurm that this machine may have is read or changed. No cgroups and no
accounting daemon. Nodes claim more processors than this machine has.
"""

import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from hosts import Hosts, name_of

Found = TypeVar("Found")

PATIENCE = 900
"""Seconds after which a wait is given up: far more than anything here takes on a busy machine."""
GRACE = 10
"""Seconds that a preempted job is given, unless a test asks for others."""
DAEMONS = ("sshd", "munged", "slurmctld", "slurmscriptd", "slurmd")
"""slurmscriptd is the controller's child, which does not take note of its death."""
ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "BOOT_FAIL",
    "DEADLINE",
    "OUT_OF_MEMORY",
)
CONFIG = """
ClusterName=tests
SlurmctldHost=ctl({ctl})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# How long a requeued job waits before it may start again; Slurm takes less than 5 for a mistake and waits for 120.
AuthInfo=socket=/run/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
# What `sacct -c` reads.
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs_completed.log
# Nodes may claim what they do not have; a lost node comes back by itself, one set down by hand does not.
SlurmdParameters=config_overrides
ReturnToService=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SlurmdTimeout=10
KillWait=5
MinJobAge=3600
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,batch_sched_delay=0,sched_min_interval=0,sched_interval=1
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName={nodes} CPUs=8 RealMemory=64000
PartitionName=main Nodes=ALL Default=YES State=UP PriorityTier=10
PartitionName=low Nodes=ALL State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=cancelled Nodes=ALL State=UP PriorityTier=1 PreemptMode=CANCEL GraceTime={grace}
"""


class Slurm:
    """Slurm on nodes node1 to node`count`.

    Partitions: main; low, whose jobs are requeued where main needs their nodes; cancelled, whose jobs are then ended.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.hosts = Hosts(folder / "hosts", count, prefix="node")
        self.nodes = self.hosts.names
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        for name in ("state", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True)
        config = CONFIG.format(
            ctl=self.hosts.address("ctl"),
            folder=self.folder,
            nodes=",".join(self.nodes),
            grace=GRACE,
        )
        (self.folder / "slurm.conf").write_text(config)
        # No cgroup plugin is in use; without this line slurmd looks for their version and fails where there are none.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        self.hosts.start()
        self._start_munged("ctl")
        self.start_controller()
        for node in self.nodes:
            self._start_munged(node)
            self.start_slurmd(node)
        self.wait_until_idle()

    def stop(self) -> None:
        self.hosts.stop()

    def run(self, *command: object, env: dict[str, str] | None = None, **options: Any) -> str:
        """What a command on ctl prints; `env` is added to the environment. AssertionError where it fails.

        Its working folder, in which sbatch puts what a job prints, is that of this Slurm unless `cwd` names another.
        """
        environment = dict(os.environ) | self.environment | (env or {})
        options = {"cwd": self.folder} | options
        return self.hosts.run("ctl", [str(each) for each in command], env=environment, **options).stdout.strip()

    def submit(self, *arguments: object, script: str | None = None, **options: Any) -> int:
        """The id of a job submitted by sbatch; `script` is the text of a shell script to submit."""
        wrapped = () if script is None else ("--wrap", script)
        return int(self.run("sbatch", "--parsable", *arguments, *wrapped, **options).split(";")[0])

    def job(self, job: int) -> dict[str, str]:
        return _fields(self.run("scontrol", "show", "job", job, "-o"))

    def node(self, node: str) -> dict[str, str]:
        return _fields(self.run("scontrol", "show", "node", node, "-o"))

    def past_lives(self, job: int) -> list[str]:
        """How each life of a job that is over ended, as Slurm's accounting has it: NODE_FAIL, COMPLETED..."""
        return self.run("sacct", "-n", "-c", "-X", "-P", "-j", job, "-o", "state").split()

    def wait_for(self, what: str, condition: Callable[[], Found], job: int | None = None) -> Found:
        """What `condition` returns once it is true; AssertionError with the logs when `job` ended before it was."""
        end = time.monotonic() + PATIENCE
        while True:
            ended = job is not None and self.job(job)["JobState"] in ENDED
            if found := condition():
                return found
            assert not ended, f"job {job} ended without: {what}\n{self.account(job)}"
            assert time.monotonic() < end, f"not within {PATIENCE} s: {what}\n{self.account(job)}"
            time.sleep(0.1)

    def wait_for_state(self, job: int, *states: str) -> dict[str, str]:
        """The job as soon as it is in one of `states`."""

        def found() -> dict[str, str] | None:
            now = self.job(job)
            return now if now["JobState"] in states else None

        now = self.wait_for(f"job {job} is {' or '.join(states)}", found, job)
        assert now is not None
        return now

    def wait_for_text(self, path: Path, text: str, job: int | None = None) -> None:
        """Waits until a file, which may not be there yet, holds `text`."""
        self.wait_for(f"{text!r} in {path}", lambda: path.exists() and text in path.read_text(), job)

    def wait_until_idle(self, besides: Sequence[str] = ()) -> None:
        """Waits for all nodes but those that are busy with a test's jobs."""

        def idle() -> bool:
            lines = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %t").splitlines()
            states = dict(line.split() for line in lines)
            return all(states[node] == "idle" for node in self.nodes if node not in besides)

        self.wait_for("all nodes idle", idle)

    def account(self, job: int | None = None) -> str:
        """What a person needs to see why a wait came to nothing: the queue, the ends of the logs and of the output."""
        parts = [self.run("squeue", "-a", check=False), self.run("sinfo", "-N", "-l", check=False)]
        logs = [*sorted(self.folder.glob("*.log"))]
        if job is not None:
            fields = self.job(job)
            parts.append("\n".join(f"{key}={value}" for key, value in fields.items()))
            logs += [Path(fields[key]) for key in ("StdOut", "StdErr") if key in fields]
        for log in dict.fromkeys(logs):
            if log.is_file():
                parts.append(f"--- {log}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]))
        return "\n".join(parts)

    def set_grace(self, partition: str, seconds: int) -> None:
        """The seconds that a preempted job of the partition is given, until the end of the test."""
        self.run("scontrol", "update", f"PartitionName={partition}", f"GraceTime={seconds}")

    def start_controller(self) -> None:
        self._start_daemon("ctl", "slurmctld", "-f", self.folder / "slurm.conf")

    def restart_controller(self) -> None:
        """As a service manager does it: asked to end, then killed, since it may wait for nodes that are gone."""
        daemons = [process for process in self.hosts.processes("ctl") if name_of(process) == "slurmctld"]
        self.run("scontrol", "shutdown", "slurmctld")
        for process in psutil.wait_procs(daemons, timeout=10)[1]:
            process.kill()
        psutil.wait_procs(daemons)
        self.start_controller()

    def kill_slurmd(self, node: str) -> None:
        """SIGKILL for a node's daemon; its jobs run on."""
        daemons = [process for process in self.hosts.processes(node) if name_of(process) == "slurmd"]
        for process in daemons:
            process.kill()
        psutil.wait_procs(daemons)

    def start_slurmd(self, node: str) -> None:
        self._start_daemon(node, "slurmd", "-N", node, "-f", self.folder / "slurm.conf")

    def power_off(self, node: str) -> None:
        self.hosts.power_off(node)

    def boot(self, node: str) -> None:
        self.hosts.boot(node)
        self._start_munged(node)
        self.start_slurmd(node)

    def cut(self, node: str) -> None:
        self.hosts.cut(node)

    def heal(self, node: str) -> None:
        self.hosts.heal(node)

    def reset(self) -> None:
        """As after the start: no jobs, no processes of earlier ones, all nodes idle."""
        if "slurmctld" not in self._daemons("ctl"):
            self.start_controller()
        if self.run("squeue", "-h", "-o", "%A"):
            self.run("scancel", "--user=root", "--signal=KILL", "--full", check=False)
            self.run("scancel", "--user=root")
        # What jobs left behind must go before Slurm counts a node as idle.
        self.hosts.reset(daemons=DAEMONS)
        for node in self.nodes:
            present = self._daemons(node)
            if "munged" not in present:
                self._start_munged(node)
            if "slurmd" not in present:
                self.start_slurmd(node)
            if re.search("DOWN|DRAIN", self.node(node)["State"]):
                self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
        for partition in ("low", "cancelled"):
            self.set_grace(partition, GRACE)
        self.wait_for("no jobs", lambda: not self.run("squeue", "-h", "-o", "%A"))
        self.wait_until_idle()

    def _daemons(self, host: str) -> set[str]:
        return {name_of(process) for process in self.hosts.processes(host)} & set(DAEMONS)

    def _start_munged(self, host: str) -> None:
        files = [f"--key-file={self.folder}/munge.key", f"--log-file={self.folder}/munged.{host}.log"]
        run = ["--socket=/run/munge.sock", "--pid-file=/run/munged.pid", "--seed-file=/run/munged.seed"]
        # By force: it dislikes that others may read the folders above.
        self._start_daemon(host, "munged", "--force", *files, *run)

    def _start_daemon(self, host: str, daemon: str, *arguments: object) -> None:
        environment = dict(os.environ) | self.environment
        self.hosts.run(host, [daemon, *map(str, arguments)], env=environment)


def _fields(line: str) -> dict[str, str]:
    """`scontrol show -o`: KEY=VALUE pairs, the values of which may hold spaces and further equals signs."""
    found = re.findall(r"(?:^|\s)([A-Z][A-Za-z:/]*)=(.*?)(?=\s+[A-Z][A-Za-z:/]*=|\s*$)", line)
    return dict(found)
