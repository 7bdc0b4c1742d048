"""DeepSpeed's sizes where a run leaves them to it, in numbers (docs/sharding.md)."""

REDUCE_BUCKET, GATHER_BUCKET = 500e6, 500e6
PREFETCH, LIVE = 50e6, 1e9
PERSISTENT = 100_000


def or_default(given: int | None, default: float) -> float:
    """What is given, which may be 0, or else the default."""
    return default if given is None else given
