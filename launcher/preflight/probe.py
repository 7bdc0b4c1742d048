"""One rank of a check: `python -P -m launcher.preflight.probe` with the variables that torch's elastic agent sets."""

import argparse
import os
import signal
import threading
import warnings
from pathlib import Path

MODULE = "launcher.preflight.probe"
LIMIT = 40.0
"""Seconds after which a rank gives up what it is measuring."""


def main() -> None:
    """Does what `launcher.preflight.measuring` says."""
    told_to_end = threading.Event()
    # Before torch is imported, which takes seconds: a rank that dies has all others of its machine told to end.
    signal.signal(signal.SIGTERM, lambda *_: told_to_end.set())
    os.dup2(2, 1)  # gloo greets on stdout, which is the command's
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the file that rank 0 writes")
    parser.add_argument("--folder", type=Path, required=True, help="where the run writes")
    parser.add_argument("--manifest", type=Path, help="of the prepared data")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for all measures")
    asked = parser.parse_args()
    from launcher.orphan import end_with_launcher
    from launcher.preflight.measuring import run

    end_with_launcher()
    run(asked, told_to_end)


if __name__ == "__main__":
    main()
