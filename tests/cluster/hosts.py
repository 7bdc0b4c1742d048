"""Hosts with a name, an address and a process tree each, all on this machine.

A host is a set of namespaces (network, hostname, IPC, mounts, processes) under a process that stands for its init.
Disks are shared, as on a cluster with NFS; /dev/shm and /run are its own. The switch between the hosts is a bridge in
a namespace of its own, so that nothing of this machine's own network changes. Every init reads from a pipe that the
tests hold: when the tests end, however they do, all hosts are gone.
"""

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

NETWORK = "10.77.0"
PACKAGES = "munge slurmctld slurmd slurm-client iproute2 openssh-server openssh-client"
"""What Debian and Ubuntu need for the tests in this folder."""
SYSTEM_PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
NAMESPACES = ("--net", "--uts", "--ipc", "--mount", "--pid")
INIT = """
set -e
hostname "$1"
ip link set lo up
mount -t sysfs sysfs /sys || true
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
mount --bind "$2/etc_hosts" /etc/hosts
mount --bind "$2/ssh_config" /etc/ssh/ssh_config
echo ready
while read -r _; do :; done
"""
"""Bash, as the first process of a host, takes in orphans while it waits for the end of its input."""
LISTENS = "until (exec 3<>/dev/tcp/127.0.0.1/22) 2> /dev/null; do sleep 0.05; done"
"""For bash: sshd goes into the background before it listens."""
SSHD_CONFIG = """
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
MaxStartups 100
"""
SSH_CONFIG = """
Host *
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking yes
    BatchMode yes
    ConnectTimeout 5
    LogLevel ERROR
"""


def why_not(*commands: str) -> str | None:
    """Why this machine cannot have such hosts, or hosts with these commands; None where it can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces and mounts"
    needed = ("ip", "unshare", "nsenter", "sshd", "ssh", "ssh-keygen", *commands)
    absent = [each for each in needed if not shutil.which(each, path=SYSTEM_PATH)]
    if absent:
        return f"needs {', '.join(absent)}: apt-get install {PACKAGES}"
    trial = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "ip", "link", "add", "name", "port", "type", "veth"]
    tried = subprocess.run(trial, capture_output=True, text=True, env=os.environ | {"PATH": SYSTEM_PATH})
    return f"namespaces cannot be made here: {tried.stderr.strip()}" if tried.returncode else None


def started_inside(entered: subprocess.Popen[str]) -> psutil.Process:
    """The process that `Hosts.popen` started in its host: the one to send signals to; nsenter passes none on."""
    return psutil.Process(entered.pid).children()[0]


def name_of(process: psutil.Process) -> str:
    """Its name; empty once it has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; empty once it has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def kill(process: psutil.Process) -> None:
    """SIGKILL, unless it has ended."""
    with suppress(psutil.NoSuchProcess):
        process.kill()


@dataclass
class _Machine:
    """The processes that hold a host's namespaces: `unshare`, and the host's init as this machine sees it."""

    holder: subprocess.Popen[str]
    init: int


class Hosts:
    """Hosts `prefix`1 to `prefix``count` and one more, `ctl`, at which a user sits; needs root."""

    def __init__(self, folder: Path, count: int, prefix: str = "host") -> None:
        self.folder = folder
        self.names = [f"{prefix}{number}" for number in range(1, count + 1)]
        self._numbers = {name: number for number, name in enumerate([*self.names, "ctl"], 1)}
        self._machines: dict[str, _Machine] = {}

    def address(self, host: str) -> str:
        return f"{NETWORK}.{self._numbers[host]}"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        known = [f"{self.address(name)} {name}\n" for name in self._numbers]
        (self.folder / "etc_hosts").write_text("127.0.0.1 localhost\n" + "".join(known))
        self._write_ssh()
        self._make_machine("switch")
        self._in_switch("ip", "link", "add", "bridge", "type", "bridge")
        self._in_switch("ip", "link", "set", "bridge", "up")
        for name in self._numbers:
            self.boot(name)

    def stop(self) -> None:
        for name in list(self._machines):
            self._end_machine(name)

    def popen(self, host: str, command: list[str], *, cwd: Path | None = None, **options: Any) -> subprocess.Popen[str]:
        """`command` started in the host; signals for it go to `started_inside`, not to what is returned.

        `env` replaces the environment; everything else is as in subprocess.
        """
        environment = options.pop("env", None) or dict(os.environ)
        enter = ["nsenter", f"--target={self._machines[host].init}", *NAMESPACES, f"--wd={cwd or Path.cwd()}", "--"]
        return subprocess.Popen(
            enter + command, text=True, start_new_session=True, env={"PATH": SYSTEM_PATH} | environment, **options
        )

    def run(
        self, host: str, command: list[str], *, check: bool = True, timeout: float = 300, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """`command` run in the host with its output taken; one that fails raises AssertionError with that output."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        entered = self.popen(host, command, **(pipes | options))
        try:
            out, err = entered.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            for process in psutil.Process(entered.pid).children():
                process.kill()
            raise AssertionError(f"{host}: {command} did not end, or left its output open, in {timeout:g} s") from None
        assert not check or entered.returncode == 0, f"{host}: {command} ended with {entered.returncode}\n{out}{err}"
        return subprocess.CompletedProcess(command, entered.returncode, out, err)

    def is_on(self, host: str) -> bool:
        return host in self._machines

    def cut(self, host: str) -> None:
        """All packets from and to the host are lost, in silence."""
        self._in_switch("ip", "link", "set", self._port(host), "nomaster")

    def heal(self, host: str) -> None:
        self._in_switch("ip", "link", "set", self._port(host), "master", "bridge")

    def power_off(self, host: str) -> None:
        """The host is gone with all its processes.

        The cable goes first: a dying process closes its connections, which its peers would see at once, and a machine
        without power sends nothing.
        """
        self.cut(host)
        self._end_machine(host)
        # The kernel may have taken the port away with the host's end of the cable.
        self._in_switch("ip", "link", "delete", self._port(host), check=False)

    def boot(self, host: str) -> None:
        self._make_machine(host)
        # The same MAC in every life, as a card has it: peers keep the old one for seconds.
        hardware = f"02:00:00:00:00:{self._numbers[host]:02x}"
        cable = ["peer", "name", "eth0", "address", hardware, "netns", str(self._machines[host].init)]
        self._in_switch("ip", "link", "add", self._port(host), "type", "veth", *cable)
        self._in_switch("ip", "link", "set", self._port(host), "master", "bridge", "up")
        self.run(host, ["ip", "address", "add", f"{self.address(host)}/24", "dev", "eth0"])
        self.run(host, ["ip", "link", "set", "eth0", "up"])
        sshd = shutil.which("sshd", path=SYSTEM_PATH) or "sshd"  # asks for its full path
        log = self.folder / f"{host}.sshd.log"
        self.run(host, [sshd, "-f", f"{self.folder}/sshd_config", "-E", str(log)])
        self.run(host, ["bash", "-c", LISTENS])

    def processes(self, host: str) -> list[psutil.Process]:
        """All processes of a host but its init; any may end at any time, see `name_of` and `words_of`."""
        init = self._machines[host].init
        namespace = _namespace(init)
        return [each for each in psutil.process_iter() if each.pid != init and _namespace(each.pid) == namespace]

    def reset(self, daemons: tuple[str, ...] = ("sshd",)) -> None:
        """All hosts on, connected and without processes other than `daemons`."""
        killed = []
        for host in self._numbers:
            if not self.is_on(host):
                self.boot(host)
                continue
            self.heal(host)
            for process in self.processes(host):
                with suppress(psutil.NoSuchProcess):
                    # sshd's children, which serve a user, have its name.
                    if process.name() not in daemons or process.name() == psutil.Process(process.ppid()).name():
                        process.kill()
                        killed.append(process)
        psutil.wait_procs(killed, timeout=60)

    def _port(self, host: str) -> str:
        return f"port{self._numbers[host]}"

    def _in_switch(self, *command: str, check: bool = True) -> None:
        enter = ["nsenter", f"--target={self._machines['switch'].init}", "--net", "--"]
        done = subprocess.run([*enter, *command], capture_output=True, text=True, env={"PATH": SYSTEM_PATH})
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

    def _make_machine(self, name: str) -> None:
        assert name not in self._machines, f"{name} is on"
        holder = subprocess.Popen(
            ["unshare", *NAMESPACES, "--fork", "--mount-proc", "bash", "-c", INIT, "init", name, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={"PATH": SYSTEM_PATH},
        )
        assert holder.stdout is not None
        said = holder.stdout.readline()
        assert said == "ready\n", f"{name} did not start: {said}{holder.stdout.read()}"
        self._machines[name] = _Machine(holder, psutil.Process(holder.pid).children()[0].pid)

    def _end_machine(self, name: str) -> None:
        machine = self._machines.pop(name)
        # The kernel ends all processes of the namespace before its init counts as ended.
        os.kill(machine.init, signal.SIGKILL)
        machine.holder.wait()
        for pipe in (machine.holder.stdin, machine.holder.stdout):
            assert pipe is not None
            pipe.close()

    def _write_ssh(self) -> None:
        for key in ("user_key", "host_key"):
            path = self.folder / key
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        (self.folder / "known_hosts").write_text("* " + (self.folder / "host_key.pub").read_text())
        (self.folder / "sshd_config").write_text(SSHD_CONFIG.format(folder=self.folder))
        (self.folder / "ssh_config").write_text(SSH_CONFIG.format(folder=self.folder))


def _namespace(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:  # it has ended, or hides itself even from root
        return None
