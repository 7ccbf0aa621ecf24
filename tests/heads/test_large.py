"""Heads for more images than a kernel matrix can hold: other machines, found by the same search."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.kernel_approximation import Nystroem
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC, LinearSVC

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


def test_many_images_take_the_large_form_and_say_so(small_limit, monkeypatch):
    X, y = circles()
    few = tune("rbf-svm", X[:90], y[:90], cv=3)
    assert isinstance(inner(few)[-1], SVC)
    assert few.warnings_ == () or not any("more than" in text for text in few.warnings_)
    rbf = find_head("rbf-svm").large
    monkeypatch.setattr(Nystroem, "__init__", _fewer_components(Nystroem.__init__))
    many = tune("rbf-svm", X, y, cv=3)
    assert [type(step) for _, step in inner(many).steps][1:] == [Nystroem, LinearSVC]
    assert many.warnings_[0] == f"240 images are more than 100: {rbf.note}"
    assert many.mean_score_ > 0.95
    p = many.best_estimator_.predict_proba(X)
    np.testing.assert_array_equal(p.argmax(axis=1), many.best_estimator_.predict(X))


def _fewer_components(init):
    def build(self, kernel="rbf", *, n_components=100, random_state=None):
        init(self, kernel, n_components=min(n_components, 60), random_state=random_state)

    return build


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
