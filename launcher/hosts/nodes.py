"""All machines of a run, each with an agent (launcher/hosts/node.py), as seen from where the run was started."""

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from launcher.hosts.node import SIGN_OF_LIFE, read_outcome
from launcher.hosts.outcome import Outcome, together
from launcher.profile_signal import SIGNAL as PROFILE
from training.signals import ASKING

GRACE = 30.0
"""Seconds that an agent has to say how its processes ended, behind their shutdown timeout."""


class Nodes:
    """`agents` are commands that run agents, by the name of what they reach: a host each, or one for all."""

    def __init__(self, agents: dict[str, subprocess.Popen[str]], machines: int, shutdown_timeout: int) -> None:
        self._agents, self._machines, self._shutdown_timeout = agents, machines, shutdown_timeout
        self._heard: queue.Queue[tuple[str, str | None]] = queue.Queue()
        self._ends_by: float | None = None
        self._signals: list[int] = []
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

    def wait(self) -> Outcome:
        """Waits until all have ended. Where one fails or is heard of no more, the others are ended.

        SIGTERM, SIGUSR1 and SIGINT are handed on to all ranks, which save and leave.
        """
        for name, agent in self._agents.items():
            threading.Thread(target=self._listen, args=(name, agent), daemon=True).start()
        threading.Thread(target=self._show_signs_of_life, daemon=True).start()
        with self._handing_on():
            outcomes, lost = self._gather()
        return together([*outcomes.values(), Outcome(signals=self._signals, lost=lost)])

    def _gather(self) -> tuple[dict[int, Outcome], list[str]]:
        outcomes: dict[int, Outcome] = {}
        lost: list[str] = []
        told: set[str] = set()
        going = set(self._agents)
        while going:
            try:
                name, line = self._heard.get(timeout=0.2)
            except queue.Empty:
                if self._ends_by is not None and time.monotonic() > self._ends_by:
                    lost += [f"{name}: does not say how its processes ended" for name in going]
                    self._kill(going)
                    break
                continue
            if line is None:
                going.discard(name)
                all_told = len(outcomes) == self._machines if len(self._agents) == 1 else name in told
                if not all_told:
                    lost.append(f"{name}: {self._how(name)} before it said how its processes ended")
                    self.end()
                continue
            told.add(name)
            number, outcome = read_outcome(line)
            outcomes[number] = outcome
            if outcome.code:
                self.end()
        return outcomes, lost

    def _how(self, name: str) -> str:
        agent = self._agents[name]
        program, code = os.path.basename(str(agent.args[0])), agent.wait()  # type: ignore[index] # noqa: PTH119
        if program == "ssh" and code == 255:
            return "the connection was lost"
        return f"{program} ended with {f'exit code {code}' if code >= 0 else signal.Signals(-code).name}"

    def _kill(self, names: set[str]) -> None:
        for name in names:
            self._agents[name].kill()

    def _listen(self, name: str, agent: subprocess.Popen[str]) -> None:
        assert agent.stdout is not None
        for line in agent.stdout:
            if line.startswith("{"):
                self._heard.put((name, line))
        self._heard.put((name, None))

    def _show_signs_of_life(self) -> None:
        while True:
            time.sleep(SIGN_OF_LIFE)
            self.say("")

    @contextmanager
    def _handing_on(self) -> Iterator[None]:
        def hand_on(number: int, frame: FrameType | None) -> None:
            self._signals.append(number)
            # In a thread of its own: what it breaks into may be writing to an agent at this moment.
            threading.Thread(target=self.say, args=(f"signal {number}",), daemon=True).start()

        before = {number: signal.signal(number, hand_on) for number in ASKING}
        threading.Thread(target=self._ask_for_profiles, daemon=True).start()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask_for_profiles(self) -> None:
        while True:
            signal.sigwait({PROFILE})
            self.say(f"signal {PROFILE}")
