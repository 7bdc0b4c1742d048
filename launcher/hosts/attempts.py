"""How often a run that fails is started again: as long as it makes progress, and so many times without any."""

from contextlib import suppress
from pathlib import Path

from launcher.hosts.outcome import Outcome, account
from training import stop_request
from training.checkpoint import latest
from training.run_folder import note, read_lines


class Attempts:
    """At most `limit` starts again in a row without a new checkpoint; none at all where it is 0."""

    def __init__(self, run_dir: Path, limit: int) -> None:
        self._run_dir, self._limit, self.in_vain = run_dir, limit, 0
        self._before = latest(run_dir)
        self._told = len(read_lines(run_dir / "events.jsonl"))
        self._void = stop_request.read(run_dir)
        self._waits = False

    @property
    def has_saved(self) -> bool:
        """Whether there is another checkpoint than when this was last counted."""
        return latest(self._run_dir) != self._before

    def is_stopped(self) -> bool:
        """Whether `thalweg stop` has asked for the end since this was made, also of a life that died of itself."""
        request = stop_request.read(self._run_dir)
        if request is not None and request != self._void:  # that nobody is there any more to obey
            with suppress(OSError):
                note(self._run_dir, "stop", by=request.by, asked=request.time)
                stop_request.path_of(self._run_dir).unlink(missing_ok=True)
            return True
        told = read_lines(self._run_dir / "events.jsonl")[self._told :]
        last = [each["event"] for each in told if each["event"] in ("start", "resume", "life_end", "stop")]
        return last[-1:] == ["stop"]

    def another(self, failed: Outcome) -> bool:
        """Counts a failure; whether to start again, which `events.jsonl` says then.

        Not where the end was asked for, though the run could not save any more, or failed in saving.
        """
        self.in_vain = 0 if self.has_saved else self.in_vain + 1
        self._before = latest(self._run_dir)
        if not 0 < self._limit >= self.in_vain or failed.signals or self.is_stopped():
            return False
        with suppress(OSError):  # a full disk is none of the reasons not to go on
            note(self._run_dir, "life_end", reason=account(failed), then="again", is_failure=True)
        self._waits = True
        return True

    def give_up(self, reason: str, *, is_failure: bool) -> None:
        """Notes that nobody starts the run again, where the last that was said is that somebody does."""
        events = read_lines(self._run_dir / "events.jsonl")
        if self._waits and events and events[-1]["event"] == "life_end":
            with suppress(OSError):
                note(self._run_dir, "life_end", reason=reason, then="ended", is_failure=is_failure)
