"""A metric with what each test item adds to it, and how sure it is: 95 % bootstrap intervals."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

log = logging.getLogger(__name__)

LEVEL = 0.95
"""How often an interval holds the value that endless test items would give."""
RESAMPLES = 2000
SEED = 0


class Score(float):
    """A metric that knows what each unit of the test set adds to it; elsewhere a plain float.

    A unit is what is drawn again as a whole: an item, or a picture with all its captions. The value
    is the mean over terms of sum / count, so that `mean_r@1` has two terms and an accuracy one.

    Args:
        parts: (units, terms, 2): the sum and the count that each unit adds to each term.
        facts: numbers about the test set that stand beside the metric.

    Example:
        >>> Score([[[1, 1], [2, 4]], [[0, 1], [1, 1]]])  # (1 / 2 + 3 / 5) / 2
        0.55
    """

    parts: np.ndarray
    facts: dict[str, float]

    def __new__(cls, parts: Any, *, facts: Mapping[str, float] | None = None) -> Self:
        array = np.asarray(parts, dtype=np.float64)
        score = super().__new__(cls, _value(array.sum(axis=0)))
        score.parts, score.facts = array, dict(facts or {})
        return score

    def __getnewargs_ex__(self) -> tuple[tuple[np.ndarray], dict[str, Any]]:
        return (self.parts,), {"facts": self.facts}

    @classmethod
    def of_hits(cls, hits: Any) -> Self:
        """The share of items that are hits: (N,) bool.

        Example:
            >>> Score.of_hits([True, False])
            0.5
        """
        array = np.asarray(hits, dtype=np.float64)
        return cls(np.stack([array, np.ones_like(array)], axis=1)[:, None])

    @property
    def items(self) -> int:
        """How many test items there are: the count of the first term."""
        return int(self.parts[:, 0, 1].sum())


def _value(sums: np.ndarray) -> np.ndarray:
    """(…, terms, 2) → (…)."""
    return (sums[..., 0] / sums[..., 1]).mean(axis=-1)


def bootstrap(scores: Sequence[Score]) -> np.ndarray:
    """Values of scores on resampled test sets, the same resamples for all of them.

    Units are drawn with replacement, as many as there are (Efron and Tibshirani 1993, An
    Introduction to the Bootstrap, chapter 6). NumPy with a fixed seed: the same units give the same
    resamples, so differences between two models are paired.

    Args:
        scores: of one test set: as many units, in one order.
    Returns:
        (RESAMPLES, scores).
    """
    units = len(scores[0].parts)
    flat = np.concatenate([score.parts.reshape(units, -1) for score in scores], axis=1)
    generator = np.random.default_rng(SEED)
    sums = np.empty((RESAMPLES, flat.shape[1]))
    for row in sums:
        drawn = np.bincount(generator.integers(units, size=units), minlength=units)
        np.matmul(drawn, flat, out=row)
    ends = np.cumsum([score.parts[0].size for score in scores])[:-1]
    parts = np.split(sums, ends, axis=1)
    return np.stack(
        [
            _value(part.reshape(RESAMPLES, *score.parts.shape[1:]))
            for part, score in zip(parts, scores, strict=True)
        ],
        axis=1,
    )


def interval(values: np.ndarray) -> list[float]:
    """Low and high of the percentile interval (Efron and Tibshirani 1993, chapter 13)."""
    tail = (1 - LEVEL) / 2
    return np.quantile(values, (tail, 1 - tail)).tolist()


def intervals(
    dense: Mapping[str, float], compressed: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """What a run record says of the certainty of its metrics.

    Args:
        dense, compressed: metric name → value; those that are a `Score` get intervals. `dense` may
            be empty.
    Returns:
        Metric name → `items`, the facts of the score, and the intervals `[low, high]` of
        `compressed`, `dense` and `delta`, which is compressed − dense on the same resamples.
    """
    found = {}
    for name, score in compressed.items():
        if not isinstance(score, Score):
            continue
        entry: dict[str, Any] = {"items": score.items, **score.facts}
        before = dense.get(name)
        if isinstance(before, Score) and not _same_test_set(score, before):
            log.warning(
                "%s: the dense model was scored on %d items and the compressed one on %d, so their "
                "difference has no interval",
                name,
                before.items,
                score.items,
            )
            before = None
        if isinstance(before, Score):
            values = bootstrap([score, before])
            entry["dense"] = interval(values[:, 1])
            entry["delta"] = interval(values[:, 0] - values[:, 1])
        else:
            values = bootstrap([score])
        found[name] = entry | {"compressed": interval(values[:, 0])}
    return found


def _same_test_set(one: Score, other: Score) -> bool:
    return one.parts.shape == other.parts.shape and bool(
        (one.parts[..., 1] == other.parts[..., 1]).all()
    )
