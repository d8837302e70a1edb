"""Paired bootstrap: how sure we are that after differs from before.

Every score in this package is a function of *sums over rows*: loss is (sum of losses) / (sum of weights), BLEU a
formula over summed n-gram counts. So a resample of the rows needs only the weighted sum of each row's statistics, one
matrix product, and the corpus score of every resample is exact. Both sides see the same resampled rows (paired), which
is what makes a small but consistent gain visible.

Efron, "Bootstrap Methods: Another Look at the Jackknife" (1979); Koehn, "Statistical Significance Tests for Machine
Translation Evaluation" (2004).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2_000
LEVEL = 0.95
# Five pairs that all moved the same way are still a 6 % event by chance (sign test, 2 / 2**5): no verdict below six.
MINIMUM_PAIRS = 6

ScoreFunction = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Interval:
    """The difference after minus before and its 95 % interval; where there is no interval, `reason` says why."""

    difference: float | None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    reason: str | None = None


def ratio(sums: np.ndarray) -> np.ndarray:
    """Numerator over denominator of summed statistics: (..., 2) float64 -> (...), NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def paired_interval(
    before: np.ndarray,
    after: np.ndarray,
    score: ScoreFunction = ratio,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """95 % percentile interval of score(after) - score(before).

    Args:
        before, after: (rows, statistics) float64, the same rows in the same order.
        score: maps summed statistics (..., statistics) to scores (...).
    """
    assert before.shape == after.shape and before.ndim == 2, "before and after must be statistics of the same rows"
    pairs = len(before)
    if pairs == 0:
        return Interval(None, reason="nothing was evaluated")
    difference = float(score(after.sum(0)) - score(before.sum(0)))
    if not np.isfinite(difference):
        return Interval(None, pairs=pairs, reason="the score is not a finite number on one side")
    if pairs == 1:
        return Interval(difference, pairs=1, reason="an interval needs more than one row")
    changes = np.concatenate([score(c @ after) - score(c @ before) for c in resampled_counts(pairs, resamples, seed)])
    low, high = np.nanquantile(changes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(difference, float(low), float(high), pairs)


def verdict(interval: Interval, lower_is_better: bool) -> str | None:
    """One of "better", "worse", "no clear difference", "too few rows"; None when there is no interval to judge by."""
    if interval.low is None or interval.high is None:
        return None
    if interval.pairs < MINIMUM_PAIRS:
        return "too few rows"
    if interval.low <= 0 <= interval.high:
        return "no clear difference"
    return "better" if (interval.high < 0) == lower_is_better else "worse"


def sum_by_cluster(statistics: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Adds up rows that must be resampled together: (rows, k) and (rows,) integer labels -> (clusters, k).

    Rows that answer the same prompt are not independent; counting them one by one makes an interval too narrow
    (Miller, "Adding Error Bars to Evals", 2411.00640).
    """
    _, index = np.unique(clusters, return_inverse=True)
    summed = np.zeros((index.max(initial=-1) + 1, statistics.shape[1]))
    np.add.at(summed, index, statistics)
    return summed


def resampled_counts(rows: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row occurs in each resample, (chunk, rows) float64, in chunks of bounded memory."""
    generator = np.random.default_rng(seed)
    chunk = max(1, 2_000_000 // rows)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(0, rows, size=(size, rows))
        drawn += np.arange(size)[:, None] * rows
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)
