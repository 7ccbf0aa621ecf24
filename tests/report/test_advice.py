from __future__ import annotations

import pytest

from featx.report.advice import advice


def scored(name, right, support, **more):
    value = right / support
    recall = {"value": value, "low": max(0, value - 0.06), "high": min(1, value + 0.06), "reliable": True}
    return {"name": name, "right": right, "support": support, "recall": recall | more}


@pytest.fixture
def by_class(results):
    row = results["rows"][0]
    row["per_class"] = [scored("ants", 120, 200), scored("bees", 198, 200)]
    row["confusion"] = [[120, 80], [2, 198]]
    row["test"]["accuracy"] = {"value": 0.795, "low": 0.753, "high": 0.832}
    return results


def test_the_class_that_is_found_least_often(by_class):
    assert advice(by_class, {}, {}) == [
        "Of all classes, ants is found least often: recall 0.600 [0.540, 0.660], against an accuracy of "
        "0.795 [0.753, 0.832]; 80 of its 80 misses are taken for bees. Look at its images first; whether "
        "more labels of it would help, a run with them shows."
    ]


NONE = ["No class can be shown to be found less often than the images are on the whole."]


def test_an_interval_that_reaches_the_others_claims_nothing(by_class):
    by_class["rows"][0]["per_class"][0]["recall"]["high"] = 0.76
    assert advice(by_class, {}, {}) == NONE


def test_an_unreliable_interval_claims_nothing(by_class):
    by_class["rows"][0]["per_class"][0]["recall"]["reliable"] = False
    assert advice(by_class, {}, {}) == NONE


def test_many_classes_are_corrected_for(by_class):
    row = by_class["rows"][0]
    row["per_class"] = [scored("ants", 24, 40), scored("bees", 198, 200)]
    assert "ants is found least" in advice(by_class, {}, {})[0]
    row["per_class"] += [scored(f"class {i}", 198, 200) for i in range(98)]
    by_class["dataset"]["classes"] = [one["name"] for one in row["per_class"]]
    assert advice(by_class, {}, {}) == NONE


def test_more_labels_come_first(by_class):
    score = {"value": 0.961, "low": 0.948, "high": 0.972}
    learning = {"n_doubled": 488, "doubled": score, "gain": {"value": 0.01, "low": 0.005, "high": 0.02}}
    said = advice(by_class, {}, {"learning": learning})
    assert said[0].startswith("Twice the labels (488) would bring about 0.961 [0.948, 0.972]")
    assert len(said) == 2


def test_nothing_without_test_images(by_class):
    by_class["rows"][0]["test"] = {}
    assert advice(by_class, {}, {}) == []
