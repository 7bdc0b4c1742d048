"""Trains a quality filter and tells how it does, on a fifth of the documents that it never saw.

Both sides weigh the same, however many documents each has: a score of 0.5 means that a document is as likely of either.
The regularisation is the one of `STRENGTHS` with the least log loss on a fifth of the training documents. Log loss is
least for true probabilities, so that the scores come out calibrated; the report checks that on the held-out documents.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import vstack
from scipy.stats import wasserstein_distance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from threadpoolctl import threadpool_limits

from data_pipeline.quality import Floats, QualityFilter, draw, hasher, keeps, matrix_of, words_of

SIDES = ("positives", "negatives")
STRENGTHS = (1.0, 10.0, 100.0)
"""Of regularisation, as scikit-learn's C: the larger, the weaker. The more documents, the weaker does best."""
HELD_OUT = 0.2
BINS, CALIBRATION_BINS = 20, 10
NAMED_FROM, NAMED = 1000, 25
"""Documents of a side whose words name the features, and how many features of a side are named."""

Flags = NDArray[np.bool_]


class _Side:
    """Positives or negatives: their features, and draws that tell the documents apart. Texts are seen once."""

    def __init__(self, texts: Iterable[str], features: int, seed: int) -> None:
        self.words: Counter[str] = Counter()
        self._seed, self._draws = seed, list[tuple[float, float, float]]()
        self.features = matrix_of(map(self._seen, texts), features)
        held_out, choosing, self.uniform = np.array(self._draws).T
        self.held_out: Flags = held_out < HELD_OUT
        self.choosing: Flags = choosing < HELD_OUT
        """Those of the others by which the regularisation is chosen."""

    def _seen(self, text: str) -> list[str]:
        words = words_of(text)
        if len(self._draws) < NAMED_FROM:
            self.words.update(set(words))
        self._draws.append((draw(text, "held out"), draw(text, "choosing"), draw(text, "keep", self._seed)))
        return words

    def kept(self, scores: Floats, alpha: float, those: Flags | None = None) -> Flags:
        """Which of the held-out documents, or of `those`, the filter keeps."""
        draws = self.uniform[self.held_out if those is None else those]
        return np.array([keeps(*each, alpha) for each in zip(scores, draws, strict=True)])


def fit(
    positives: Iterable[str], negatives: Iterable[str], features: int, alpha: float | None = None, seed: int = 0
) -> QualityFilter:
    """Trains a filter on texts, a hundred of a side at least and each given once. An `alpha` of None is fitted.

    The result does not depend on the number of threads.
    """
    sides = [_Side(positives, features, seed), _Side(negatives, features, seed)]
    with threadpool_limits(1):
        trained = _trained(sides)
    made = QualityFilter(trained.coef_[0].astype(np.float32), float(trained.intercept_[0]), alpha or 1.0, seed, {})
    scores = [made.scores(side.features[side.held_out]) for side in sides]
    made = replace(made, alpha=alpha or fit_alpha(scores[0]))
    kept = [side.kept(each, made.alpha) for side, each in zip(sides, scores, strict=True)]
    learned = [side.kept(made.scores(side.features[~side.held_out]), made.alpha, ~side.held_out) for side in sides]
    report = {
        "features": features,
        "regularisation": trained.C,
        "trained": {name: int((~side.held_out).sum()) for name, side in zip(SIDES, sides, strict=True)},
        **judged(scores, kept, made.alpha),
        "kept_of_learned": {name: float(each.mean()) for name, each in zip(SIDES, learned, strict=True)},
        "words": _strongest(made.coefficients, sides[0].words + sides[1].words),
    }
    return replace(made, report=report)


def _trained(sides: Sequence[_Side]) -> LogisticRegression:
    """On all training documents, with the regularisation that does best on a part of them, trained on the rest."""
    features = vstack([side.features[~side.held_out] for side in sides]).tocsr()
    labels = np.concatenate([np.full((~side.held_out).sum(), side is sides[0]) for side in sides])
    choosing = np.concatenate([side.choosing[~side.held_out] for side in sides])

    def model(strength: float, among: Flags) -> LogisticRegression:
        regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
        return regression.fit(features[among], labels[among])

    def loss(strength: float) -> float:
        scores = model(strength, ~choosing).predict_proba(features[choosing])[:, 1]
        chosen = labels[choosing]
        return float(log_loss(chosen, scores, sample_weight=_balance(chosen)))

    return model(min(STRENGTHS, key=loss), np.ones(len(labels), np.bool_))


def _balance(labels: Flags) -> Floats:
    """Weights under which both sides have half of all."""
    weights: Floats = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())
    return weights


def fit_alpha(positives: Floats) -> float:
    """The alpha of the Pareto distribution (NumPy's, Lomax) that is likeliest to give `1 - score` of the positives.

    GPT-3 chose it "to match the distribution of scores from our classifier on WebText" (appendix A). The maximum of the
    likelihood is 1 / mean(ln(1 + x)), here with x = 1 - score.
    """
    return float(1 / np.log(2 - positives).mean())


def _distance(positives: Floats, negatives: Floats, alpha: float) -> float | None:
    """None where the chance that any negative is kept is no float."""
    weights = (2 - negatives) ** -alpha
    return float(wasserstein_distance(positives, negatives, v_weights=weights)) if weights.sum() > 0 else None


def judged(scores: Sequence[Floats], kept: Sequence[Flags], alpha: float) -> dict[str, Any]:
    """What scores of held-out positives and negatives say of a filter, and which of these are kept."""
    positives, negatives = scores
    together, labels = np.concatenate(scores), np.repeat([True, False], [len(each) for each in scores])
    return {
        "held_out": {name: len(each) for name, each in zip(SIDES, scores, strict=True)},
        "auc": float(roc_auc_score(labels, together)),
        "alpha": alpha,
        "distance_to_positives": {
            "negatives": _distance(positives, negatives, 0.0),
            "kept_negatives": _distance(positives, negatives, alpha),
        },
        "kept": {name: float(each.mean()) for name, each in zip(SIDES, kept, strict=True)},
        "kept_in_theory": {
            name: float(((2 - each) ** -alpha).mean()) for name, each in zip(SIDES, scores, strict=True)
        },
        "histograms": {
            "positives": _histogram(positives),
            "negatives": _histogram(negatives),
            "kept_negatives": _histogram(negatives[kept[1]]),
        },
        "calibration": _calibration(together, labels),
    }


def _histogram(scores: Floats) -> list[int]:
    """Documents in each of `BINS` equal parts of 0 to 1."""
    return [int(count) for count in np.histogram(scores, BINS, (0, 1))[0]]


def _calibration(scores: Floats, labels: Flags) -> list[dict[str, float]]:
    """Mean score and share of positives, both sides weighing the same, in equal parts of 0 to 1 that hold any."""
    weights = _balance(labels)
    parts = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return [
        {
            "documents": int((parts == part).sum()),
            "score": float(np.average(scores[parts == part], weights=weights[parts == part])),
            "positives": float(np.average(labels[parts == part], weights=weights[parts == part])),
        }
        for part in np.unique(parts)
    ]


def _strongest(coefficients: NDArray[np.float32], words: Counter[str]) -> dict[str, list[tuple[str, float]]]:
    """The words with the largest weights for each side; where several share a feature, the most frequent is named."""
    ranked = sorted(words, key=lambda word: (words[word], word))
    named = dict(zip(hasher(len(coefficients)).transform([[word] for word in ranked]).indices, ranked, strict=True))
    weights = sorted((float(coefficients[feature]), word) for feature, word in named.items())
    return {
        "positives": [(word, round(weight, 3)) for weight, word in weights[: -NAMED - 1 : -1]],
        "negatives": [(word, round(weight, 3)) for weight, word in weights[:NAMED]],
    }
