"""One life of a submitted run, on the first node of its job: `python -m launcher.slurm.job RUN_DIR`.

    pre-flight -> ranks on all nodes -> they end -> finished, back to the queue, or ended for good

`events.jsonl` has a `life` when it begins, with job, nodes and why, and a `life_end` with what became of it. A life
that ended without one was killed: the next one says so.
"""

import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from data_pipeline.errors import InputError
from launcher.config import RunConfig, load_run
from launcher.hosts.agent import Program
from launcher.hosts.nodes import Nodes
from launcher.hosts.outcome import Failure, Outcome
from launcher.hosts.rank_logs import log_folder
from launcher.logs import log_to_stderr
from launcher.preflight.check import check, needs_of
from launcher.preflight.judge import hosts_to_leave_out, is_serious
from launcher.preflight.probe import LIMIT
from launcher.preflight.starting import PATIENCE, refuse_failure
from launcher.profile_signal import hold_back
from launcher.save_time import shutdown_timeout
from launcher.slurm.cause import Cause, cause_of, end_of, is_preempted, limit_of, next_step, seconds_left
from launcher.slurm.commands import (
    back_to_the_queue,
    exclude,
    hostnames,
    job_record,
    lost_nodes,
    nodes_to_choose_from,
    slurm,
)
from launcher.slurm.step import start_step
from launcher.slurm.submission import FOLDER, Submission, read_submission
from launcher.slurm.trial import holds, interrupt_in_time
from launcher.slurm.verdict import (
    LEFT_OUT,
    Ending,
    Verdict,
    after_failure,
    failures_in_vain,
    has_saved,
    judge,
    lives_leaving_out,
    stall_of,
)
from training.checkpoint import latest
from training.errors import ASKED_TO_END, RunError
from training.run_folder import lives_begun, note, read_lines

log = logging.getLogger("thalweg.job")

SAVED = Outcome([Failure(0, ASKED_TO_END, 0.0)])
"""Of a life that was asked to end before it had anything to save."""
OVERDUE = 30.0
"""Seconds before its limit at which a job goes back to the queue even if it has not ended."""
TOLD = 8
"""So many faults of the pre-flight stand in the reason; the event `preflight` has all."""
READS = 30
"""Tries to read events.jsonl, so many seconds apart:"""
LOOKS = 10.0
"""Seconds between two looks at how long the job may still run, and whether a later life has begun."""
TAIL = 1 << 16
"""Bytes at the end of events.jsonl in which a later life would stand."""
NOT_STARTED = "not_started"
"""Beside the scripts: a line for each node on which the job's own Python did not start (slurm/train.sbatch)."""


class LifeOverError(RunError):
    """Nothing more is to be done about this life: another one has begun, or none can follow."""


class Life:
    """From the start of the batch script to its end."""

    def __init__(self, submission: Submission, config: RunConfig) -> None:
        self._submission, self._config, self._run_dir = submission, config, Path(submission.run_dir)
        self._job, self._restarts = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self._nodes = hostnames(os.environ["SLURM_JOB_NODELIST"])
        self._received: list[int] = []
        self._is_overdue = False
        self._grace_ends = 0.0
        """When that of a preemption does."""
        self._known: list[dict[str, Any]] = []
        """The events, as they were last read."""
        self._is_untold, self._has_ended = False, False
        self._life = 1 + lives_begun(self._run_dir)
        """The number that the ranks will give theirs."""
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)

    def live(self) -> int:
        """Lives it; returns the exit code of the batch script.

        Whatever goes wrong here, in this program or with a disk, is a failure of this life, and not the run's end.
        """
        try:
            return self._live()
        except LifeOverError:
            raise
        except Exception as error:
            log.exception("this life ends")
            if self._has_ended:
                return 1
            in_vain = failures_in_vain(self._events())
            return self._end(after_failure(f"{type(error).__name__}: {error}", in_vain, self._submission.failures))

    def _live(self) -> int:
        events = self._events()
        began = {"restarts": self._restarts, "submitted": self._submission.submitted}
        self._is_untold = not self._note("life", **began, nodes=self._nodes, reason=self._why(events))
        if self._is_finished(events):
            return self._end(Verdict("finished", "the run was done before"))
        if (before := failures_in_vain([*events, {"event": "life"} | began]) - 1) >= self._submission.failures:
            reason = f"{before} lives in a row ended without a checkpoint, the last ones without a word"
            return self._end(Verdict("ended", reason, is_failure=True))
        if self._submission.preflight and (verdict := self._fly_before()) is not None:
            return self._end(verdict[0], verdict[1])
        return self._end(self._train())

    def _why(self, events: list[dict[str, Any]]) -> str:
        """Why this life begins, as far as it can be known."""
        if bad := self._not_started():
            return f"left out, as Python does not start there: {', '.join(bad)}"
        lives = [each for each in events if each["event"] in ("life", "life_end")]
        if not lives:
            return "submitted"
        if lives[-1]["event"] == "life_end":
            return f"after: {lives[-1]['reason']}"
        gone = lost_nodes([node for node in lives[-1]["nodes"] if node not in self._nodes])
        return f"the life before ended without a word{': ' if gone else ''}{', '.join(gone)}"

    def _not_started(self) -> list[str]:
        """Nodes that this job left out since its last life, and which are forgotten with this."""
        path = self._run_dir / FOLDER / NOT_STARTED
        with suppress(OSError):
            lines = [line.split() for line in path.read_text().splitlines()]
            path.unlink()
            return list(dict.fromkeys(line[1] for line in lines if line[0] == self._job and len(line) == 2))
        return []

    def _events(self) -> list[dict[str, Any]]:
        """Of the run. A disk may be away for a while; what was known before is told if it does not come back."""
        for _ in range(READS):
            try:
                self._known = read_lines(self._run_dir / "events.jsonl")
                break
            except OSError as error:
                log.warning("%s: cannot be read (%s); reads it again", self._run_dir / "events.jsonl", error)
                time.sleep(LOOKS)
        return self._known

    def _is_finished(self, events: list[dict[str, Any]]) -> bool:
        ends = [each for each in events if each["event"] == "end"]
        return bool(ends) and ends[-1]["tokens"] >= self._config.train.tokens

    def _fly_before(self) -> tuple[Verdict, list[str]] | None:
        """None where nothing stands against a start; else what follows, and the nodes to leave out."""
        began, lost = time.monotonic(), dict[str, str]()

        def start(module: str, arguments: list[str]) -> None:
            step = start_step(self._submission, Program(module, arguments), self._nodes, None, PATIENCE, False)
            outcome = step.wait(LIMIT + PATIENCE, self._received)
            self._received += outcome.signals
            lost.update(outcome.lost)
            refuse_failure(outcome)

        try:
            checked = check(start, needs_of(self._config), self._nodes, self._run_dir / FOLDER / "preflight.json")
            faults, serious = [str(each) for each in checked.faults], any(map(is_serious, checked.faults))
            left_out = hosts_to_leave_out(checked.as_json())
        except RunError as error:
            faults, serious, left_out = [str(error)], True, list(lost)
        if self._cause() is not None:
            return self._judge(SAVED), []
        self._note("preflight", faults=faults, seconds=time.monotonic() - began)
        if not serious:
            return None
        reason = f"pre-flight: {'; '.join(faults[:TOLD])}{f'; and {len(faults) - TOLD} more' * (len(faults) > TOLD)}"
        events = self._events()
        failed = after_failure(reason, failures_in_vain(events), self._submission.failures)
        if 0 < len(left_out) < max(2, len(self._nodes)):
            others, fewest = set(nodes_to_choose_from(self._job)) - set(left_out), self._submission.nodes[0]
            if len(others) >= fewest or not self._submission.requeue:
                verdict = Verdict("again", reason) if lives_leaving_out(events) < LEFT_OUT else failed
                return verdict, left_out if verdict.then == "again" else []
            few = f"; without {', '.join(left_out)} there are {len(others)} nodes, and {fewest} are needed"
            failed = replace(failed, reason=failed.reason + few)
        return failed, []

    def _train(self) -> Verdict:
        if self._cause() is not None or self._is_late():  # before there was anybody to hand a signal on to
            return self._judge(SAVED)
        patience = shutdown_timeout(self._run_dir)
        logs = log_folder(self._run_dir)
        profile_all = self._config.profile.ranks == "all"
        program = Program("launcher.cli", ["train", self._submission.config])
        nodes = start_step(self._submission, program, self._nodes, logs, patience, profile_all)
        threading.Thread(target=self._watch_the_time, daemon=True).start()
        threading.Thread(target=self._leave_to_a_later_life, args=(nodes,), daemon=True).start()
        if self._submission.interrupts:
            interrupt_in_time(self._submission, self._job)
        outcome = nodes.wait(already=self._received)
        self._received += outcome.signals
        return self._judge(outcome)

    def _judge(self, outcome: Outcome) -> Verdict:
        events, cause = self._events(), self._cause()
        return judge(
            outcome,
            Ending(
                cause,
                failures_in_vain(events),
                self._submission.failures,
                has_saved(events),
                latest(self._run_dir) is not None,
                tuple(lost_nodes(self._nodes)) if cause == "lost node" else (),
                stall_of(events),
            ),
        )

    def _watch_the_time(self) -> None:
        """Asks for the end by itself where saving takes longer than Slurm was told at submission.

        Shortly before the limit the job goes back to the queue, saved or not.
        """
        has_asked, last = False, min(OVERDUE, self._submission.lead / 4)
        while True:
            record = self._record()
            needed = min(shutdown_timeout(self._run_dir), limit_of(record) / 3)
            step = next_step(record, needed if needed > self._submission.lead else 0, last, self._submission.requeue)
            if step == "over":
                self._grace_ends = end_of(record) if is_preempted(record) else self._grace_ends
                return
            if step == "requeue":
                break
            if step == "save" and not has_asked:
                has_asked = True
                os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(max(min(LOOKS, (seconds_left(record) - last) / 2), 1))
        self._is_overdue = True
        slurm("scontrol", "requeue", self._job)

    def _is_late(self) -> bool:
        """Whether the life is to end before it has begun; a signal may have come while nobody listened."""
        record = job_record(self._job)
        if is_preempted(record) or seconds_left(record) < min(self._submission.lead, OVERDUE):
            self._received.append(signal.SIGUSR1)
        return bool(self._received)

    def _leave_to_a_later_life(self, nodes: Nodes) -> None:
        """Ends this life without a word where another has begun: Slurm took it for lost while its node was cut off.

        Once the node is back, srun would ask Slurm to end the step, whose number the later life's step has as well.
        """
        while (later := self._later_life()) is None:
            time.sleep(LOOKS)
        nodes.kill()
        log.warning("a later life has begun, on %s; this one is over", ", ".join(later["nodes"]))
        os._exit(1)

    def _later_life(self) -> dict[str, Any] | None:
        try:
            lines = read_lines(self._run_dir / "events.jsonl", last=TAIL)
        except OSError:  # seen later
            return None
        begun = [each for each in lines if each["event"] == "life"][-1:]
        return next((each for each in begun if (each["job"], each["restarts"]) != (self._job, self._restarts)), None)

    def _record(self) -> dict[str, str]:
        """What Slurm says of this job; that it runs, while nobody can be asked."""
        try:
            return job_record(self._job)
        except RunError:
            return {"JobState": "RUNNING"}

    def _cause(self) -> Cause | None:
        """Who asked for the end of this life, if anybody did."""
        if _was_stopped(self._events()):
            return "stopped"
        if self._is_overdue:
            return "time limit"
        if not self._received:
            return None
        near = max(self._submission.lead, shutdown_timeout(self._run_dir)) + 60
        record, requeues = job_record(self._job), self._submission.requeue
        return cause_of(
            record, self._received, self._restarts, near, requeues, lambda: lost_nodes(self._nodes), self._grace_ends
        )

    def _end(self, verdict: Verdict, left_out: list[str] | None = None) -> int:
        """Writes down what became of this life, and does what follows."""
        for number in (signal.SIGUSR1, signal.SIGTERM):
            # They change nothing any more, and would kill an interpreter that is ending: handlers are gone by then.
            signal.signal(number, signal.SIG_IGN)
        if verdict.then == "again" and not self._submission.requeue and not self._waiting():
            verdict = Verdict("ended", f"{verdict.reason}; no job of the chain is left: submit again", True)
        self._note_end(verdict, **({"left_out": left_out} if left_out else {}))
        if verdict.then == "again" and self._is_untold and self._untold() >= self._submission.failures:
            log.error("%s lives could not write into %s: make room, and submit again", self._untold(), self._run_dir)
            return 1
        if verdict.then == "again":
            self._go_on(left_out or [])
        elif not self._submission.requeue:
            slurm("scancel", "--state=PENDING", f"--name={os.environ['SLURM_JOB_NAME']}")
        if verdict.then == "finished" and self._submission.interrupts:
            return 0 if holds(self._config) else 1
        return 1 if verdict.is_failure else 0

    def _untold(self) -> int:
        """Lives of this job that are not in events.jsonl, which else says how many have failed."""
        told = self._events()
        return self._restarts + 1 - len([each for each in told if each["event"] == "life" and each["job"] == self._job])

    def _waiting(self) -> list[str]:
        """The jobs of the chain behind this one."""
        name = os.environ["SLURM_JOB_NAME"]
        return slurm("squeue", "--noheader", "--states=PENDING", f"--name={name}", "--format=%A").split()

    def _go_on(self, left_out: list[str]) -> None:
        """By this job once more, or by those of the chain."""
        if not self._submission.requeue:
            for job in self._waiting() if left_out else []:
                exclude(job, left_out)
            return
        try:
            if int(job_record(self._job).get("Restarts", "0")) == self._restarts:  # else Slurm does so already
                back_to_the_queue(self._job, left_out)
        except RunError as error:
            reason = f"the job cannot go back to the queue ({error}); submit again, with requeue: false in site.yaml"
            self._note_end(Verdict("ended", reason, is_failure=True))
            raise LifeOverError(f"{self._run_dir}: {reason}") from None

    def _note(self, event: str, **details: Any) -> bool:
        """Writes an event; where that fails, as on a full disk, it is lost, and the life is not."""
        try:
            note(self._run_dir, event, life=self._life, job=self._job, **details)
        except OSError as error:
            log.error("%s: %s cannot be written (%s): %s", self._run_dir / "events.jsonl", event, error, details)
            return False
        return True

    def _note_end(self, verdict: Verdict, **details: Any) -> None:
        """Raises LifeOverError where the next life has begun."""
        if later := self._later_life():
            on = ", ".join(later["nodes"])
            raise LifeOverError(f"{self._run_dir}: a later life has begun, on {on}; this one is over")
        told = {"reason": verdict.reason, "then": verdict.then, "is_failure": verdict.is_failure}
        self._note("life_end", **told, **details)
        self._has_ended = True
        log.info("%s: %s", verdict.then, verdict.reason)


def _was_stopped(events: list[dict[str, Any]]) -> bool:
    """Whether `thalweg stop` asked for the end, of the life that these are the events of."""
    last = [each["event"] for each in events if each["event"] in ("life", "stop")]
    return last[-1:] == ["stop"]


def main() -> None:
    """Exit code 1 where the run failed for good, 0 otherwise."""
    hold_back()
    log_to_stderr()
    try:
        submission = read_submission(Path(sys.argv[1]))
        code = Life(submission, load_run(Path(submission.config))).live()
    except (InputError, RunError) as error:
        print(error, file=sys.stderr)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
