"""The paired bootstrap against a slow loop, against coverage on simulated data, and at its edges."""

import numpy as np
import pytest

from lorica.evaluation.bootstrap import Interval, paired_interval, ratio, sum_by_cluster, verdict


def _per_row_losses(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, 40, rows).astype(float)
    before = tokens * generator.gamma(4.0, 0.5, rows)
    return np.stack([before, tokens], 1), np.stack([before - 0.1 * tokens * generator.random(rows), tokens], 1)


def test_agrees_with_a_slow_loop() -> None:
    before, after = _per_row_losses(37)
    interval = paired_interval(before, after, resamples=4000, seed=11)
    generator = np.random.default_rng(99)
    changes = []
    for _ in range(4000):
        rows = [int(generator.integers(37)) for _ in range(37)]
        changes.append(
            sum(after[r, 0] for r in rows) / sum(after[r, 1] for r in rows)
            - sum(before[r, 0] for r in rows) / sum(before[r, 1] for r in rows)
        )
    low, high = np.percentile(changes, [2.5, 97.5])
    width = high - low
    assert interval.difference == pytest.approx(
        after[:, 0].sum() / after[:, 1].sum() - before[:, 0].sum() / before[:, 1].sum()
    )
    assert interval.low == pytest.approx(low, abs=0.08 * width)
    assert interval.high == pytest.approx(high, abs=0.08 * width)


def test_chunks_of_resamples_do_not_change_the_law() -> None:
    """Many rows are resampled in several chunks; a constant shift has a known interval either way."""
    before = np.stack([np.arange(150_000.0), np.ones(150_000)], 1)
    interval = paired_interval(before, before + np.array([2.5, 0.0]), resamples=30)
    assert (interval.difference, interval.low, interval.high) == pytest.approx((2.5, 2.5, 2.5))


def test_covers_the_truth_in_95_percent_of_1000_comparisons() -> None:
    generator = np.random.default_rng(7)
    truth, covered, sets = -0.3, 0, 1000
    for number in range(sets):
        hard = generator.gamma(3.0, 1.0, 60)
        tokens = generator.integers(5, 30, 60).astype(float)
        change = generator.normal(truth, 0.8, 60)
        before, after = np.stack([hard * tokens, tokens], 1), np.stack([(hard + change) * tokens, tokens], 1)
        interval = paired_interval(before, after, resamples=1000, seed=number)
        assert interval.low is not None and interval.high is not None
        covered += interval.low <= truth <= interval.high
    assert 0.93 <= covered / sets <= 0.97


def test_pairing_sees_what_separate_intervals_cannot() -> None:
    generator = np.random.default_rng(1)
    hard = generator.gamma(1.0, 5.0, 200)
    before = np.stack([hard, np.ones(200)], 1)
    after = before - np.array([0.05, 0.0]) + np.stack([generator.normal(0, 0.1, 200), np.zeros(200)], 1)
    interval = paired_interval(before, after)
    assert interval.low is not None and interval.high is not None
    assert interval.high < 0 and interval.high - interval.low < 0.05 < before[:, 0].std() / np.sqrt(200)


def test_same_seed_same_interval() -> None:
    before, after = _per_row_losses(20)
    assert paired_interval(before, after, seed=4) == paired_interval(before, after, seed=4)
    assert paired_interval(before, after, seed=4).low != paired_interval(before, after, seed=5).low


def test_repeated_rows_of_a_prompt_do_not_narrow_the_interval() -> None:
    before, after = _per_row_losses(30)
    clusters = np.repeat(np.arange(30) * 7, 10)
    many = [sum_by_cluster(np.repeat(side, 10, axis=0), clusters) for side in (before, after)]
    once, clustered = paired_interval(before, after), paired_interval(*many)
    naive = paired_interval(np.repeat(before, 10, axis=0), np.repeat(after, 10, axis=0))
    assert (clustered.low, clustered.high) == pytest.approx((once.low, once.high))
    assert naive.high - naive.low < 0.5 * (once.high - once.low)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (np.zeros((0, 2)), np.zeros((0, 2)), "nothing was evaluated"),
        (np.array([[3.0, 2.0]]), np.array([[2.0, 2.0]]), "more than one row"),
        (np.array([[3.0, 2.0], [1.0, 1.0]]), np.array([[np.nan, 2.0], [1.0, 1.0]]), "not a finite"),
        (np.array([[3.0, 2.0], [1.0, 1.0]]), np.array([[np.inf, 2.0], [1.0, 1.0]]), "not a finite"),
    ],
)
def test_says_why_there_is_no_interval(before: np.ndarray, after: np.ndarray, reason: str) -> None:
    interval = paired_interval(before, after)
    assert (interval.low, interval.high) == (None, None)
    assert interval.reason is not None and reason in interval.reason
    assert verdict(interval, lower_is_better=True) is None


@pytest.mark.parametrize(
    ("low", "high", "pairs", "lower", "expected"),
    [
        (-2.0, -1.0, 50, True, "better"),
        (-2.0, -1.0, 50, False, "worse"),
        (0.5, 1.0, 50, False, "better"),
        (0.5, 1.0, 50, True, "worse"),
        (-0.1, 1.0, 50, True, "no clear difference"),
        (0.0, 0.0, 50, True, "no clear difference"),
        (-2.0, -1.0, 5, True, "too few rows"),
        (-2.0, -1.0, 6, True, "better"),
    ],
)
def test_verdict(low: float, high: float, pairs: int, lower: bool, expected: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high, pairs), lower_is_better=lower) == expected


def test_ratio_without_weight_is_not_a_number() -> None:
    assert np.isnan(ratio(np.array([0.0, 0.0])))
    assert ratio(np.array([[1.0, 4.0], [6.0, 3.0]])).tolist() == [0.25, 2.0]
