"""Intervals against published values, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, t

from featx.evaluation import bootstrap, interval_caution, wilson
from featx.evaluation.intervals import effective_wilson, proportion, student
from featx.evaluation.resampling import bootstrap_t, resampled_sums


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
    monkeypatch.setattr("featx.evaluation.resampling._CHUNK_BYTES", 16 * 50 * 7)
    assert bootstrap(rows, mean) == whole
    monkeypatch.undo()
    monkeypatch.setattr("featx.evaluation.resampling._KEPT_BYTES", 0)
    assert bootstrap(rows, mean) == whole


def test_a_proportion_has_wilsons_interval_but_for_the_last_few_errors():
    assert proportion(140, 150) == wilson(140, 150)
    assert proportion(150, 150) == wilson(150, 150)
    for errors, mean in ((1, 0.0513), (2, 0.3554), (3, 0.8177)):
        # Half the 5 % quantile of chi squared with twice as many degrees of freedom as errors.
        assert proportion(150 - errors, 150).high == pytest.approx(1 - mean / 150, abs=1e-5)
        assert proportion(errors, 150).low == pytest.approx(mean / 150, abs=1e-5)
        assert proportion(150 - errors, 150).low == wilson(150 - errors, 150).low


def test_a_proportion_that_is_nearly_1_is_covered_where_wilson_alone_is_not():
    drawn = np.random.default_rng(0).binomial(150, 0.999, size=1000)
    mended, plain = ([way(int(k), 150) for k in drawn] for way in (proportion, wilson))
    assert np.mean([score.low <= 0.999 <= score.high for score in mended]) > 0.97
    assert np.mean([score.low <= 0.999 <= score.high for score in plain]) < 0.9


def test_the_effective_size_of_independent_trials_is_their_number():
    k = np.array([0, 3, 75, 140, 149, 150])
    share = k / 150
    low, high = effective_wilson(share, np.sqrt(share * (1 - share) / 150), 1.959964, 150)
    expected = [proportion(int(each), 150) for each in k]
    assert low == pytest.approx([score.low for score in expected])
    assert high == pytest.approx([score.high for score in expected])


def test_students_quantiles_are_scipys():
    assert student([2, 10, 1000]) == pytest.approx(t.ppf(0.975, [1, 9, 999]))


def test_bootstrap_t_of_a_symmetric_mean_is_students_interval():
    values = np.random.default_rng(0).normal(5, 1, size=400)
    ones = np.ones(400)
    score = bootstrap_t(
        values, ones, resampled_sums(np.column_stack([values, ones, values**2, values, ones]))
    )
    half = 1.966 * values.std(ddof=1) / 20
    assert (score.low, score.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.12 * half
    )


def test_caution_where_intervals_are_known_to_be_too_narrow():
    assert interval_caution(500, 60) is None
    assert interval_caution(500, 60, n_groups=40) is None
    assert interval_caution(500, 60, n_groups=10) == (
        "only 10 groups in the test: bootstrap intervals are too narrow"
    )
    assert interval_caution(153, 3).startswith("only 3 of 153 test images are wrong")
    assert interval_caution(153, 150).startswith("only 3 of 153 test images are right")
