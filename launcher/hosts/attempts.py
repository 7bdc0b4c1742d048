"""How often a run that fails is started again: as long as it makes progress, and so many times without any."""

from pathlib import Path

from training.checkpoint import latest


class Attempts:
    """At most `limit` starts again in a row without a new checkpoint; none at all where it is 0."""

    def __init__(self, run_dir: Path, limit: int) -> None:
        self._run_dir, self._limit, self.in_vain = run_dir, limit, 0
        self._before = latest(run_dir)

    @property
    def has_saved(self) -> bool:
        """Whether there is another checkpoint than when this was last counted."""
        return latest(self._run_dir) != self._before

    def another(self) -> bool:
        """Counts a failure; whether to start again."""
        self.in_vain = 0 if self.has_saved else self.in_vain + 1
        self._before = latest(self._run_dir)
        return self._limit > 0 and self.in_vain <= self._limit
