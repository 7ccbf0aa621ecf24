"""Heads for more images than a kernel matrix can hold: other machines, found by the same search."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.kernel_approximation import Nystroem
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC, LinearSVC

import featx
from featx.errors import UnknownNameError
from featx.heads import find_head, tune
from featx.heads import head as head_module


def circles(n=240, seed=0):
    """An inner and an outer ring: a border that no plane draws."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    angle = rng.uniform(0, 2 * np.pi, n)
    radius = 1 + y + 0.1 * rng.normal(size=n)
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)]).astype(np.float32), y


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(head_module, "LARGE", 100)


def inner(tuned):
    return tuned.best_estimator_.calibrated_classifiers_[0].estimator


def test_many_images_take_the_large_form_and_say_so(small_limit):
    X, y = circles()
    few = tune("rbf-svm", X[:90], y[:90], cv=3)
    assert isinstance(inner(few)[-1], SVC)
    assert few.warnings_ == () or not any("more than" in text for text in few.warnings_)
    rbf = find_head("rbf-svm").large
    many = tune("rbf-svm", X, y, cv=3)
    assert [type(step) for _, step in inner(many).steps][1:] == [Nystroem, LinearSVC]
    assert many.warnings_[0] == f"240 images are more than 100: {rbf.note}"
    assert many.mean_score_ > 0.95
    p = many.best_estimator_.predict_proba(X)
    np.testing.assert_array_equal(p.argmax(axis=1), many.best_estimator_.predict(X))


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_linear_machine_is_that_of_liblinear(small_limit, k, balanced):
    rng = np.random.default_rng(k)
    y = np.where(rng.random(160) < 0.4, 0, np.arange(160) % k)
    X = (rng.normal(size=(160, 20)) + 0.5 * rng.normal(size=(k, 20))[y]).astype(np.float32)
    head = find_head("linear-svm").large
    tuned = tune("linear-svm", X, y, cv=4, balanced=balanced, grid=head.grid, scoring="accuracy")
    pipeline = head.build(0, balanced)
    pipeline[-1].set_params(tol=1e-8)
    grid = {"classifier__C": head.grid["C"]}
    reference = GridSearchCV(pipeline, grid, cv=list(tuned.folds_)).fit(X.astype(np.float64), y)
    scores = reference.cv_results_["mean_test_score"]
    assert scores.max() - scores[tuned.best_index_] <= 1 / 160
    np.testing.assert_allclose(tuned.cv_scores_.mean(axis=1), scores, atol=2 / 160)
    fitted = inner(tuned)[-1]
    pipeline[-1].set_params(**tuned.best_params_)
    expected = pipeline.fit(X.astype(np.float64), y)[-1]
    np.testing.assert_allclose(fitted.coef_, expected.coef_, atol=2e-3)
    np.testing.assert_allclose(fitted.intercept_, expected.intercept_, atol=2e-3)
    np.testing.assert_array_equal(fitted.classes_, expected.classes_)


def test_many_classes_take_the_large_form_too():
    rng = np.random.default_rng(0)
    y = np.arange(303) % 101
    X = (rng.normal(size=(303, 30)) + 3 * rng.normal(size=(101, 30))[y]).astype(np.float32)
    tuned = tune("linear-svm", X, y, cv=3, grid={"C": [1e-3]})
    assert isinstance(inner(tuned)[-1], LinearSVC)
    assert tuned.warnings_[0].startswith("101 classes are more than 100: ")
    with pytest.raises(UnknownNameError, match=r"'rbf-svm', in its form for many images or classes"):
        tune("rbf-svm", X, y, cv=3, grid={"gamma": [0.1]})


def test_the_approximated_kernel_is_as_wide_as_the_exact_one(small_limit):
    X, y = circles()
    X = np.column_stack([10 * X, np.ones(len(X))]).astype(np.float32)
    head = find_head("rbf-svm").large
    for options in ({}, {"pca": 2}):
        fitted = head.fit({"C": 1.0, **options}, X, y, seed=0, balanced=False)
        rows = X
        for name, step in fitted.steps[:-1]:
            if name == "map":
                assert step.gamma == pytest.approx(1 / (rows.shape[1] * rows.var(dtype=np.float64)))
                assert step.n_components == 240
            rows = step.transform(rows)


def test_outer_folds_and_curves_have_the_form_of_the_final_head(monkeypatch, tmp_path):
    monkeypatch.setattr(head_module, "LARGE", 200)
    built = []
    X, y = circles(260)
    store = featx.FeatureStore.from_arrays(tmp_path / "x.h5", X, y)
    large = find_head("linear-svm").large
    fit = head_module.Head.fit
    monkeypatch.setattr(
        head_module.Head, "fit", lambda self, *a, **k: built.append(self) or fit(self, *a, **k)
    )
    featx.fit(store, heads=["linear-svm"], nested=True, cv=2, jobs=1)
    assert len(built) > 3
    assert all(head.note == large.note for head in built)
