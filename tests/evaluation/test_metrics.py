"""Metrics: scikit-learn's values, and intervals that a plain loop gives too."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from featx.errors import DatasetError
from featx.evaluation import confusion, evaluate, per_class, wilson


def predictions(n=200, k=4, seed=0, skill=1.0):
    rng = np.random.default_rng(seed)
    codes = rng.choice(k, size=n, p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), codes] += skill
    p = np.exp(logits)
    return np.array([f"c{i}" for i in range(k)])[codes], p / p.sum(axis=1, keepdims=True)


def by_sklearn(y, p, classes):
    said = classes[p.argmax(axis=1)]
    options = {"average": "macro", "zero_division": 0}
    return {
        "accuracy": reference.accuracy_score(y, said),
        "balanced_accuracy": reference.balanced_accuracy_score(y, said),
        "precision_macro": reference.precision_score(y, said, **options),
        "recall_macro": reference.recall_score(y, said, **options),
        "f1_macro": reference.f1_score(y, said, **options),
        "log_loss": reference.log_loss(y, p, labels=classes),
    }


@pytest.mark.parametrize("k", [2, 4])
def test_values_are_scikit_learns(k):
    y, p = predictions(k=k)
    classes = np.array([f"c{i}" for i in range(k)])
    scores = evaluate(y, p, classes)
    expected = by_sklearn(y, p, classes)
    expected["roc_auc"] = reference.roc_auc_score(y, p if k > 2 else p[:, 1], multi_class="ovr")
    assert {name: score.value for name, score in scores.items()} == pytest.approx(expected)
    assert all(score.low <= score.value <= score.high for score in scores.values())


def test_classes_that_do_not_occur_are_left_out_as_scikit_learn_does():
    y, p = predictions(k=4)
    p = np.column_stack([p, np.full(len(p), 1e-6)])
    p /= p.sum(axis=1, keepdims=True)
    classes = np.array(["c0", "c1", "c2", "c3", "never"])
    scores = evaluate(y, p, classes)
    assert {name: score.value for name, score in scores.items()} == pytest.approx(by_sklearn(y, p, classes))
    assert "roc_auc" not in scores


def test_order_of_the_classes_does_not_matter_and_codes_are_labels():
    y, p = predictions(k=3)
    classes = np.array(["c0", "c1", "c2"])
    turned = evaluate(y, p[:, [2, 0, 1]], classes[[2, 0, 1]])
    straight = evaluate(y, p, classes)
    assert turned["f1_macro"].value == pytest.approx(straight["f1_macro"].value)
    assert turned["log_loss"].value == pytest.approx(straight["log_loss"].value)
    assert evaluate(np.searchsorted(classes, y), p, classes) == straight
    numbers = evaluate(np.searchsorted(classes, y) * 5, p, [0, 5, 10])
    assert numbers["f1_macro"] == straight["f1_macro"]


def test_accuracy_has_wilsons_interval_unless_grouped():
    y, p = predictions()
    classes = np.array(["c0", "c1", "c2", "c3"])
    right = int((classes[p.argmax(axis=1)] == y).sum())
    assert evaluate(y, p, classes)["accuracy"] == wilson(right, 200)
    grouped = evaluate(y, p, classes, groups=np.arange(200) // 20)["accuracy"]
    assert grouped.value == pytest.approx(right / 200)
    assert grouped != wilson(right, 200)


@pytest.mark.parametrize("per_group", [1, 4])
def test_bootstrap_intervals_are_those_of_a_plain_loop(per_group):
    y, p = predictions(n=120)
    classes = np.array(["c0", "c1", "c2", "c3"])
    groups = np.arange(120) // per_group
    scores = evaluate(y, p, classes, groups=groups if per_group > 1 else None, resamples=2000)
    generator = np.random.default_rng(9)
    n_groups = 120 // per_group
    drawn = []
    for _ in range(250):
        rows = np.concatenate(
            [np.flatnonzero(groups == g) for g in generator.integers(n_groups, size=n_groups)]
        )
        drawn.append(by_sklearn(y[rows], p[rows], classes))
    for name in ("balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "log_loss"):
        low, high = np.quantile([each[name] for each in drawn], [0.025, 0.975])
        width = high - low
        assert scores[name].low == pytest.approx(low, abs=0.2 * width), name
        assert scores[name].high == pytest.approx(high, abs=0.2 * width), name


@pytest.mark.parametrize("grouped", [False, True])
def test_interval_of_roc_auc_covers_the_truth(grouped):
    y, p = predictions(n=100_000, k=3, skill=1.2)
    truth = evaluate(y, p, ["c0", "c1", "c2"], resamples=2)["roc_auc"].value
    covered = 0
    for seed in range(200):
        y, p = predictions(n=60, k=3, seed=seed + 1, skill=1.2)
        groups = np.repeat(np.arange(60), 2) if grouped else None
        if grouped:
            y, p = np.repeat(y, 2), np.repeat(p, 2, axis=0)
        score = evaluate(y, p, ["c0", "c1", "c2"], groups=groups, resamples=2)["roc_auc"]
        covered += score.low <= truth <= score.high
    assert 0.90 <= covered / 200 <= 0.99


def test_perfect_predictions_have_a_perfect_area():
    y = np.array(["a", "b"] * 10)
    p = np.where((y == "a")[:, None], [0.9, 0.1], [0.2, 0.8])
    scores = evaluate(y, p, ["a", "b"])
    assert scores["roc_auc"].value == scores["roc_auc"].high == 1
    assert scores["accuracy"].low < 0.9


def test_the_same_seed_gives_the_same_scores():
    y, p = predictions()
    classes = ["c0", "c1", "c2", "c3"]
    assert evaluate(y, p, classes, seed=1) == evaluate(y, p, classes, seed=1)
    assert evaluate(y, p, classes, seed=1) != evaluate(y, p, classes, seed=2)


def test_confusion_and_classes_are_scikit_learns():
    y, p = predictions(k=4)
    classes = np.array(["c0", "c1", "c2", "c3", "never"])
    said = classes[p.argmax(axis=1)]
    counts = confusion(y, said, classes)
    assert counts.shape == (5, 5)
    assert counts.sum() == 200
    assert counts[1, 2] == ((y == "c1") & (said == "c2")).sum()
    expected = reference.precision_recall_fscore_support(y, said, labels=classes, zero_division=0)
    rows = per_class(y, said, classes)
    assert [row.name for row in rows] == classes.tolist()
    found = np.array([[row.precision, row.recall, row.f1, row.support] for row in rows]).T
    np.testing.assert_allclose(found, np.array(expected))
    assert sum(row.predicted for row in rows) == 200


@pytest.mark.parametrize(
    ("y", "p", "classes", "text"),
    [
        (["a", "b"], [[0.5, 0.5]], ["a", "b"], "give one row for each label and one column for each class"),
        (["a"], [[1.0]], ["a", "b"], "give one row for each label and one column for each class"),
        ([], np.zeros((0, 2)), ["a", "b"], "no test images to score: .* --test-size"),
        (["a"], [[np.nan, 1.0]], ["a", "b"], "Some probabilities are NaN or infinite"),
        (["a", "z"], np.full((2, 2), 0.5), ["a", "b"], "the class 'z', which training has not"),
        ([0, 2], np.full((2, 2), 0.5), ["a", "b"], "column numbers from 0 to 2, and there are 2 classes"),
    ],
)
def test_what_cannot_be_scored_says_why(y, p, classes, text):
    with pytest.raises(DatasetError, match=text):
        evaluate(y, p, classes)
