"""Intervals against published values, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from featx.evaluation import bootstrap, interval_caution, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857–872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_values(k, n, low, high):
    score = wilson(k, n)
    assert (score.value, round(score.low, 4), round(score.high, 4)) == (k / n, low, high)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_scipys(confidence):
    for n in (1, 7, 153):
        for k in {0, 1, n // 2, n}:
            expected = binomtest(k, n).proportion_ci(confidence, "wilson")
            score = wilson(k, n, confidence)
            assert (score.low, score.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
            assert score.low <= score.value <= score.high


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(k, n):
    with pytest.raises(ValueError, match="expected 0 ≤ k ≤ n and n ≥ 1"):
        wilson(k, n)


def mean(sums):
    return sums[:, 0] / sums[:, 1]


def test_bootstrap_of_a_mean_is_about_two_standard_errors_wide():
    values = np.random.default_rng(0).normal(size=400)
    score = bootstrap(np.column_stack([values, np.ones(400)]), mean)
    error = values.std() / 20
    assert score.value == pytest.approx(values.mean())
    assert score.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert score.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_bootstrap_is_the_same_for_the_same_seed():
    rows = np.column_stack([np.arange(30.0), np.ones(30)])
    assert bootstrap(rows, mean, seed=1) == bootstrap(rows, mean, seed=1)
    assert bootstrap(rows, mean, seed=1) != bootstrap(rows, mean, seed=2)


def test_bootstrap_of_groups_sees_that_copies_tell_nothing():
    values = np.random.default_rng(0).normal(size=100)
    ten_times = np.column_stack([np.repeat(values, 10), np.ones(1000)])
    single = bootstrap(np.column_stack([values, np.ones(100)]), mean)
    grouped = bootstrap(ten_times, mean, groups=np.repeat(np.arange(100), 10))
    fooled = bootstrap(ten_times, mean)
    assert (grouped.low, grouped.high) == pytest.approx((single.low, single.high))
    assert fooled.high - fooled.low < 0.5 * (single.high - single.low)


def test_blocks_of_resamples_fit_into_memory_and_agree(monkeypatch):
    rows = np.column_stack([np.arange(50.0), np.ones(50)])
    whole = bootstrap(rows, mean)
    monkeypatch.setattr("featx.evaluation.intervals._CHUNK_BYTES", 16 * 50 * 7)
    assert bootstrap(rows, mean) == whole


@pytest.mark.parametrize(("n", "accuracy"), [(150, 0.6), (150, 0.98), (500, 0.9)])
def test_wilson_covers_the_truth(n, accuracy):
    drawn = np.random.default_rng(0).binomial(n, accuracy, size=1000)
    scores = [wilson(int(k), n) for k in drawn]
    covered = np.mean([score.low <= accuracy <= score.high for score in scores])
    assert 0.92 <= covered <= 0.98


def test_bootstrap_of_40_groups_covers_the_truth():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    covered = 0
    for seed in range(300):
        # Accuracy of each group from a beta distribution with mean 0.8: images of one depend on each other.
        hits = generator.random(400) < np.repeat(generator.beta(8, 2, size=40), 10)
        score = bootstrap(
            np.column_stack([hits, np.ones(400)]), mean, groups=groups, resamples=500, seed=seed
        )
        covered += score.low <= 0.8 <= score.high
    assert 0.90 <= covered / 300 <= 0.98


def test_caution_where_intervals_are_known_to_be_too_narrow():
    assert interval_caution(500, 60) is None
    assert interval_caution(500, 60, n_groups=40) is None
    assert interval_caution(500, 60, n_groups=10) == (
        "only 10 groups in the test: bootstrap intervals are too narrow"
    )
    assert interval_caution(153, 3).startswith("only 3 of 153 test images are wrong")
    assert interval_caution(153, 150).startswith("only 3 of 153 test images are right")
