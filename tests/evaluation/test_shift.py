"""Parts of one source are not told apart; others are, with the classes that differ."""

from __future__ import annotations

import numpy as np
import pytest

from featx.errors import DatasetError
from featx.evaluation.shift import draw_parts, measure_shift


def parts(seed=0, n=60, d=20, by=0.0, only=("a", "b")):
    rng = np.random.default_rng(seed)
    labels = np.tile(["a", "b"], n // 2)
    train, test = rng.normal(size=(2, n, d))
    test[np.isin(labels, only), :4] += by
    return train, test, labels, labels


def test_parts_of_one_source_are_not_told_apart():
    p_values = np.array([measure_shift(*parts(seed), seed=seed).p_value for seed in range(40)])
    # Of 40 draws, 2 are expected below 0.05; 7 or more have a probability of 0.003.
    assert (p_values < 0.05).sum() < 7
    assert p_values.min() > 0.001


def test_another_source_is_told_with_its_interval():
    shift = measure_shift(*parts(by=1.5))
    assert 0.8 < shift.low < shift.auc < shift.high <= 1
    assert shift.p_value < 1e-6
    assert shift.scored == 60
    assert set(shift.classes) == {"a", "b"}


def test_the_class_that_differs_is_named():
    shift = measure_shift(*parts(n=200, by=1.5, only=["b"]))
    assert shift.classes["b"] > 0.9
    assert shift.classes["b"] > shift.classes["a"] + 0.15


def test_the_seed_decides():
    assert measure_shift(*parts(), seed=1) == measure_shift(*parts(), seed=1)
    assert measure_shift(*parts(), seed=1) != measure_shift(*parts(), seed=2)


def test_one_of_many_images_of_a_group_says_no_more_than_the_group():
    """Each group has its own place: images of it are told from others, the parts are not."""
    rng = np.random.default_rng(0)
    places = rng.normal(size=(24, 8)) * 5
    groups = np.repeat(np.arange(24), 10)
    X = places[groups] + rng.normal(size=(240, 8))
    labels = ["a"] * 120
    alone = measure_shift(X[:120], X[120:], labels, labels)
    grouped = measure_shift(X[:120], X[120:], labels, labels, groups=groups)
    assert alone.p_value < 1e-6
    assert grouped.p_value > 0.01
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_too_few_images_or_groups_are_not_measured():
    assert measure_shift(*parts(n=38)) is None
    assert measure_shift(*parts(), groups=np.zeros(120)) is None
    assert measure_shift(*parts(), groups=np.repeat([0, 1], 60)) is None


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_features_that_say_nothing_tell_nothing(value):
    labels = np.repeat("a", 50)
    shift = measure_shift(np.full((50, 3), value), np.full((50, 3), value), labels, labels)
    assert shift.auc == 0.5
    assert shift.p_value >= 0.5


def test_as_many_of_each_class_are_drawn_from_both_parts():
    train, test = np.array(["a"] * 90 + ["b"] * 10), np.array(["b"] * 30 + ["a"] * 20 + ["b"] * 10)
    one, other = draw_parts(train, test)
    for rows, labels in ((one, train), (other, test)):
        assert len(np.unique(rows)) == len(rows) == 30
        assert (labels[rows] == "a").sum() == 20
    few, _ = draw_parts(train, test, most=12)
    assert len(few) <= 12


def test_shares_of_classes_are_no_shift():
    rng = np.random.default_rng(0)
    train, test = np.array(["a"] * 300 + ["b"] * 60), np.array(["a"] * 60 + ["b"] * 60)
    X, X_test = (rng.normal(size=(len(y), 6)) + 4 * (y == "a")[:, None] for y in (train, test))
    one, other = draw_parts(train, test)
    shift = measure_shift(X[one], X_test[other], train[one], test[other])
    assert shift.low < 0.5 < shift.high


def test_shapes_are_checked():
    with pytest.raises(DatasetError, match=r"shapes \(40, 3\) and \(40, 2\): give rows of as many"):
        measure_shift(np.ones((40, 3)), np.ones((40, 2)), ["a"] * 40, ["a"] * 40)
    with pytest.raises(DatasetError, match="79 labels for 80 rows"):
        measure_shift(np.ones((40, 2)), np.ones((40, 2)), ["a"] * 40, ["a"] * 39)
