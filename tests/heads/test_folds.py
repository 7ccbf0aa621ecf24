"""Folds: stratified, groups whole, and errors that name the class and the remedy."""

from __future__ import annotations

import numpy as np
import pytest

from featx.errors import DatasetError
from featx.heads import make_folds
from featx.heads.folds import smallest_class


def test_folds_are_a_stratified_partition_and_depend_on_the_seed_only():
    y = np.repeat(["a", "b"], [30, 10])
    folds = make_folds(y, 5, seed=1)
    assert sorted(np.concatenate([valid for _, valid in folds])) == list(range(40))
    assert all((y[valid] == "b").sum() == 2 for _, valid in folds)
    assert all(len(np.intersect1d(train, valid)) == 0 for train, valid in folds)
    again, other = make_folds(y, 5, seed=1), make_folds(y, 5, seed=2)
    assert all(np.array_equal(one[1], two[1]) for one, two in zip(folds, again, strict=True))
    assert any(not np.array_equal(one[1], two[1]) for one, two in zip(folds, other, strict=True))


def test_groups_stay_whole():
    groups = np.repeat(np.arange(20), 4)
    y = np.tile(["a", "b"], 40)
    folds = make_folds(y, 4, groups=groups)
    assert sorted(np.concatenate([valid for _, valid in folds])) == list(range(80))
    for train, valid in folds:
        assert not set(groups[train]) & set(groups[valid])


def test_explicit_pairs_are_taken_as_they_are():
    ((train, valid),) = make_folds(["a", "b", "a", "b"], [([0, 1], [2, 3])])
    assert train.tolist() == [0, 1]
    assert valid.tolist() == [2, 3]


def test_smallest_class_counts_images_or_groups():
    y = np.array(["a"] * 4 + ["b"] * 3)
    assert smallest_class(y) == 3
    assert smallest_class(y, np.array([1, 1, 2, 2, 3, 3, 3])) == 1


Y = ["a"] * 10 + ["b"] * 3


@pytest.mark.parametrize(
    ("y", "cv", "groups", "text"),
    [
        (
            Y,
            5,
            None,
            "Class 'b' has 3 training images, fewer than the 5 folds .* add images of it, or choose --cv 3",
        ),
        ([*Y, "c"], 5, None, "Class 'c' has 1 training image, fewer .* or leave the class out"),
        (Y, 1, None, "1 folds is not possible: give --cv 2 or more"),
        (Y, 3, [0, 1] * 6 + [0], "2 groups for 3 folds, .* choose --cv 2"),
        (Y, 3, [0] * 13, "1 group for 3 folds, .* leave out --group"),
        (Y, 3, [0] * 5, "give one group for each image"),
        (Y, 2, [*range(10), 11, 11, 11], "Class 'b' occurs in 1 group only, so the training part of fold"),
        (Y, [([0, 1], [11])], None, "Class 'b' is missing in the training part of fold 1"),
        (Y, [([0, 12], [12])], None, "Fold 1 is scored on 1 row that it is fitted on .* row 12"),
        (Y, [([0, 12], [13])], None, "points at row 13, outside of the 13 rows"),
        (Y, [([0, 12], [-1])], None, "give indices from 0 on"),
        (Y, [([0, 12], [])], None, "validation part of fold 1 is no list of row indices"),
        (
            Y,
            [([0, 12], [1, 10])],
            [*"pqrstuvwxyzzp"],
            "Fold 1 has 1 group on both sides .* keep groups whole",
        ),
        (Y, [], None, "cv holds no folds"),
    ],
)
def test_what_cannot_be_folded_says_why(y, cv, groups, text):
    if groups == [*"pqrstuvwxyzzp"]:
        cv = [([0, 11], [1, 12])]
    with pytest.raises(DatasetError, match=text):
        make_folds(y, cv, groups=groups)
