"""The audit of a collection finds what is planted, and nothing where nothing is."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featx.collection import audit_collection
from featx.collection.findings import Classes, Range
from featx.errors import DatasetError

ALL_ONES = 2**64 - 1


def digests_of(keys):
    data = b"".join(hashlib.sha256(str(key).encode()).digest() for key in keys)
    return np.frombuffer(data, np.uint8).reshape(-1, 32)


def audit(keys, *more, **columns):
    """Images 0, 1, … of these contents."""
    return audit_collection([str(row) for row in range(len(keys))], digests_of(keys), *more, **columns)


def far_hashes(count):
    """Hashes of which no two are near."""
    return [(number * 0x9E3779B97F4A7C15) % 2**64 for number in range(1, count + 1)]


def test_a_clean_collection_is_clean():
    found = audit(range(20), far_hashes(20), ["a", "b"] * 10, ["train"] * 20)
    assert found.images == 20
    assert found.duplicates.groups == found.duplicates.images == 0
    assert found.conflicts.count == found.across_splits.count == 0
    assert found.near_duplicates.count == found.near_duplicates.images == 0
    assert found.near_duplicates.complete
    for finding in (found.duplicates, found.conflicts, found.across_splits, found.near_duplicates):
        assert finding.examples == []


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_images(count):
    found = audit(range(count), far_hashes(count), [""] * count, widths=[0] * count, heights=[0] * count)
    assert found.images == found.classes.unlabelled == count
    assert found.duplicates.groups == found.near_duplicates.count == 0
    assert found.sizes is None


class TestExactDuplicates:
    def test_groups_in_the_order_of_the_images(self):
        found = audit([5, 3, 5, 4, 3, 5])
        assert (found.duplicates.groups, found.duplicates.images) == (2, 3)
        assert found.duplicates.examples == [["0", "2", "5"], ["1", "4"]]

    def test_digests_that_differ_in_one_byte_are_others(self):
        digests = np.zeros((33, 32), np.uint8)
        digests[np.arange(32), np.arange(32)] = 1
        found = audit_collection([str(row) for row in range(33)], digests)
        assert found.duplicates.groups == 0

    def test_counts_are_of_all_and_examples_are_capped(self):
        found = audit([*range(60), *range(60), *([99] * 70)])
        assert (found.duplicates.groups, found.duplicates.images) == (61, 129)
        assert len(found.duplicates.examples) == 50
        assert found.duplicates.examples[0] == ["0", "60"]
        assert len(audit([99] * 70).duplicates.examples[0]) == 50


class TestSeveralLabelsAndSplits:
    def test_the_same_bytes_under_two_labels(self):
        found = audit([7, 7, 8, 8, 7], labels=["a", "a", "b", "b", "c"])
        assert found.conflicts.count == 1
        (example,) = found.conflicts.examples
        assert example.names == ["0", "4", "1"]  # one of each label first
        assert example.values == ["a", "c", "a"]
        assert found.across_splits.count == 0

    def test_the_same_bytes_in_two_splits(self):
        found = audit([7, 7, 8, 8], splits=["train", "test", "train", "train"])
        assert found.across_splits.count == 1
        assert found.across_splits.examples[0].values == ["train", "test"]
        assert found.conflicts.count == 0

    @pytest.mark.parametrize("nothing", ["", None])
    def test_what_has_none_contradicts_nothing(self, nothing):
        found = audit([7, 7, 7], labels=["a", nothing, "a"], splits=[nothing, "test", nothing])
        assert found.conflicts.count == found.across_splits.count == 0
        assert found.duplicates.images == 2

    def test_counts_are_of_all_and_examples_are_capped(self):
        found = audit([*range(60), *range(60)], labels=["a"] * 60 + ["b"] * 60)
        assert found.conflicts.count == 60
        assert [example.names for example in found.conflicts.examples[:2]] == [["0", "60"], ["1", "61"]]
        assert len(found.conflicts.examples) == 50


class TestNearDuplicates:
    def test_hashes_up_to_three_bits_apart(self):
        base = far_hashes(4)
        found = audit(range(6), [*base, base[1] ^ 0b101, base[2] ^ 0b1111])
        near = found.near_duplicates
        assert (near.count, near.images, near.across_splits, near.across_labels) == (1, 2, 0, 0)
        assert (near.examples[0].names, near.examples[0].bits) == (("1", "4"), 2)

    def test_one_hash_of_many_images_counts_once(self):
        found = audit(range(5), [9, 9, 9, *far_hashes(2)])
        near = found.near_duplicates
        assert (near.count, near.images) == (1, 3)
        assert (near.examples[0].names, near.examples[0].bits) == (("0", "1"), 0)

    def test_the_same_bytes_are_no_near_duplicate(self):
        found = audit([1, 1, 1], [9, 9, 9], ["a", "b", "b"], ["train", "test", "test"])
        assert found.near_duplicates.count == 0
        assert found.duplicates.groups == 1

    @pytest.mark.parametrize("nothing", [0, ALL_ONES])
    def test_hashes_that_say_nothing_are_passed_over(self, nothing):
        assert audit(range(3), [nothing, nothing, nothing ^ 1]).near_duplicates.count == 0

    def test_across_splits_and_labels(self):
        hashes = [far ^ flip for far in far_hashes(3) for flip in (0, 1)]
        labels = ["a", "b", "a", "a", "b", ""]
        splits = ["train", "train", "train", "test", "", "test"]
        near = audit(range(6), hashes, labels, splits).near_duplicates
        assert (near.count, near.across_splits, near.across_labels) == (3, 1, 1)
        # Across splits first, then across labels, then the rest.
        assert [one.names for one in near.examples] == [("2", "3"), ("0", "1"), ("4", "5")]
        assert near.examples[0].splits == ("train", "test")
        assert near.examples[1].labels == ("a", "b")
        assert near.examples[2].splits == ("", "test")

    def test_the_example_shows_what_contradicts(self):
        """Though the first images of both hashes do not."""
        near = audit(range(4), [8, 8, 9, 9], None, ["train", "train", "train", "test"]).near_duplicates
        assert (near.count, near.across_splits) == (3, 2)
        assert near.examples[0].splits == near.examples[1].splits == ("train", "test")
        assert near.examples[2].bits == 0

    def test_splits_of_one_content_are_not_across(self):
        """Content 1 stands in both splits, and content 2, of the same hash, in none."""
        near = audit([1, 1, 2], [9, 9, 9], None, ["train", "test", ""]).near_duplicates
        assert (near.count, near.across_splits) == (1, 0)
        near = audit([1, 1, 2], [9, 9, 9], None, ["train", "test", "test"]).near_duplicates
        assert (near.count, near.across_splits) == (1, 1)
        assert near.examples[0].names == ("0", "2")

    def test_without_hashes_there_are_none(self):
        assert audit(range(3)).near_duplicates.count == 0

    def test_too_many_are_at_least_so_many(self, monkeypatch):
        monkeypatch.setattr(
            "featx.collection.lookalikes.near_pairs.__kwdefaults__", {"most_compared": 9000, "most_found": 50}
        )
        near = audit(range(100), np.arange(1, 101)).near_duplicates
        assert not near.complete
        assert near.count > 0
        assert len(near.examples) <= 50

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 5),
                st.sampled_from(["", "a", "b"]),
                st.sampled_from(["", "train", "test"]),
            ),
            max_size=10,
        ),
        st.permutations([0, 1, 3, 0b11110, 0b11110, 0b11111]),
    )
    def test_as_a_comparison_of_all_with_all(self, images, hash_of):
        """Contents 0 to 5, of which some share a hash, some are near and one says nothing."""
        keys = [key for key, _, _ in images]
        hashes = [hash_of[key] for key in keys]
        labels, splits = [label for _, label, _ in images], [split for _, _, split in images]
        near = audit(keys, hashes, labels, splits).near_duplicates
        looks, rows, across = set(), set(), {"labels": set(), "splits": set()}
        for i, j in combinations(range(len(keys)), 2):
            is_near = hashes[i] and hashes[j] and (hashes[i] ^ hashes[j]).bit_count() <= 3
            if keys[i] != keys[j] and is_near:
                look = frozenset((hashes[i], hashes[j]))
                looks.add(look)
                rows |= {i, j}
                for what, values in (("labels", labels), ("splits", splits)):
                    if values[i] and values[j] and values[i] != values[j]:
                        across[what].add(look)
        # An image near to a content is so in each of its copies.
        rows = {row for row in range(len(keys)) if any(hashes[row] in look for look in looks)}
        assert (near.count, near.images) == (len(looks), len(rows))
        assert (near.across_labels, near.across_splits) == (len(across["labels"]), len(across["splits"]))
        for one in near.examples:
            a, b = map(int, one.names)
            assert a < b
            assert keys[a] != keys[b]
            assert (hashes[a] ^ hashes[b]).bit_count() == one.bits
            look = frozenset((hashes[a], hashes[b]))
            if look in across["splits"]:
                assert one.splits in (("train", "test"), ("test", "train"))
            elif look in across["labels"]:
                assert one.labels in (("a", "b"), ("b", "a"))


class TestStatistics:
    def test_sizes(self):
        found = audit(range(5), widths=[100, 40, 31, 100, 0], heights=[50, 32, 50, 50, 7])
        sizes = found.sizes
        assert sizes.width == Range(31, 70.0, 100)
        assert sizes.height == Range(32, 50.0, 50)
        assert (sizes.different, sizes.small, sizes.unknown) == (3, 1, 1)

    def test_sizes_of_which_none_is_known(self):
        assert audit(range(2), widths=[0, 0], heights=[0, 0]).sizes is None
        assert audit(range(2)).sizes is None

    def test_width_and_height_are_not_mixed_up(self):
        sizes = audit(range(2), widths=np.array([2, 1], np.uint32), heights=np.array([1, 2], np.uint32)).sizes
        assert sizes.different == 2

    def test_modes(self):
        found = audit(range(5), modes=["L", "RGB", "RGB", "", "I;16"])
        assert list(found.modes.items()) == [("RGB", 2), ("L", 1), ("I;16", 1)]

    def test_classes(self):
        found = audit(range(6), labels=["b", "a", "b", None, "b", ""])
        assert found.classes == Classes({"a": 1, "b": 3}, 2, "a", "b", 3.0)
        assert list(found.classes.counts) == ["a", "b"]
        assert audit(range(2)).classes == Classes({}, 2, None, None, None)

    def test_reasons_without_their_numbers(self):
        reasons = [
            "not an image",
            "9,000×12000 pixels are more than 89,478,485 allowed",
            "10×9 pixels are more than 89,478,485 allowed",
            "x" * 200,
        ]
        assert audit([], skipped=reasons).skipped == {
            "N×N pixels are more than N allowed": 2,
            "not an image": 1,
            "x" * 120: 1,
        }


def test_json_is_json():
    found = audit(
        [1, 1, 2],
        [9, 9, 8],
        ["a", "b", "b"],
        ["train", "test", "test"],
        widths=[2, 2, 3],
        heights=[4, 4, 5],
        modes=["RGB"] * 3,
        skipped=["empty"],
    )
    assert json.loads(json.dumps(found.to_json())) == {
        "images": 3,
        "duplicates": {"groups": 1, "images": 1, "examples": [["0", "1"]]},
        "conflicts": {"count": 1, "examples": [{"names": ["0", "1"], "values": ["a", "b"]}]},
        "across_splits": {"count": 1, "examples": [{"names": ["0", "1"], "values": ["train", "test"]}]},
        "near_duplicates": {
            "count": 1,
            "across_splits": 1,
            "across_labels": 1,
            "images": 3,
            "complete": True,
            "examples": [{"names": ["0", "2"], "bits": 1, "labels": ["a", "b"], "splits": ["train", "test"]}],
        },
        "sizes": {
            "width": {"min": 2, "median": 2.0, "max": 3},
            "height": {"min": 4, "median": 4.0, "max": 5},
            "different": 2,
            "small": 3,
            "unknown": 0,
        },
        "modes": {"RGB": 3},
        "classes": {
            "counts": {"a": 1, "b": 2},
            "unlabelled": 0,
            "smallest": "a",
            "largest": "b",
            "imbalance": 2.0,
        },
        "skipped": {"empty": 1},
    }


@pytest.mark.parametrize("column", ["phashes", "labels", "splits", "widths", "heights", "modes"])
def test_lists_of_different_length_are_refused(column):
    with pytest.raises(DatasetError, match=r"lists of \[2, 3\] entries: give one entry for each image"):
        audit(range(3), **{column: [1, 2]})


def test_it_loads_nothing_large():
    """An extraction that has nothing to compute ends with an audit, within a second."""
    code = (
        "import sys, featx.collection; print({'scipy', 'sklearn', 'torch', 'h5py', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
