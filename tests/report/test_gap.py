"""One sentence for the gap between the score of the choice and that of the test, with the audit's opinion."""

from __future__ import annotations

import pytest

from featx.report.audit import audit_findings
from featx.report.gap import gap_sentence
from featx.report.verdict import verdict

SHIFT = {
    "auc": 0.975,
    "low": 0.941,
    "high": 0.99,
    "p_value": 1e-20,
    "scored": 158,
    "classes": {"ants": 0.9, "bees": 0.99},
}
NO_SHIFT = {"auc": 0.52, "low": 0.45, "high": 0.6, "p_value": 0.3, "scored": 158, "classes": {}}
CHECKED = {"checked": True, "count": 0, "examples": []}


@pytest.fixture
def make(build):
    def make(**audit):
        return build.results([build.row(cv=0.99, test=(0.8, 0.73, 0.86))], audit=audit)

    return make


def within(count=122, **more):
    return {"count": count, "of": 385, "examples": []} | more


def test_both_scores_their_distance_and_what_to_trust(make):
    text = gap_sentence(make())
    assert text.startswith(
        "Its score by cross-validation, 0.990 ± 0.012, lies 0.190 above the test score, "
        "0.800 [0.730, 0.860], "
        "and above the whole interval: trust the test score; "
    )
    assert text.endswith(
        "the audit could not look for a reason: the test images may come from elsewhere, or alike images (of "
        "one subject, one burst) stand in several folds."
    )


def test_it_comes_right_after_the_score(make):
    assert verdict(make())[1].startswith("Its score by cross-validation")


@pytest.mark.parametrize("cv", [0.5, 0.86])
def test_inside_or_below_the_interval_there_is_no_gap(build, cv):
    results = build.results([build.row(cv=cv, test=(0.8, 0.73, 0.86))])
    assert gap_sentence(results) == ""
    assert gap_sentence(build.results([build.row(cv=0.99)], n_test=0)) == ""


def test_lookalikes_that_explain_it(make):
    rest = {"value": 0.82, "low": 0.77, "high": 0.86}
    text = gap_sentence(make(near_within_training=within(accuracy_without=rest), shift=NO_SHIFT))
    assert (
        "the audit found that 122 of 385 cross-validated images have a copy or a lookalike in another fold "
        "(without them it is 0.820 [0.770, 0.860], which explains the gap)."
    ) in text


def test_lookalikes_that_explain_some_of_it_and_a_shift(make):
    rest = {"value": 0.93, "low": 0.9, "high": 0.95}
    text = gap_sentence(make(near_within_training=within(accuracy_without=rest), shift=SHIFT))
    assert (
        "(without them it is 0.930 [0.900, 0.950], so that they are not all of it), and that the test" in text
    )
    assert text.endswith(
        "the test images can be told from training images of the same classes (AUC 0.975 "
        "[0.941, 0.990]), as if "
        "they came from elsewhere."
    )


def test_nothing_found_is_said_with_what_to_do(make):
    found = make(near_duplicates=CHECKED, near_within_training=within(0), shift=NO_SHIFT)
    text = gap_sentence(found)
    assert (
        "the audit found no images that look alike in several folds and could not tell the test images from "
        "training images: images of one subject"
    ) in text
    assert "--group would keep together" in text
    assert "AUC" not in text
    unhashed = make(near_duplicates=CHECKED | {"checked": False}, near_within_training=within(0))
    assert "the audit could not look for a reason" in gap_sentence(unhashed)


def test_what_was_told_is_not_told_again(make):
    found = make(near_within_training=within(), shift=SHIFT, conflicts={"count": 1, "examples": []})
    text = " ".join(verdict(found))
    assert text.count("lookalike") == text.count("AUC") == 1
    assert "The audit found: 1 image stands under several labels." in text


def test_without_a_gap_the_findings_are_told_too(build):
    audit = {"near_within_training": within(1), "shift": SHIFT}
    results = build.results([build.row(test=(0.95, 0.9, 0.98))], audit=audit)
    assert (
        "The audit found: 1 training image has a copy or a lookalike in another fold; "
        "test images can be told "
        "from training images of the same classes (AUC 0.975 [0.941, 0.990])."
    ) in verdict(results)


def test_a_shift_is_told_where_it_is_significant_with_its_classes_where_there_is_room():
    assert audit_findings({"shift": NO_SHIFT}, examples=5) == []
    assert audit_findings({"shift": SHIFT}, examples=5) == [
        "test images can be told from training images of the same classes (AUC 0.975 "
        "[0.941, 0.990]; bees 0.990 "
        "and ants 0.900)"
    ]
