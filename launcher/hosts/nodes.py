"""All machines of a run, each with an agent (launcher/hosts/node.py), as seen from where the run was started."""

import math
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from launcher.hosts.node import SIGN_OF_LIFE, Told
from launcher.hosts.outcome import Outcome, together
from launcher.profile_signal import SIGNAL as PROFILE
from training.errors import ASKED_TO_END
from training.signals import handling

ANSWER_SECONDS = 300.0
"""In which an agent has to be there; a slow network's disk may take minutes to give torch."""
GRACE = 30.0
"""Seconds that an agent has to say how its processes ended, behind their shutdown timeout."""


class Nodes:
    """`agents` are commands that run agents, by the host that they reach, or one that reaches all, of any name."""

    def __init__(self, agents: dict[str, subprocess.Popen[str]], hosts: list[str], shutdown_timeout: int) -> None:
        self._agents, self._hosts, self._shutdown_timeout = agents, hosts, shutdown_timeout
        self._heard: queue.Queue[tuple[str, str | None]] = queue.Queue()
        self._outcomes: dict[int, Outcome] = {}
        self._told, self._one_for_all = Told(), set(agents) != set(hosts)
        self._there: set[int] = set()
        self._lost: dict[str, str] = {}
        self._ends_by: float | None = None
        self._ends_at = math.inf
        self._signals: list[int] = []
        self._over = threading.Event()
        self._writing = threading.Lock()

    def say(self, word: str) -> None:
        """Tells all agents."""
        with self._writing:
            for agent in self._agents.values():
                with suppress(OSError, ValueError):  # gone
                    assert agent.stdin is not None
                    agent.stdin.write(word + "\n")
                    agent.stdin.flush()

    def end(self) -> None:
        """Has all processes end, those that hang in a collective, too."""
        if self._ends_by is None:
            self._ends_by = time.monotonic() + self._shutdown_timeout + GRACE
            self.say("end")

    def kill(self) -> None:
        """Ends what runs the agents, which find that out, without a chance to say anything."""
        for agent in self._agents.values():
            with suppress(psutil.Error):  # it has ended
                # The child first: srun's would speak for its parent.
                for process in (*psutil.Process(agent.pid).children(), psutil.Process(agent.pid)):
                    process.kill()

    def wait(self, limit: float = math.inf, already: Sequence[int] = (), answer: float = ANSWER_SECONDS) -> Outcome:
        """Waits until all have ended, for `limit` seconds from when all were there. If one fails or is lost, all end.

        An agent that is not there within `answer` seconds is lost.

        Signals that ask for the end are handed on to all ranks, which save and leave; so are those that came `already`.
        """
        for name, agent in self._agents.items():
            threading.Thread(target=self._listen, args=(name, agent), daemon=True).start()
        threading.Thread(target=self._show_signs_of_life, daemon=True).start()
        began, are_there = time.monotonic(), math.inf
        with self._handing_on():
            for number in already:
                self.say(f"signal {number}")
            going = set(self._agents)
            while going:
                with suppress(queue.Empty):
                    self._hear(*self._heard.get(timeout=0.2), going)
                if len(self._there) == len(self._hosts):
                    are_there = min(are_there, time.monotonic())
                if time.monotonic() > began + answer:
                    self._miss_absent(answer)
                self._end_in_time(time.monotonic() > are_there + limit, going)
        self._over.set()
        return together([Outcome(signals=self._signals, lost=self._lost), *self._outcomes.values()])

    def _hear(self, name: str, line: str | None, going: set[str]) -> None:
        if line is None:
            going.discard(name)
            self._miss(name, self._how(name), " before it said how its processes ended")
            return
        if (told := self._told.hear(line)) is None:
            return
        number, outcome = told
        self._there.add(number)
        if outcome is not None:
            self._outcomes[number] = outcome
            if any(each.code == ASKED_TO_END for each in outcome.failures):  # all leave together, and each says so
                self._ends_at = min(self._ends_at, time.monotonic() + self._shutdown_timeout)
            elif outcome.code:  # or it was asked before it had any ranks: others wait for those in vain
                self.end()

    def _miss(self, name: str, why: str, when: str = "") -> None:
        """Notes the hosts behind an agent that have not said how their processes ended."""
        for number, host in enumerate(self._hosts):
            if number not in self._outcomes and (self._one_for_all or host == name):
                self._lost.setdefault(host, why + when if number in self._there else f"it never answered: {why}")
                self.end()

    def _miss_absent(self, seconds: float) -> None:
        for number, host in enumerate(self._hosts):
            if number not in self._there:
                self._lost.setdefault(host, f"it did not answer within {seconds:.0f} s")

    def _end_in_time(self, is_over: bool, going: set[str]) -> None:
        if self._lost or is_over or time.monotonic() > self._ends_at:
            self.end()
        if self._ends_by is not None and time.monotonic() > self._ends_by:
            for name in list(going):
                self._miss(name, "it does not say how its processes ended")
                self._agents[name].kill()
                going.discard(name)

    def _how(self, name: str) -> str:
        agent = self._agents[name]
        program, code = os.path.basename(str(agent.args[0])), agent.wait()  # type: ignore[index] # noqa: PTH119
        if program == "ssh" and code == 255:
            return "the connection was lost"
        return f"{program} ended with {f'exit code {code}' if code >= 0 else signal.Signals(-code).name}"

    def _listen(self, name: str, agent: subprocess.Popen[str]) -> None:
        assert agent.stdout is not None
        for line in agent.stdout:
            if line.startswith("{"):
                self._heard.put((name, line))
        self._heard.put((name, None))

    def _show_signs_of_life(self) -> None:
        while not self._over.wait(SIGN_OF_LIFE):
            self.say("")

    @contextmanager
    def _handing_on(self) -> Iterator[None]:
        def hand_on(number: int, frame: FrameType | None) -> None:
            self._signals.append(number)
            # In a thread of its own: what it breaks into may be writing to an agent at this moment.
            threading.Thread(target=self.say, args=(f"signal {number}",), daemon=True).start()

        with handling(hand_on):
            threading.Thread(target=self._ask_for_profiles, daemon=True).start()
            yield

    def _ask_for_profiles(self) -> None:
        while not self._over.is_set():
            if signal.sigtimedwait({PROFILE}, 1) is not None:
                self.say(f"signal {PROFILE}")
