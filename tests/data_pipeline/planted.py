"""Documents of a similarity that is known."""

import random


def alike(similarity: float, shingles: int, rng: random.Random) -> tuple[str, str]:
    """Two texts whose sets of shingles of 5 words have exactly this Jaccard similarity, of so many in all."""
    shared = round(similarity * shingles)
    assert shared == similarity * shingles and (shingles - shared) % 2 == 0
    own = (shingles - shared) // 2
    beginning = words(shared + 4, rng)
    return " ".join(beginning + words(own, rng)), " ".join(beginning + words(own, rng))


def words(count: int, rng: random.Random) -> list[str]:
    """Of which none comes twice."""
    return [f"w{rng.getrandbits(60):x}" for _ in range(count)]
