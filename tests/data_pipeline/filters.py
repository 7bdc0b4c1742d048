"""Texts of two kinds, for a quality filter to tell apart."""

import numpy as np

GOOD = "the river had carried its sand to sea since he was a boy and nobody who lived there knew why it did so"
BAD = "home page login click here free cart price de la new buy now shipping contact us top 10 sale the a to"
BOTH = "water time year house light number people place world day work way"


def texts(kind: str, count: int, seed: int = 0, words: int = 60) -> list[str]:
    """A third of the words are of both kinds, and some of the other."""
    rng = np.random.default_rng([seed, kind == "good"])
    own, other = (GOOD.split(), BAD.split())[:: 1 if kind == "good" else -1]
    both = BOTH.split()
    pool, weights = own + both + other, [0.45 / len(own)] * len(own)
    weights += [0.3 / len(both)] * len(both) + [0.25 / len(other)] * len(other)
    return [" ".join(rng.choice(pool, words, p=weights)) + f" {number}." for number in range(count)]
