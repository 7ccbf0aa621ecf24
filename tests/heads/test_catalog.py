"""The catalogue: every head is a plain scikit-learn pipeline that can be tuned."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.estimator_checks import check_estimator

from featx.errors import DatasetError, UnknownNameError
from featx.heads import DEFAULT_HEADS, find_head, list_heads, register_head


def test_all_heads_of_the_design_are_there():
    assert list_heads() == ["logreg", "linear-svm", "rbf-svm", "ridge", "knn", "mlp"]
    assert list_heads()[:3] == list(DEFAULT_HEADS)


@pytest.mark.parametrize("name", list_heads())
def test_build_gives_a_scaler_and_a_classifier_that_has_the_grid(name):
    head = find_head(name)
    pipeline = head.build(seed=3)
    assert isinstance(pipeline, Pipeline)
    assert [step for step, _ in pipeline.steps] == ["scaler", "classifier"]
    assert set(head.grid) <= set(pipeline[-1].get_params())
    copy = clone(pipeline)
    assert repr(copy.get_params()) == repr(pipeline.get_params())


@pytest.mark.parametrize("name", list_heads())
def test_grids_are_monotone_from_the_most_regularised(name):
    parameter, values = list(find_head(name).grid.items())[-1]
    ascending = list(values) == sorted(values)
    assert ascending == (parameter == "C")
    assert list(values) == sorted(values, reverse=not ascending)
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("name", ["logreg", "linear-svm", "rbf-svm", "ridge"])
def test_balanced_reaches_the_classifier_and_moves_the_border(name):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [90, 10])
    X = rng.normal(size=(100, 4)) + 0.8 * y[:, None]
    plain, balanced = (find_head(name).build(0, weigh).fit(X, y).predict(X).sum() for weigh in (False, True))
    assert balanced > plain


@pytest.mark.parametrize("name", ["knn", "mlp"])
def test_balanced_is_refused_where_it_would_be_ignored(name):
    with pytest.raises(DatasetError, match=rf"'{name}' cannot weigh classes: leave out --balanced.*logreg"):
        find_head(name).build(balanced=True)


def test_unknown_head_names_the_near_ones():
    with pytest.raises(UnknownNameError, match=r"Unknown head 'linear_svm'. Did you mean 'linear-svm'"):
        find_head("linear_svm")


def test_a_name_twice_raises():
    with pytest.raises(ValueError, match="'logreg' is registered already"):
        register_head("logreg", "Again", {"C": (1.0,)})(lambda seed, weight: None)


PIPELINES_OWN = {
    "check_estimators_overwrite_params": "a Pipeline fits the steps that it was given, not copies of them",
    "check_dont_overwrite_parameters": "a Pipeline fits the steps that it was given, not copies of them",
}
"""The checks that any Pipeline fails, and why."""


@pytest.mark.parametrize("name", list_heads())
def test_heads_pass_the_checks_of_scikit_learn_that_a_pipeline_passes(name):
    pipeline = find_head(name).build()
    if name == "mlp":
        pipeline[-1].set_params(hidden_layer_sizes=(64,), max_iter=200)
    # The checks fit blobs on purpose so small that some solvers warn.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = check_estimator(pipeline, on_fail=None, on_skip=None)
    failed = {outcome["check_name"] for outcome in outcomes if outcome["status"] == "failed"}
    assert failed == set(PIPELINES_OWN)
    assert sum(outcome["status"] == "passed" for outcome in outcomes) > 40
