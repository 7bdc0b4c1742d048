"""What an agent tells, and what is made of it."""

import io
import signal
import subprocess
import sys

from launcher.hosts.agent import Program
from launcher.hosts.node import Assignment, Told, _Teller, give_orders
from launcher.hosts.nodes import Nodes
from launcher.hosts.outcome import Failure, Outcome


def told(number: int, outcome: Outcome | None) -> list[str]:
    """The lines of an agent."""
    written = io.BytesIO()
    _Teller(written, number)(outcome)
    return written.getvalue().decode().splitlines()


def test_long_accounts_of_several_machines_are_put_together_in_whatever_order_their_lines_come() -> None:
    """srun hands on a line whole that has at most a thousand bytes."""
    outcomes = [
        Outcome([Failure(rank, 1, 2.5, [f'"line {line}" of \\ 日本語' * 9 for line in range(30)])], [15])
        for rank in range(3)
    ]
    lines = [told(number, outcome) for number, outcome in enumerate(outcomes)]
    assert all(len(line) < 1000 for each in lines for line in each) and min(map(len, lines)) > 5
    mixed = [line for each in zip(*(reversed(each) for each in lines), strict=True) for line in each]
    listening, heard = Told(), {}
    for line in mixed:
        number, outcome = listening.hear(line) or (-1, None)
        if outcome is not None:
            heard[number] = outcome
    assert heard == dict(enumerate(outcomes))


def test_an_agent_says_that_it_is_there_and_what_it_does_not_say_is_no_word() -> None:
    listening = Told()
    [line] = told(7, None)
    assert listening.hear(line) == (7, None)
    assert listening.hear("{half a line") is None and listening.hear("[1]") is None and listening.hear("{}") is None
    [line] = told(7, Outcome())
    assert listening.hear(line) == (7, Outcome())


def test_a_signal_before_there_are_ranks_is_told_as_what_it_is() -> None:
    """Whoever takes SIGUSR1, by which Slurm announces a limit, for SIGTERM takes it for the end of the run."""
    assignment = Assignment(Program("launcher.cli", ["train", "none.yaml"]), ["localhost"], [1], 0, "x", None, 5)
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "launcher.hosts.node"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as agent:
        assert agent.stdin is not None and agent.stdout is not None
        agent.stdin.write(assignment.as_line(0) + f"signal {int(signal.SIGUSR1)}\n")
        agent.stdin.flush()
        lines = agent.stdout.readlines()  # stdin stays open: its end would be a word, too
    listening = Told()
    told = [outcome for line in lines if (heard := listening.hear(line)) and (outcome := heard[1])]
    assert agent.returncode == 75 and [(each.code, each.signals) for each in told] == [(75, [signal.SIGUSR1])]


def test_orders_for_an_agent_that_has_ended_already_are_no_failure_of_their_own() -> None:
    """As of an srun that knows no such option: whoever waits for the agent says how it ended."""
    assignment = Assignment(Program("launcher.cli", ["train", "none.yaml"]), ["localhost"], [1], 0, "x", None, 5)
    agent = subprocess.Popen(["false"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    agent.wait()
    give_orders(agent, assignment)
    outcome = Nodes({"srun": agent}, ["node1"], 5).wait()
    assert outcome.lost == {"node1": "it never answered: false ended with exit code 1"}
