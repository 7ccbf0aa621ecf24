"""The audit finds what is planted, and nothing where nothing is."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from featx.errors import DatasetError
from featx.evaluation.audit import audit


def images(n=20):
    rng = np.random.default_rng(0)
    names = [f"{'ab'[i % 2]}/{i:03}.png" for i in range(n)]
    digests = np.array([list(hashlib.sha256(name.encode()).digest()) for name in names], dtype=np.uint8)
    hashes = rng.integers(1, 2**63, size=n, dtype=np.uint64)
    labels = np.array(["a", "b"] * (n // 2))
    roles = np.array(["train"] * (n // 2) + ["test"] * (n - n // 2), dtype="<U6")
    return names, digests, hashes, labels, roles


def test_a_clean_set_is_clean():
    found = audit(*images(), groups=[str(i) for i in range(20)])
    assert found.clean
    assert found.near_checked
    assert not found.leaked_test.any()
    assert found.leaked_test.shape == (20,)


def test_identical_bytes_across_the_split_are_found():
    names, digests, hashes, labels, roles = images()
    digests[[12, 14]] = digests[4]
    digests[2] = digests[0]
    hashes[[12, 14]] = hashes[4]
    found = audit(names, digests, hashes, labels, roles)
    assert found.duplicates == [("a/012.png", "a/004.png"), ("a/014.png", "a/004.png")]
    assert found.n_duplicates == 2
    assert np.flatnonzero(found.leaked_test).tolist() == [12, 14]
    assert found.n_conflicts == found.n_near_duplicates == 0
    assert not found.clean


def test_tuning_counts_as_training_and_unused_rows_do_not():
    names, digests, hashes, labels, roles = images()
    roles[4], roles[5] = "tuning", ""
    digests[12], digests[13] = digests[4], digests[5]
    found = audit(names, digests, hashes, labels, roles)
    assert np.flatnonzero(found.leaked_test).tolist() == [12]


def test_bytes_and_arrays_of_digests_are_the_same():
    names, digests, hashes, labels, roles = images()
    digests[12] = digests[5]
    listed = [bytes(row) for row in digests]
    assert audit(names, listed, hashes, labels, roles).to_json() == (
        audit(names, digests, hashes, labels, roles).to_json()
    )


def test_one_image_under_two_labels_is_found():
    names, digests, hashes, labels, roles = images()
    digests[[1, 2]] = digests[0]
    digests[4] = digests[6]
    found = audit(names, digests, hashes, labels, roles)
    assert found.conflicts == [(["a/000.png", "b/001.png", "a/002.png"], ["a", "b"])]
    assert found.n_conflicts == 1


def test_images_without_a_label_contradict_nothing():
    names, digests, hashes, labels, roles = images()
    digests[1] = digests[0]
    assert audit(names, digests, hashes, ["a", "", *labels[2:]], roles).n_conflicts == 0
    assert audit(names, digests, hashes, ["a", None, *labels[2:]], roles).n_conflicts == 0


@pytest.mark.parametrize(("bits", "expected"), [(1, 1), (3, 1), (4, 0)])
def test_near_duplicates_are_found_up_to_three_bits(bits, expected):
    names, digests, hashes, labels, roles = images()
    hashes[13] = hashes[3] ^ np.uint64((1 << bits) - 1)
    found = audit(names, digests, hashes, labels, roles)
    assert found.n_near_duplicates == expected
    assert found.near_duplicates == [("b/013.png", "b/003.png", bits)][:expected]
    assert not found.leaked_test.any()


def test_hashes_that_say_nothing_are_passed_over():
    names, digests, hashes, labels, roles = images()
    hashes[[0, 10]] = 0
    hashes[[1, 11]] = 2**64 - 1
    assert audit(names, digests, hashes, labels, roles).n_near_duplicates == 0


def test_without_hashes_it_is_said_that_nothing_was_looked_for():
    names, digests, hashes, labels, roles = images()
    hashes[13] = hashes[3]
    assert audit(names, digests, hashes, labels, roles).near_checked
    assert audit(names, digests, None, labels, roles).near_checked is False
    found = audit(names, digests, np.zeros_like(hashes), labels, roles)
    assert (found.near_checked, found.without_hash, found.n_near_duplicates) == (False, 20, 0)


def test_the_start_of_the_digest_is_no_hash():
    names, digests, hashes, labels, roles = images()
    hashes[2:] = digests[2:, :8].copy().view("<u8").ravel()
    found = audit(names, digests, hashes, labels, roles)
    assert (found.near_checked, found.without_hash) == (True, 18)


def test_all_near_duplicates_are_marked_and_counted():
    names, digests, hashes, labels, roles = images(200)
    hashes[100:190] = hashes[:90] ^ np.uint64(5)
    digests[195] = digests[3]
    hashes[195] = hashes[3]
    found = audit(names, digests, hashes, labels, roles)
    assert found.n_near_duplicates == 90
    assert len(found.near_duplicates) == 50
    # The same bytes are duplicates, and no near-duplicates too.
    assert np.flatnonzero(found.alike_test).tolist() == list(range(100, 190))
    assert np.flatnonzero(found.leaked_test).tolist() == [195]


def test_tuning_counts_as_training_for_near_duplicates_too():
    names, digests, hashes, labels, roles = images()
    roles[4], roles[5] = "tuning", ""
    hashes[14], hashes[15] = hashes[4], hashes[5]
    assert audit(names, digests, hashes, labels, roles).near_duplicates == [("a/014.png", "a/004.png", 0)]


FOLDS = [(np.arange(5, 10), np.arange(5)), (np.arange(5), np.arange(5, 10))]


def test_lookalikes_and_copies_in_several_folds_are_found():
    names, digests, hashes, labels, roles = images()
    hashes[7] = hashes[1] ^ np.uint64(0b101)
    digests[8] = digests[2]
    hashes[4] = hashes[3]
    hashes[12] = hashes[0]
    found = audit(names, digests, hashes, labels, roles, pairs=FOLDS)
    assert np.flatnonzero(found.alike_within).tolist() == [1, 2, 7, 8]  # 3 and 4 are of one fold
    assert (found.n_near_within, found.n_scored) == (4, 10)
    assert found.near_within[0] == ("b/001.png", "b/007.png", 2)
    assert found.near_within[1] == ("a/002.png", "a/008.png", 0)
    assert not found.clean


def test_one_fold_is_a_tuning_split():
    names, digests, hashes, labels, roles = images()
    hashes[7] = hashes[1]
    found = audit(names, digests, hashes, labels, roles, pairs=FOLDS[:1])
    assert np.flatnonzero(found.alike_within).tolist() == [1]
    assert found.n_scored == 5


def test_counts_are_of_all_and_lists_are_capped():
    names, digests, hashes, labels, roles = images(200)
    digests[100:] = digests[:100]
    found = audit(names, digests, hashes, labels, roles)
    assert found.n_duplicates == found.leaked_test.sum() == 100
    assert len(found.duplicates) == 50


def test_small_classes_count_what_is_learned_from():
    names, digests, hashes, labels, roles = images()
    labels[[0, 2, 10, 12, 14, 16]] = "c"
    found = audit(names, digests, hashes, labels, roles, folds=5)
    assert found.small_classes == [("a", 3), ("c", 2)]


def test_groups_on_both_sides_are_found():
    groups = ["p", "", None, "q"] + ["r"] * 6 + ["p", "", None, "s"] + ["t"] * 6
    found = audit(*images(), groups=groups)
    assert found.shared_groups == ["p"]
    assert found.n_shared_groups == 1


def test_json_is_json():
    names, digests, hashes, labels, roles = images()
    digests[11] = digests[0]
    hashes[13] = hashes[3] ^ np.uint64(1)
    found = audit(names, digests, hashes, labels, roles, groups=["p"] * 20, folds=6)
    data = json.loads(json.dumps(found.to_json()))
    assert data == {
        "duplicates": {"count": 1, "examples": [["b/011.png", "a/000.png"]]},
        "near_duplicates": {
            "checked": True,
            "complete": True,
            "without_hash": 0,
            "count": 1,
            "examples": [["b/013.png", "b/003.png", 1]],
        },
        "near_within_training": {"count": 0, "of": 0, "examples": []},
        "conflicts": {
            "count": 1,
            "examples": [{"names": ["a/000.png", "b/011.png"], "labels": ["a", "b"]}],
        },
        "small_classes": [{"label": "a", "count": 5}, {"label": "b", "count": 5}],
        "shared_groups": {"count": 1, "examples": ["p"]},
        "leaked_test": 1,
    }


def test_lists_of_different_length_are_refused():
    names, digests, hashes, labels, roles = images()
    with pytest.raises(DatasetError, match=r"lists of \[19, 20\] entries: give one entry for each image"):
        audit(names[:-1], digests, hashes, labels, roles)
