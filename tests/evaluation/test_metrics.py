"""Metrics: scikit-learn's values, and intervals that a plain loop gives too."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn import metrics as reference

from featx.errors import DatasetError
from featx.evaluation import assess, confusion, evaluate, per_class, wilson


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
        "ece": calibration_error(y == said, p.max(axis=1)),
    }


def rankings_by_sklearn(y, p, classes):
    truth = y[:, None] == classes[None]
    return {
        "roc_auc": reference.roc_auc_score(truth, p, average="macro"),
        "average_precision": reference.average_precision_score(truth, p, average="macro"),
    }


def calibration_error(right, confidence):
    total = 0.0
    edges = np.linspace(0, 1, 16)
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("k", [2, 4])
def test_values_are_scikit_learns(k):
    y, p = predictions(k=k)
    classes = np.array([f"c{i}" for i in range(k)])
    scores = evaluate(y, p, classes)
    expected = by_sklearn(y, p, classes)
    expected |= rankings_by_sklearn(y, p, classes)
    assert {name: score.value for name, score in scores.items()} == pytest.approx(expected)
    assert all(score.low <= score.value <= score.high for score in scores.values())


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("decimals", [1, 0])
def test_equal_probabilities_stand_at_one_step_as_scikit_learn_has_it(k, decimals):
    y, p = predictions(k=k, n=150)
    p = np.round(p, decimals) + 0.01
    p /= p.sum(axis=1, keepdims=True)
    classes = np.array([f"c{i}" for i in range(k)])
    scores = evaluate(y, p, classes)
    for name, expected in rankings_by_sklearn(y, p, classes).items():
        assert scores[name].value == pytest.approx(expected), name
        assert 0 <= scores[name].low < scores[name].value < scores[name].high <= 1


def test_top_5_is_scored_where_there_are_many_classes():
    y, p = predictions(k=12)
    classes = np.array([f"c{i:02}" for i in range(12)])
    codes = np.array([int(label[1:]) for label in y])
    score = evaluate(codes, p, classes)["top_5_accuracy"]
    assert score.value == pytest.approx(reference.top_k_accuracy_score(codes, p, k=5))
    hits = round(score.value * 200)
    assert (score.low, score.high) == (wilson(hits, 200).low, wilson(hits, 200).high)
    assert "top_5_accuracy" not in evaluate(codes % 10, p[:, :10], classes[:10])
    # Of equal probabilities the first columns count as the greater, as for the predicted class.
    level = evaluate(codes, np.full((200, 12), 1 / 12), classes)
    assert level["top_5_accuracy"].value == pytest.approx((codes < 5).mean())


def test_one_class_in_the_test_has_no_ranking():
    scores = evaluate(["a"] * 30, np.tile([0.8, 0.2], (30, 1)), ["a", "b"])
    assert scores["accuracy"].value == scores["f1_macro"].value == 1
    assert scores["ece"].value == pytest.approx(0.2)
    assert not {"roc_auc", "average_precision"} & scores.keys()
    assert scores["accuracy"].low < 0.9
    assert (scores["log_loss"].low, scores["log_loss"].high) == pytest.approx((-np.log(0.8), -np.log(0.8)))


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
        drawn.append(by_sklearn(y[rows], p[rows], classes) | rankings_by_sklearn(y[rows], p[rows], classes))
    # Not that of calibration: its resamples add noise to noise.
    for name in scores.keys() - {"accuracy", "ece"}:
        low, high = np.quantile([each[name] for each in drawn], [0.025, 0.975])
        width = high - low
        assert scores[name].low == pytest.approx(low, abs=0.25 * width), name
        assert scores[name].high == pytest.approx(high, abs=0.25 * width), name


def test_perfect_predictions_have_a_perfect_area():
    y = np.array(["a", "b"] * 10)
    p = np.where((y == "a")[:, None], [0.9, 0.1], [0.2, 0.8])
    scores = evaluate(y, p, ["a", "b"])
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "roc_auc", "average_precision"):
        assert scores[name].value == scores[name].high == 1
        # 20 images do not show that nothing is ever wrong.
        assert 0.8 < scores[name].low < 0.95, name


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
    found = np.array([[row.precision.value, row.recall.value, row.f1.value] for row in rows[:4]]).T
    np.testing.assert_allclose(found, np.array(expected)[:3, :4])
    assert [row.support for row in rows] == expected[3].tolist()
    assert sum(row.predicted for row in rows) == 200
    assert sum(row.right for row in rows) == np.diag(counts).sum()
    assert (rows[4].precision, rows[4].recall, rows[4].f1) == (None, None, None)
    assert [row.recall.low for row in rows[:4]] == [wilson(r.right, r.support).low for r in rows[:4]]
    assert [row.precision.high for row in rows[:4]] == [wilson(r.right, r.predicted).high for r in rows[:4]]


@pytest.mark.parametrize("per_group", [1, 4])
def test_intervals_by_class_are_as_wide_as_those_of_a_plain_loop(per_group):
    y, p = predictions(n=240, k=3)
    classes = np.array(["c0", "c1", "c2"])
    said = classes[p.argmax(axis=1)]
    groups = np.arange(240) // per_group
    rows = per_class(y, said, classes, groups=groups if per_group > 1 else None)
    generator = np.random.default_rng(3)
    n_groups = 240 // per_group
    drawn = []
    for _ in range(400):
        chosen = np.concatenate(
            [np.flatnonzero(groups == g) for g in generator.integers(n_groups, size=n_groups)]
        )
        drawn.append(reference.precision_recall_fscore_support(y[chosen], said[chosen], labels=classes)[:3])
    errors = np.std(drawn, axis=0)
    found = np.array([[r.precision, r.recall, r.f1] for r in rows]).T
    for score, error in zip(found.ravel(), errors.ravel(), strict=True):
        assert (score.high - score.low) / 3.92 == pytest.approx(error, rel=0.2)


def test_one_pass_gives_everything():
    y, p = predictions(k=3)
    classes = np.array(["c0", "c1", "c2"])
    said = classes[p.argmax(axis=1)]
    groups = np.arange(200) // 4
    found = assess(y, p, classes, groups=groups)
    assert found.scores == evaluate(y, p, classes, groups=groups)
    assert found.per_class == per_class(y, said, classes, groups=groups)
    assert np.array(found.confusion).tolist() == confusion(y, said, classes).tolist()
    many = np.full((3, 101), 1 / 101)
    assert assess([0, 1, 2], many, np.arange(101)).confusion == ()


def test_order_and_names_of_groups_do_not_matter():
    y, p = predictions(n=120, k=2)
    named = np.array([f"patient {i // 3}" for i in range(120)])
    order = np.random.default_rng(0).permutation(120)
    one = evaluate(y, p, ["c0", "c1"], groups=named)
    other = evaluate(y[order], p[order], ["c0", "c1"], groups=named[order])
    for name, score in one.items():
        assert (score.low, score.high) == pytest.approx((other[name].low, other[name].high)), name


def test_one_group_says_nothing():
    y, p = predictions(n=60, k=2)
    score = evaluate(y, p, ["c0", "c1"], groups=np.zeros(60))["accuracy"]
    assert score.low < 0.1
    assert score.high > 0.9
    assert not score.reliable


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


def test_groups_and_predictions_that_do_not_fit_say_why():
    y, p = predictions(n=20, k=2)
    with pytest.raises(DatasetError, match=r"shape \(19,\), and there are 20 test images: give one for each"):
        evaluate(y, p, ["c0", "c1"], groups=np.arange(19))
    with pytest.raises(DatasetError, match="The prediction 'c9' is not one of the 2 classes"):
        per_class(["c0"], ["c9"], ["c0", "c1"])
