"""Paired tests against scipy, by hand, and under the null hypothesis."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from featx.errors import DatasetError
from featx.evaluation import compare, holm, mcnemar
from featx.evaluation.comparison import sign_flip


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 0), (3, 3), (2, 10), (12, 30), (700, 801)])
def test_mcnemar_is_scipys_exact_binomial_test(a, b):
    expected = binomtest(a, a + b).pvalue if a + b else 1.0
    assert mcnemar(a, b) == pytest.approx(expected)
    assert mcnemar(b, a) == mcnemar(a, b)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_sign_flips_of_single_images_are_mcnemar():
    differences = np.array([1] * 12 + [-1] * 4 + [0] * 50)
    assert sign_flip(differences) == pytest.approx(mcnemar(12, 4), abs=0.015)
    assert sign_flip(np.zeros(5)) == 1.0


def test_differences_are_the_winners_minus_the_others():
    truth = np.zeros(100, dtype=int)
    best, worse = truth.copy(), truth.copy()
    best[:5] = 1
    worse[3:23] = 1
    rows = compare([worse, best, best], truth, best=1)
    assert [(row.a, row.b) for row in rows] == [(1, 0), (1, 2)]
    assert rows[0].difference == pytest.approx(0.15)
    # The best alone is right on rows 5 to 22, the other alone on rows 0 to 2.
    assert rows[0].p_value == pytest.approx(binomtest(3, 21).pvalue)
    error = np.sqrt((21 / 100 - 0.15**2) / 100)
    assert rows[0].low == pytest.approx(0.15 - 1.96 * error, abs=0.02)
    assert rows[0].high == pytest.approx(0.15 + 1.96 * error, abs=0.02)
    assert (rows[1].difference, rows[1].p_value, rows[1].p_bootstrap) == (0, 1, 1)
    # 100 images that both get right do not show that there is no difference at all.
    assert rows[1].high == pytest.approx(-rows[1].low, rel=0.1)
    assert 0.005 < rows[1].high < 0.025
    assert [row.p_adjusted for row in rows] == holm([row.p_value for row in rows])
    assert rows[0].p_bootstrap == pytest.approx(1 / 2001, abs=2 / 2001)


def test_copies_of_one_image_are_no_evidence_when_grouped():
    truth = np.zeros(200, dtype=int)
    other = np.zeros(200, dtype=int)
    other[:40] = 1
    groups = np.repeat(np.arange(10), 20)
    (single,) = compare([truth, other], truth, best=0)
    (grouped,) = compare([truth, other], truth, best=0, groups=groups)
    assert single.p_value < 1e-9
    assert grouped.p_value == pytest.approx(0.5, abs=0.03)
    assert grouped.high - grouped.low > 2 * (single.high - single.low)
    assert grouped.difference == single.difference == pytest.approx(0.2)


def test_grouped_test_keeps_its_level_under_the_null_hypothesis():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 5)
    truth = np.zeros(150, dtype=int)
    false_alarms = 0
    for seed in range(100):
        a, b = (np.repeat(generator.random(30) < 0.3, 5).astype(int) for _ in range(2))
        (row,) = compare([a, b], truth, 0, groups=groups, seed=seed, resamples=10)
        false_alarms += row.p_value <= 0.05
    assert false_alarms <= 12


@pytest.mark.parametrize("per_group", [1, 5])
def test_the_bootstraps_p_value_keeps_its_level_under_the_null_hypothesis(per_group):
    generator = np.random.default_rng(1)
    n_groups = 200 // per_group
    groups = np.repeat(np.arange(n_groups), per_group)
    truth = np.zeros(200, dtype=int)
    p_values = []
    for _ in range(400):
        rows = [np.repeat(generator.random(n_groups) < 0.3, per_group).astype(int) for _ in range(2)]
        (row,) = compare(rows, truth, 0, groups=groups if per_group > 1 else None, resamples=500)
        p_values.append(row.p_bootstrap)
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.08
    assert 0.4 <= np.mean(np.array(p_values) <= 0.5) <= 0.6


def test_p_values_are_corrected_for_the_number_of_rows():
    generator = np.random.default_rng(2)
    truth = np.zeros(300, dtype=int)
    rows = [(generator.random(300) < share).astype(int) for share in (0.1, 0.15, 0.18, 0.3)]
    found = compare(rows, truth, 0)
    assert [row.p_adjusted for row in found] == holm([row.p_value for row in found])
    assert all(row.p_adjusted >= row.p_value for row in found)
    assert found[1].p_adjusted > found[1].p_value


def test_one_row_has_nothing_to_be_compared_with():
    assert compare([[0, 1]], [0, 1], best=0) == ()


@pytest.mark.parametrize(
    ("rows", "truth", "best", "text"),
    [
        ([[0, 1]], [0, 1], 1, "no row 1 among 1"),
        ([[0, 1], [0]], [0, 1], 0, r"Row 1 predicts \(1,\) images .* same test images"),
    ],
)
def test_what_cannot_be_compared_says_why(rows, truth, best, text):
    with pytest.raises(DatasetError, match=text):
        compare(rows, truth, best)
