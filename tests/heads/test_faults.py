"""What is planted in the data comes out, with every head of the catalogue."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import featx
from featx.errors import DatasetError, StoreError
from featx.heads import list_heads, tune

QUICK = {
    "mlp": {"alpha": [1.0], "hidden_layer_sizes": [(8,)], "max_iter": [1000], "learning_rate_init": [0.05]}
}
"""The small network with 8 units: with its 512 these tests would take minutes."""

every_head = pytest.mark.parametrize("head", list_heads())

pytestmark = pytest.mark.filterwarnings("error")


def blobs(n=120, d=12, gap=2.0, seed=0):
    """Three classes and features that are not on one scale."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = (rng.normal(size=(n, d)) + gap * np.eye(3, d)[y]) * np.linspace(0.5, 4, d)
    return X.astype(np.float32), np.array(["ant", "bee", "cow"])[y]


def tuned(head, X, y, **options):
    return tune(head, X, y, grid=QUICK.get(head), cv=3, **options)


def fit(head, path, X, y, splits, **columns):
    """Fit one head on arrays; the network as small as above."""
    featx.FeatureStore.from_arrays(path, X, y, splits=splits, **columns)
    if head in QUICK:
        head = small_network()
    return featx.fit(path, heads=[head], cv=3, jobs=1, learning_curve=False)


def small_network():
    import dataclasses

    from sklearn.neural_network import MLPClassifier

    from featx.heads import find_head

    def make(seed, class_weight):
        parameters = {name: values[0] for name, values in QUICK["mlp"].items()}
        return MLPClassifier(random_state=seed, **parameters)

    return dataclasses.replace(find_head("mlp"), make=make, grid={"alpha": (1.0,)})


@every_head
def test_copies_of_training_images_in_the_test(head, tmp_path):
    """Of labels that mean nothing, only the copies are known: without them the score is lower."""
    rng = np.random.default_rng(1)
    n, leaked = 160, 40
    y = rng.permutation(np.tile(["a", "b"], n // 2))
    X, digests = rng.normal(size=(n, 200)), rng.integers(0, 256, (n, 32), dtype=np.uint8)
    X[80 : 80 + leaked], digests[80 : 80 + leaked] = X[:leaked], digests[:leaked]
    y[80 : 80 + leaked] = y[:leaked]
    results = fit(head, tmp_path / "x.h5", X, y, np.repeat(["train", "test"], 80), digests=digests)
    assert results.dataset["audit"]["duplicates"]["count"] == leaked
    test = results.best_row.test
    assert test["accuracy_without_leaks"].value < test["accuracy"].value
    assert test["balanced_accuracy_without_leaks"].value < test["balanced_accuracy"].value
    right = results.predictions[0].probabilities.argmax(axis=1) == results.truth
    assert test["accuracy_without_leaks"].value == pytest.approx(right[leaked:].mean())


@every_head
def test_swapped_labels_are_suspected(head, tmp_path):
    X, y = blobs(n=600, gap=5.0)
    rng = np.random.default_rng(2)
    planted = np.sort(rng.choice(600, 30, replace=False))
    swapped = y.copy()
    swapped[planted] = np.array(["bee", "cow", "ant"])[np.unique(y, return_inverse=True)[1][planted]]
    splits = np.repeat(["train", "test"], [450, 150])
    suspects = fit(head, tmp_path / "x.h5", X, swapped, splits).suspects
    found = {int(image["name"].removeprefix("row-")) for image in suspects["images"]}
    right = len(found & set(planted.tolist()))
    assert suspects["count"] == len(found)
    assert right >= 0.65 * len(planted)
    assert right >= 0.85 * len(found)
    one = suspects["images"][0]
    assert (one["predicted"], one["label"]) == (y[int(one["name"][4:])], swapped[int(one["name"][4:])])
    assert one["probability"] > one["label_probability"]
    clean = fit(head, tmp_path / "clean.h5", X, y, splits).suspects
    assert clean["checked"] == 600
    assert clean["count"] <= 6


@every_head
def test_a_constant_feature_changes_nothing(head):
    X, y = blobs(gap=1.0)
    options = {"seed": 3}
    plain = tuned(head, X, y, **options)
    for value in (0.0, 7.25, -1e4):
        more = np.column_stack([X, np.full(len(X), value, np.float32)])
        found = tuned(head, more, y, **options)
        assert np.isfinite(found.oof_).all()
        if head == "mlp":  # its first weights are drawn for one input more
            assert abs(found.mean_score_ - plain.mean_score_) < 0.15
            continue
        assert found.best_params_ == plain.best_params_
        np.testing.assert_array_equal(found.cv_scores_, plain.cv_scores_)
        # A solver that stops at a tolerance may stop a step apart.
        np.testing.assert_allclose(found.oof_, plain.oof_, atol=2e-3)


@every_head
def test_a_class_in_training_only(head, tmp_path):
    X, y = blobs()
    splits = np.where((np.arange(120) % 4 == 0) & (y != "cow"), "test", "train")
    results = fit(head, tmp_path / "x.h5", X, y, splits)
    assert results.dataset["notes"] == [
        "no test image of 1 of 3 classes ('cow'), so that how well they are told is not known: add test "
        "images of them"
    ]
    assert results.predictions[0].probabilities.shape[1] == 3
    assert "roc_auc" not in results.best_row.test
    assert all(np.isfinite(score.value) for score in results.best_row.test.values())


@every_head
def test_a_class_in_the_test_only(head, tmp_path):
    X, y = blobs()
    splits = np.where(y == "cow", "test", np.where(np.arange(120) % 4 == 0, "test", "train"))
    with pytest.raises(
        DatasetError, match=r"Class 'cow' has 40 test images and no training image: add training images of it"
    ):
        fit(head, tmp_path / "x.h5", X, y, splits)


@every_head
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_in_a_column(head, bad, tmp_path):
    X, y = blobs()
    X[[17, 40], 5] = bad
    with pytest.raises(
        DatasetError, match=r"^2 of 120 rows of X hold NaN or infinity \(the first is row 17\)"
    ):
        tuned(head, X, y)
    with pytest.raises(StoreError, match=r"Row 17 of layer 'imported:flatten' holds NaN"):
        fit(head, tmp_path / "x.h5", X, y, ["train"] * 80 + ["test"] * 40)


@every_head
@pytest.mark.parametrize("value", [0.0, 1.0, -3e4])
def test_features_that_are_all_equal_give_chance(head, value, tmp_path):
    X, y = np.full((120, 6), value, np.float32), blobs()[1]
    found = tuned(head, X, y)
    assert found.mean_score_ == pytest.approx(1 / 3, abs=0.01)
    assert np.isfinite(found.oof_).all()
    np.testing.assert_allclose(found.oof_.sum(axis=1), 1, rtol=1e-5)
    results = fit(head, tmp_path / "x.h5", X, y, ["train"] * 84 + ["test"] * 36)
    accuracy = results.best_row.test["accuracy"]
    assert accuracy.low < 1 / 3 < accuracy.high
    assert np.isfinite(results.predictions[0].probabilities).all()
    assert results.suspects["guessing"]
    assert results.suspects["count"] == 0


@every_head
def test_one_class(head, tmp_path):
    X = blobs()[0]
    with pytest.raises(
        DatasetError, match="All 120 images have the label 'ant': a head needs images of at least"
    ):
        tuned(head, X, np.full(120, "ant"))
    with pytest.raises(DatasetError, match="All 120 labelled images are of class 'ant'"):
        fit(head, tmp_path / "x.h5", X, ["ant"] * 120, ["train"] * 80 + ["test"] * 40)


@every_head
def test_a_class_below_the_folds(head, tmp_path):
    X, y = blobs()
    y[:] = np.where(np.arange(120) % 2, "ant", "bee")
    y[[3, 5]] = "cow"
    with pytest.raises(
        DatasetError, match=r"Class 'cow' has 2 training images, fewer than the 3 folds .* or choose --cv 2"
    ):
        fit(head, tmp_path / "x.h5", X, y, ["train"] * 80 + ["test"] * 40)


@every_head
def test_no_fault_no_warning(head):
    X, y = blobs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tuned(head, X, y).mean_score_ > 0.7
