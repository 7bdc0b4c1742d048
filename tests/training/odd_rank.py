"""The command line, in which one rank of a run does odd things: ODD names the rank and what it does.

A rank that stops or hangs does so in the sixth step. One that hangs goes on when there is a file called `go-on`. One
that is late in the first step, or at its very end, stays there and makes a file called `late`.
"""

import os
import signal
import sys
import time
from pathlib import Path

from torch import nn

from launcher.cli import main
from model.gpt import GPT
from training import loop
from training.heartbeat import Heartbeat, path_of
from training.ledger import Ledger

forward, linear, gradients = GPT.forward, nn.Linear.forward, loop._gradients
start, take = Heartbeat.start, Ledger.take
steps = 0


def counted(run, batch):
    global steps
    steps += 1
    if steps == 6 and odd == "stops":
        os.kill(os.getpid(), signal.SIGSTOP)
    return gradients(run, batch)


def hangs_in_take(ledger):
    while steps == 6 and not Path("go-on").exists():
        time.sleep(0.05)
    return take(ledger)


def behind_the_other(heartbeat):
    other = path_of(Path("run"), 0)
    while not (other.exists() and "starting the engine" in other.read_text()):
        if Path("run/stalls").exists():
            sys.exit("the other one was slow, and has ended")
        time.sleep(0.05)
    start(heartbeat)


def hangs_at_start(network, *described):
    while True:
        time.sleep(0.05)


def late(work):
    def stays(*arguments):
        Path("late").touch()
        while True:
            time.sleep(0.05)

    return stays


def slow(module, *inputs):
    time.sleep(0.1)
    return forward(module, *inputs)


def slow_inside(module, inputs):
    time.sleep(0.01)
    return linear(module, inputs)


rank, odd = os.environ["ODD"].split(" ", 1)
if os.environ["RANK"] == rank:
    loop._gradients = counted
    if odd == "hangs":
        Ledger.take = hangs_in_take
    elif odd == "never arrives":
        Heartbeat.start, GPT.__init__ = behind_the_other, hangs_at_start
    elif odd == "is late in the step":
        gradients = late(gradients)
    elif odd == "is late behind the step":
        loop.StepResult = late(loop.StepResult)
    elif odd == "is slow":
        GPT.forward = slow
    elif odd == "is slow inside":
        nn.Linear.forward = slow_inside
sys.argv[0] = "thalweg"
main()
