"""Splits: the source's own where it has one, an honest hold-out where not."""

from __future__ import annotations

import numpy as np
import pytest

from featx.errors import DatasetError
from featx.evaluation import group_codes, make_split


def test_the_sources_test_is_the_test_and_val_beside_it_tunes():
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    split = make_split(splits, ["a", "b"] * 6)
    assert split.train.tolist() == [0, 1, 2, 3, 4, 5]
    assert split.tuning.tolist() == [6, 7]
    assert split.test.tolist() == [8, 9, 10, 11]
    assert split.origin == "the source's test split"
    assert split.development.tolist() == list(range(8))
    train, valid = split.tuning_pair
    assert train.tolist() == [0, 1, 2, 3, 4, 5]
    assert valid.tolist() == [6, 7]
    assert split.roles(12).tolist() == ["train"] * 6 + ["tuning"] * 2 + ["test"] * 4


def test_tuning_pair_counts_positions_in_the_development_part():
    split = make_split(["test", "val", "train", "test", "train", "val"], ["a", "a", "a", "b", "b", "b"])
    train, valid = split.tuning_pair
    assert split.development[train].tolist() == split.train.tolist() == [2, 4]
    assert split.development[valid].tolist() == split.tuning.tolist() == [1, 5]


def test_a_source_with_val_only_has_it_as_its_test_and_says_so():
    split = make_split(["train"] * 4 + ["val"] * 2, ["a", "b"] * 3)
    assert split.tuning is None
    assert split.tuning_pair is None
    assert split.test.tolist() == [4, 5]
    assert split.origin == "the source's val split, since it has no test split"


@pytest.mark.parametrize("name", ["", "train"])
def test_hold_out_keeps_the_share_of_every_class(name):
    y = np.repeat(["a", "b", "c"], [80, 40, 20])
    split = make_split([name] * 140, y, seed=3)
    assert np.unique(y[split.test], return_counts=True)[1].tolist() == [20, 10, 5]
    assert sorted([*split.train, *split.test]) == list(range(140))
    assert split.origin == "a stratified hold-out of 25% (seed 3)"
    assert np.array_equal(split.test, make_split([name] * 140, y, seed=3).test)
    assert not np.array_equal(split.test, make_split([name] * 140, y, seed=4).test)
    assert len(make_split([name] * 140, y, test_size=0.1).test) == 14


@pytest.mark.parametrize(("size", "low", "high"), [(None, 0.2, 0.3), (0.5, 0.45, 0.55), (0.1, 0.06, 0.14)])
def test_hold_out_keeps_groups_whole(size, low, high):
    groups = [f"p{i // 4}" for i in range(160)]
    y = ["a", "b"] * 80
    split = make_split([""] * 160, y, groups, test_size=size)
    train, test = ({groups[i] for i in part} for part in (split.train, split.test))
    assert not train & test
    assert low < len(split.test) / 160 < high
    assert "of 40 groups, kept whole" in split.origin


@pytest.mark.parametrize("size", [0.01, 0.3, 0.99])
def test_few_groups_give_the_nearest_share_that_is_possible(size):
    groups = np.repeat(["p", "q", "r"], 6)
    split = make_split([""] * 18, ["a", "b"] * 9, groups, test_size=size)
    assert len(split.test) == (12 if size == 0.99 else 6)


def test_images_without_a_group_are_groups_of_their_own():
    assert group_codes(["ann", "", "ann", None, "1"]).tolist() == [0, 1, 0, 2, 3]
    y, groups = ["a", "b"] * 20, [""] * 40
    assert len(make_split([""] * 40, y, groups).test) == 10


def test_unlabelled_images_are_left_out_and_counted():
    y = ["a", "b"] * 10 + ["", None]
    split = make_split([""] * 22, y)
    assert split.unlabelled == 2
    assert max([*split.train, *split.test]) < 20
    assert split.roles(22).tolist()[-2:] == ["", ""]


def test_an_unlabelled_test_split_is_left_out_with_a_note():
    split = make_split(["train"] * 20 + ["test"] * 3, ["a", "b"] * 10 + [""] * 3)
    assert split.notes == ("the test split has no labels and is left out (3 images)",)
    assert split.origin.startswith("a stratified hold-out")
    split = make_split(["train"] * 4 + ["val"] * 2 + ["test"], ["a", "b"] * 3 + [""])
    assert split.origin == "the source's val split, since it has no labelled test split"


def test_what_the_reader_must_know_is_noted():
    split = make_split(["train"] * 4 + [""] + ["test"], ["a", "b", "a", "b", "c", "a"])
    assert split.notes == (
        "1 images name no split and count as training images",
        "no test image of 2 of 3 classes ('b', 'c'), so that how well they are told is not known: add test "
        "images of them",
    )


@pytest.mark.parametrize(
    ("splits", "y", "options", "text"),
    [
        (
            ["test", ""],
            ["a", "b"],
            {"test_size": 0.5},
            "A test size of 0.5 was given, .* leave out --test-size",
        ),
        (["", ""], ["a", "b"], {"test_size": 1.5}, "The test size is 1.5: give a share between 0 and 1"),
        (["dev", ""], ["a", "b"], {}, "a split named 'dev': expected train, val or test"),
        (["", ""], ["a"], {}, "2 splits for 1 labels"),
        (["", ""], ["", None], {}, "None of the 2 images has a label: .* --labels CSV"),
        (["", ""], ["a", "a"], {}, "All 2 labelled images are of class 'a': .* at least two classes"),
        (["test"] * 2, ["a", "b"], {}, "All 2 labelled images are in the test or val split"),
        (["train", "train", "test"], ["a", "a", "b"], {}, "All 2 training images are of class 'a'"),
        (
            ["train", "train", "test", "test"],
            ["a", "b", "c", "c"],
            {},
            "Class 'c' has 2 test images and no training image: add training images of it, or leave it out",
        ),
        (
            ["train", "train", "val", "test"],
            ["a", "b", "c", "b"],
            {},
            "Class 'c' has 1 val image and no training",
        ),
        (
            [""] * 9,
            ["a"] * 8 + ["b"],
            {},
            "Class 'b' has 1 image, which cannot be both .* leave the class out",
        ),
        ([""] * 6, ["a", "b", "c"] * 2, {"test_size": 0.2}, "is 1, too few or too many for 3 classes"),
        (
            [""] * 8,
            ["a", "b"] * 4,
            {"groups": ["p"] * 8},
            "All images are of one group, .* leave out --group",
        ),
    ],
)
def test_what_cannot_be_split_says_why(splits, y, options, text):
    with pytest.raises(DatasetError, match=text):
        make_split(splits, y, **options)


def test_a_class_that_the_tuning_split_lacks_is_noted():
    split = make_split(["train"] * 3 + ["val"] * 2 + ["test"] * 3, [*"abc", *"ab", *"abc"])
    assert split.notes == (
        "no val image of 1 of 3 classes ('c'), so that the choice does not look at them: add val images of "
        "them",
    )


def test_labels_that_are_missing_in_a_split_are_counted():
    splits = ["train"] * 5 + ["val"] * 2 + ["test"] * 4
    split = make_split(splits, ["a", "b", "", "a", "b", "", "", "a", None, "b", "b"])
    assert split.unlabelled == 4
    assert split.notes == (
        "the val split has no labels and is left out (2 images)",
        "1 of 5 train images have no label and are left out: label them",
        "1 of 4 test images have no label and are left out: label them",
    )
    assert split.test.tolist() == [7, 9, 10]
    assert split.tuning is None


def test_a_class_in_one_group_is_learned_and_noted():
    groups = np.repeat(["p", "q", "r", "s"], 4)
    y = np.array(["a", "b"] * 6 + ["c"] * 4)
    for seed in range(8):
        split = make_split([""] * 16, y, groups, seed=seed)
        assert len(split.notes) == 1
        assert split.notes[0].startswith("no test image of 1 of 3 classes ('c'), so that")
        assert len(split.test) == 4
