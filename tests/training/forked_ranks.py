"""Forks ranks of a program, as it is told on stdin, from a process that has imported what each of them needs.

Importing takes a rank seconds, and a fork hundredths of one. Nothing but imports is done before a fork: there is no
group, no engine and no thread. Started by ranks.py; each line is a JSON object, answered by the ranks' exit codes.
"""

import gc
import json
import os
import runpy
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from training.engine import _prepare_deepspeed

NEEDED = [
    "accelerate", "deepspeed.runtime.zero.muon.muon_optimizer", "launcher.cli", "launcher.train", "torch._dynamo",
    "torch._inductor.compile_fx", "transformers.integrations.deepspeed",
]  # fmt: skip
"""What a rank imports sooner or later, after DeepSpeed is prepared."""
MERCY = 30
"""Seconds that ranks have to leave after SIGTERM, as under torchrun."""


def become(rank: int, asked: dict) -> NoReturn:
    """Runs the program as a rank."""
    code = 1
    try:
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["environments"][rank])
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
        sys.argv = asked["command"]
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def codes_of(ranks: set[int]) -> list[int]:
    """The exit codes in the order of the ends; one that fails ends the others."""
    codes = []

    def end(number: int, _: object = None) -> None:
        for each in ranks:
            os.kill(each, signal.SIGKILL if number == signal.SIGALRM else signal.SIGTERM)

    signal.signal(signal.SIGALRM, end)
    while ranks:
        ended, status = os.wait()
        ranks.discard(ended)
        codes.append(os.waitstatus_to_exitcode(status))
        if codes[-1] and not any(codes[:-1]):
            end(signal.SIGTERM)
            signal.alarm(MERCY)
    signal.alarm(0)
    return codes


def main() -> None:
    _prepare_deepspeed()
    for name in NEEDED:
        import_module(name)
    sys.path.insert(0, str(Path(__file__).parent))
    gc.freeze()
    for line in sys.stdin:
        asked, ranks = json.loads(line), set()
        for rank in range(len(asked["environments"])):
            child = os.fork()
            if not child:
                become(rank, asked)
            ranks.add(child)
        print(json.dumps(codes_of(ranks)), flush=True)


if __name__ == "__main__":
    main()
