from __future__ import annotations

from typing import ClassVar

import pytest

from featx.report.comparisons import against_best, differs
from featx.report.verdict import verdict
from featx.report.wording import ranking


def text_of(results):
    return " ".join(verdict(results))


def test_win_over_the_reference(results):
    first, *others = verdict(results)
    assert first == (
        "The best model by cross-validation is logistic regression on mobilenet_v2: "
        "accuracy 0.941 [0.892, 0.969] on 153 test images."
    )
    assert (
        "Transfer gained 0.261 [0.190, 0.330] in accuracy over the best reference, "
        "logistic regression on pixels (p < 0.001)."
    ) in others
    assert (
        "The next by cross-validation, RBF SVM on mobilenet_v2, cannot be told apart from it "
        "(difference +0.019 [-0.006, +0.045], p = 0.25)."
    ) in others
    assert "Negative transfer" not in " ".join(others)
    assert "above the whole test interval" not in " ".join(others)


def test_no_gain_over_the_reference_is_said(results, build):
    results["comparisons"][2] = build.comparison(3, 0.02, -0.01, 0.05, 0.3)
    assert "No gain from transfer could be shown: it cannot be told apart from" in text_of(results)
    assert "gained" not in text_of(results)


def test_negative_transfer_when_a_reference_is_chosen(build):
    rows = [
        build.row(kind="reference", backbone="pixels", cv=0.9, test=(0.88, 0.82, 0.92), weights=""),
        build.row(cv=0.7, test=(0.69, 0.61, 0.76)),
    ]
    results = build.results(rows, [build.comparison(1, 0.19, 0.1, 0.28, 1e-5)])
    assert (
        "Negative transfer: a reference, which learned nothing from other images, comes first, "
        "ahead of the best pretrained model, logistic regression on mobilenet_v2 "
        "(difference +0.190 [+0.100, +0.280], p < 0.001)."
    ) in verdict(results)
    assert "gained" not in text_of(results)


def test_a_chosen_reference_without_a_test_is_only_a_sign(build):
    rows = [build.row(kind="reference", backbone="pixels", cv=0.9, weights=""), build.row(cv=0.7)]
    text = text_of(build.results(rows, n_test=0))
    assert (
        "A sign of negative transfer, not tested on held-out images: a reference, which learned nothing from "
        "other images, comes first, ahead of the best pretrained model, logistic regression on mobilenet_v2 "
        "(0.700 ± 0.012)."
    ) in text
    assert "Negative transfer:" not in text


def test_a_chosen_reference_that_a_pretrained_model_beats_on_test(build):
    rows = [
        build.row(kind="reference", backbone="pixels", cv=0.9, test=(0.7, 0.62, 0.77), weights=""),
        build.row(cv=0.89, test=(0.88, 0.82, 0.92)),
    ]
    text = text_of(build.results(rows, [build.comparison(1, -0.18, -0.26, -0.1, 1e-5)]))
    assert (
        "A reference, which learned nothing from other images, comes first by cross-validation, but the best "
        "pretrained model, logistic regression on mobilenet_v2, scores higher on the test images "
        "(difference -0.180 [-0.260, -0.100], p < 0.001)."
    ) in text
    assert "egative transfer" not in text


def test_negative_transfer_is_claimed_after_correction_only(build):
    reference = {"kind": "reference", "backbone": "pixels", "weights": ""}
    rows = [build.row(cv=0.9, test=(0.88, 0.82, 0.92), **reference)]
    rows += [build.row(head=f"h{i}", cv=0.8 - i / 100, test=(0.8, 0.73, 0.86)) for i in range(4)]
    # Alone, 0.03 would be enough; after Holm's correction for four it is not.
    comparisons = [build.comparison(i, 0.08, 0.01, 0.15, 0.03) for i in range(1, 5)]
    text = text_of(build.results(rows, comparisons))
    assert "cannot be told apart from it (difference +0.080" in text
    assert "Negative transfer" not in text


def test_nothing_but_references(build):
    rows = [
        build.row(kind="reference", backbone="pixels", cv=0.9, test=(0.88, 0.82, 0.92), weights=""),
        build.row(kind="reference", cv=0.7, test=(0.69, 0.61, 0.76), weights="random, seed 0"),
    ]
    text = text_of(build.results(rows, [build.comparison(1, 0.19, 0.1, 0.28, 1e-5)]))
    assert "Every row is a reference (raw pixels or random weights): nothing pretrained was tried." in text
    assert "egative transfer" not in text


def test_a_reference_ahead_of_a_fine_tuned_network_is_negative_transfer_too(build):
    rows = [
        build.row(kind="reference", backbone="pixels", cv=0.9, test=(0.88, 0.82, 0.92), weights=""),
        build.row(kind="finetune", head="finetune", cv=0.7, test=(0.69, 0.61, 0.76)),
    ]
    text = text_of(build.results(rows, [build.comparison(1, 0.19, 0.1, 0.28, 1e-5)]))
    assert "ahead of the best pretrained model, fine-tuning on mobilenet_v2 (difference +0.190" in text


def test_a_chosen_reference_that_is_no_better(build):
    rows = [
        build.row(kind="reference", backbone="pixels", cv=0.9, test=(0.88, 0.82, 0.92), weights=""),
        build.row(cv=0.89, test=(0.87, 0.81, 0.91)),
    ]
    text = text_of(build.results(rows, [build.comparison(1, 0.01, -0.02, 0.04, 0.6)]))
    assert "cannot be told apart from it (difference +0.010" in text
    assert "no gain from transfer was shown" in text
    assert "Negative transfer" not in text


def test_negative_transfer_on_the_test_images(results, build):
    results["comparisons"][2] = build.comparison(3, -0.1, -0.15, -0.05, 0.0001)
    assert (
        "Negative transfer: on the test images the best reference, logistic regression on pixels, beats it "
        in (text_of(results))
    )


def test_without_a_reference_nothing_is_claimed_of_transfer(results):
    results["rows"], results["comparisons"] = results["rows"][:3], results["comparisons"][:2]
    assert "it does not show what pretraining gained" in text_of(results)


def test_no_test_split(build):
    rows = [
        build.row(cv=0.95),
        build.row(head="rbf-svm", cv=0.94),
        build.row(kind="reference", backbone="pixels", cv=0.7, weights=""),
    ]
    text = text_of(build.results(rows, n_test=0))
    assert "accuracy 0.950 ± 0.012 by cross-validation. There is no test split" in text
    assert "was not tested, since no images were held out for that" in text
    assert "it reaches 0.950 ± 0.012 against 0.700 ± 0.012 of the best reference" in text
    assert "gained" not in text


def test_single_row(build):
    results = build.results([build.row(test=(0.9, 0.85, 0.96))])
    assert verdict(results)[0].startswith(
        "The only model of this run is logistic regression on mobilenet_v2: "
    )
    assert "next by" not in text_of(results)


def test_the_tuning_split_is_named(build):
    results = build.results([build.row(test=(0.9, 0.85, 0.96)), build.row(head="ridge", cv=0.8)])
    results["dataset"]["splits"]["tuning"] = 80
    for row in results["rows"]:
        row["cv"] = {"mean": 0.9, "sd": 0.0, "folds": [0.9]}
    text = text_of(results)
    assert "The best model by the tuning split is" in text
    assert "cross-validation" not in text
    assert "± 0.000" not in text


def test_p_values_are_corrected_for_their_number(build):
    rows = [build.row(test=(0.9, 0.85, 0.96)), *(build.row(head=f"h{i}", cv=0.9 - i / 100) for i in range(4))]
    # Each alone is under 0.05; of four, only the first survives Holm's correction.
    p_values = [0.001, 0.03, 0.03, 0.03]
    comparisons = [build.comparison(i, 0.02, 0.001, 0.04, p) for i, p in enumerate(p_values, start=1)]
    results = build.results(rows, comparisons)
    found = against_best(results)
    assert found[1]["adjusted"] == pytest.approx(0.004)
    assert found[2]["adjusted"] == pytest.approx(0.09)
    text = text_of(results)
    assert "h0 on mobilenet_v2, is worse (difference +0.020" in text
    assert "None of the 3 further models can be told apart from the best." in text


def test_a_model_that_is_better_on_test_does_not_become_the_choice(results, build):
    results["comparisons"][1] = build.comparison(2, -0.04, -0.06, -0.02, 0.001)
    text = text_of(results)
    assert (
        "RBF SVM on mobilenet_v2, scores higher on the test images (difference -0.040 [-0.060, -0.020]"
        in text
    )
    assert "The choice stays with cross-validation: choosing by test would spoil the test score." in text


def test_a_comparison_the_other_way_round_is_turned(build):
    comparison = build.comparison(b=1, a=0, difference=0.1, low=0.05, high=0.2, p_value=0.01)
    results = build.results([build.row(), build.row()], [comparison], best=1)
    (found,) = against_best(results).values()
    assert (found["a"], found["b"], found["difference"]) == (1, 0, -0.1)
    assert (found["low"], found["high"]) == (-0.2, -0.05)


def test_without_a_p_value_the_interval_decides():
    assert differs({"difference": 0.1, "low": 0.05, "high": 0.2})
    assert not differs({"difference": 0.1, "low": -0.05, "high": 0.2})
    assert not differs({"difference": 0.1})


@pytest.fixture
def tuned(results, build):
    """A run with a baseline that took 530 s where the best head took 13 s."""

    def add(difference, low, high, p, **row):
        results["settings"]["finetune"] = {"epochs": 10}
        row = {"seconds": {"load": 3.0, "fit": 527.0}, "cv": 0.99, **row}
        results["rows"].append(build.row(kind="finetune", test=(0.95, 0.9, 0.98), head="finetune", **row))
        results["comparisons"].append(build.comparison(5, difference, low, high, p))
        return results

    return add


def test_fine_tuning_that_cannot_be_told_apart(tuned):
    text = text_of(tuned(-0.013, -0.032, 0.005, 0.21))
    assert (
        "Fine-tuning on mobilenet_v2 gains +1.3 points (-0.5 to +3.2) over the best head for 41 times the "
        "compute (8 min 50 s against 13 s with extraction); p = 0.21: the two cannot be told apart; use the "
        "head, which costs less."
    ) in text


def test_fine_tuning_that_is_better(tuned):
    results = tuned(-0.043, -0.06, -0.02, 0.0002)
    assert (
        "gains +4.3 points (+2.0 to +6.0) over the best head for 41 times the compute (8 min 50 s against "
        "13 s with extraction); p < 0.001: use the fine-tuned network, finetuned.featx in the run folder, "
        "where that is worth its cost."
    ) in text_of(results)
    results["settings"]["finetune"] = None
    assert "use the fine-tuned network, where that" in text_of(results)


def test_a_gain_that_the_correction_takes_back(tuned):
    """Of five comparisons: 0.03 alone is significant, five times that is not."""
    assert "p = 0.030: the two cannot be told apart" in text_of(tuned(-0.043, -0.08, -0.002, 0.03))


def test_fine_tuning_that_is_worse(tuned):
    text = text_of(tuned(0.05, 0.02, 0.08, 0.0002))
    assert "changes the test accuracy by -5.0 points (-8.0 to -2.0) from the best head for 41 times" in text
    assert "p < 0.001: it is worse; use the head." in text


def test_fine_tuning_that_took_less(tuned):
    text = text_of(tuned(0.001, -0.02, 0.02, 0.9, seconds={"fit": 1.3}))
    assert "for 0.1 times the compute (1.3 s against 13 s" in text
    assert "fine-tuning took less time; use either" in text


def test_what_fine_tuning_took(tuned):
    results = tuned(-0.013, -0.032, 0.005, 0.21)
    row = results["rows"][-1]
    row |= {"n_parameters_trained": 11_000, "n_parameters": 2_200_000, "peak_memory_bytes": 2_100_000_000}
    assert (
        "Fine-tuning trained 11,000 of 2,200,000 parameters and needed up to 2.1 GB of memory."
    ) in verdict(results)
    row["energy_joules"] = 52_300.0
    assert "2.1 GB of memory and used 52.3 kJ of energy." in text_of(results)


def test_fine_tuning_without_a_test(tuned):
    results = tuned(0, 0, 0, 1)
    results["comparisons"] = []
    text = text_of(results)
    assert "reached 0.990 ± 0.012 on the images that chose its epochs, against 0.965 ± 0.012" in text
    assert "which proves nothing: without a paired test on held-out images, use the head" in text


def test_a_baseline_that_is_missing(results):
    results["settings"]["finetune"] = {"epochs": 10}
    assert "The fine-tuned baseline that was asked for is not in these results" in text_of(results)


def test_fine_tuning_stands_last_whatever_its_tuning_score(tuned):
    assert ranking(tuned(-0.043, -0.06, -0.02, 0.0002))[-1] == 5


def test_audit_is_told(results):
    results["dataset"]["audit"] = {
        "duplicates": {"count": 3, "examples": [["test/a", "train/a"]]},
        "near_duplicates": {"checked": True, "count": 0, "examples": []},
        "conflicts": {"count": 1, "examples": [{"names": ["a", "b"], "labels": ["x", "y"]}]},
        "leaked_test": 3,
    }
    results["rows"][0]["test"]["accuracy_without_leaks"] = {"value": 0.93, "low": 0.87, "high": 0.96}
    text = text_of(results)
    assert (
        "The audit found: 3 test images are, byte for byte, in training too; "
        "1 image stands under several labels."
    ) in text
    assert "Without the test images that are in training, the accuracy is 0.930 [0.870, 0.960]." in text
    assert "say nothing" not in text


def test_scores_without_copies_and_lookalikes_are_told(results):
    test = results["rows"][0]["test"]
    test["accuracy_without_lookalikes"] = {"value": 0.91, "low": 0.85, "high": 0.95}
    test["balanced_accuracy_without_lookalikes"] = {"value": 0.9, "low": 0.84, "high": 0.94}
    alone = (
        "Without the test images that look nearly like one of training, the accuracy is "
        "0.910 [0.850, 0.950], "
        "the balanced accuracy 0.900 [0.840, 0.940]."
    )
    assert alone in verdict(results)
    test["accuracy_without_leaks"] = {"value": 0.93, "low": 0.87, "high": 0.96}
    test["balanced_accuracy_without_leaks"] = {"value": 0.92, "low": 0.86, "high": 0.95}
    text = text_of(results)
    assert (
        "Without the test images that are in training, the accuracy is 0.930 [0.870, 0.960], the balanced "
        "accuracy 0.920 [0.860, 0.950]. Without these and the test images that look nearly like one of "
        "training, the accuracy is 0.910"
    ) in text


def test_a_test_of_nothing_but_copies_says_nothing(results):
    results["dataset"]["audit"] = {"duplicates": {"count": 153, "examples": []}, "leaked_test": 153}
    assert "All test images are in training too: the test score says nothing of new images." in verdict(
        results
    )


class TestSuspects:
    SUSPECTS: ClassVar = {"method": "confident learning", "checked": 397, "contradicted": 20, "count": 12}

    def test_are_told_with_care(self, results):
        results["suspects"] = self.SUSPECTS
        assert (
            "Of 397 labels, 12 are suspected to be wrong (confident learning on the best "
            "model's probabilities "
            "for images that it did not learn from): look at the images before anything is "
            "changed, for it may "
            "as well be the model's own error."
        ) in verdict(results)

    def test_one(self, results):
        results["suspects"] = self.SUSPECTS | {"count": 1}
        assert "Of 397 labels, 1 is suspected to be wrong" in text_of(results)
        assert "look at the image before" in text_of(results)

    def test_of_a_model_that_often_errs(self, results):
        results["suspects"] = self.SUSPECTS | {"contradicted": 100}
        assert "for a model that contradicts 25% of all labels is often wrong itself." in text_of(results)

    def test_none(self, results):
        results["suspects"] = self.SUSPECTS | {"count": 0}
        assert "suspected" not in text_of(results)


def test_unreliable_intervals_are_told(build):
    few = build.results([build.row(test=(0.9, 0.7, 0.97))], n_test=20)
    assert "With only 20 test images, its interval is wide." in text_of(few)
    near_one = build.results([build.row(test=(0.99, 0.97, 0.998))], n_test=200)
    assert "Caution: only 2 of 200 test images are wrong: bootstrap intervals are too narrow, but" in text_of(
        near_one
    )
    plenty = build.results([build.row(test=(0.9, 0.87, 0.92))], n_test=900)
    assert "Caution" not in text_of(plenty)
    assert "interval is wide" not in text_of(plenty)


@pytest.mark.parametrize(
    ("flagged", "groups", "support", "text"),
    [
        (
            {"log_loss"},
            None,
            80,
            "only 2 of 200 test images are wrong: the interval of the log loss",
        ),
        (
            {"f1_macro", "roc_auc"},
            None,
            7,
            "only 7 test images of class bees: the intervals of means over",
        ),
        ({"f1_macro"}, 50, 80, "a class is held by too few groups: the intervals of means over classes"),
        ({"accuracy", "log_loss"}, 10, 80, "only 10 groups in the test: none of the intervals is reliable"),
        ({"ece"}, None, 80, None),
    ],
)
def test_intervals_that_are_flagged_are_told_with_the_reason(build, flagged, groups, support, text):
    row = build.row(test=(0.99, 0.97, 0.998))
    score = {"value": 0.9, "low": 0.8, "high": 0.95}
    names = ("accuracy", "log_loss", "f1_macro", "roc_auc", "ece")
    row["test"] = {name: score | {"value": 0.99, "reliable": name not in flagged} for name in names}
    row["per_class"] = [{"name": "ants", "support": 100}, {"name": "bees", "support": support}]
    results = build.results([row], n_test=200)
    results["dataset"]["splits"]["test_groups"] = groups
    found = text_of(results)
    assert (f"Caution: {text}" in found) if text else ("Caution" not in found)


def test_the_stored_correction_of_p_values_is_used(build):
    comparison = build.comparison(1, 0.05, 0.01, 0.09, 0.01)
    rows = [build.row(test=(0.9, 0.8, 0.95)), build.row(head="rbf-svm", test=(0.85, 0.8, 0.9))]
    assert "is worse" in text_of(build.results(rows, [comparison]))
    stored = comparison | {"p_adjusted": 0.2}
    assert "cannot be told apart" in text_of(build.results(rows, [stored]))
    assert "is worse" in text_of(build.results(rows, [comparison | {"p_adjusted": None}]))


def test_skipped_images_and_warnings_are_told(results):
    results["dataset"]["skipped"] = [{"name": "a", "reason": "b"}, {"name": "c", "reason": "d"}]
    results["rows"][0]["warnings"] = ["lbfgs did not converge"]
    text = text_of(results)
    assert "Besides, 2 images could not be used." in text
    assert "Of the best model's fit it must be known: lbfgs did not converge." in text


def test_no_rows(build):
    assert verdict(build.results([], [])) == ["No model could be chosen: the run holds no scored row."]
