"""Probabilities for every head, without changing a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline

from featx.heads.folds import Folds

__all__ = ["calibrate", "probabilities", "response"]


def calibrate(
    pipeline: Pipeline,
    responses: Sequence[NDArray[np.float64]],
    folds: Folds,
    X: NDArray[np.float32],
    y: NDArray[Any],
) -> CalibratedClassifierCV:
    """Give a fitted pipeline ``predict_proba``, from what the search's folds answered.

    The decision values of the chosen parameters on rows that they were not fitted on choose one
    temperature, which divides the values before the softmax. Unlike the sigmoid of Platt, one positive
    factor for all classes keeps their order, so that ``predict`` is the classifier's own. Nothing is
    fitted again: scikit-learn's ``CalibratedClassifierCV(ensemble=False)`` would repeat every fold.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted on all rows.
    responses : sequence of ndarray, (n_valid, classes)
        Decision values on the validation rows of each fold.
    folds : list of (train, valid) pairs
    X, y : ndarray of shape (n, d) and (n,)
        All rows, and their labels.

    Returns
    -------
    CalibratedClassifierCV
        Plain scikit-learn.

    Source
    ------
    Guo et al. 2017, On Calibration of Modern Neural Networks, section 4 (temperature scaling);
    :class:`sklearn.calibration.CalibratedClassifierCV`.
    """
    classes, codes = np.unique(y, return_inverse=True)
    valid = np.concatenate([rows for _, rows in folds])
    values = np.concatenate(responses)
    # scikit-learn learns the classes from these rows; one that none of them has is shown without weight.
    absent = np.setdiff1d(np.arange(len(classes)), codes[valid])
    values = np.vstack([values, np.zeros((len(absent), values.shape[1]))])
    weights = np.repeat([1.0, 0.0], [len(valid), len(absent)])
    rows = np.concatenate([X[valid], X[: len(absent)]])
    shown = np.concatenate([codes[valid], absent])
    everything = np.arange(len(rows))
    calibrated = CalibratedClassifierCV(
        _Answered(values[:, 1] if values.shape[1] == 2 else values),
        method="temperature",
        ensemble=False,
        cv=[(everything, everything)],
    )
    calibrated.fit(rows, shown, sample_weight=weights)
    # scikit-learn encodes only labels that are strings; others it takes for column numbers.
    calibrated.classes_ = classes
    (inner,) = calibrated.calibrated_classifiers_
    inner.estimator = pipeline
    return calibrated.set_params(estimator=pipeline, cv=len(folds))


class _Answered(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose decision values are known beforehand."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self.values = values

    def fit(
        self,
        X: NDArray[np.float32],
        y: NDArray[Any],
        sample_weight: NDArray[np.float64] | None = None,  # noqa: ARG002
    ) -> _Answered:
        self.classes_, self.n_features_in_ = np.unique(y), X.shape[1]
        return self

    def decision_function(self, X: NDArray[np.float32]) -> NDArray[np.float64]:  # noqa: ARG002
        return self.values

    def predict(self, X: NDArray[np.float32]) -> NDArray[Any]:
        """Not used; scikit-learn asks that it is there."""
        raise NotImplementedError


def response(classifier: Any, X: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Probabilities or, for want of them, decision values, as (n, classes); the argmax is the label."""
    if hasattr(classifier, "predict_proba"):
        return np.asarray(classifier.predict_proba(X), dtype=np.float64)
    values = np.asarray(classifier.decision_function(X), dtype=np.float64)
    return values if values.ndim == 2 else np.column_stack([-values, values])


def probabilities(estimator: Any, responses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn :func:`response` of the inner classifier into what ``estimator.predict_proba`` would say."""
    if not isinstance(estimator, CalibratedClassifierCV):
        return responses
    (calibrator,) = estimator.calibrated_classifiers_[0].calibrators
    # Two columns of a binary classifier are one decision value, as scikit-learn's calibrator takes it.
    values = responses[:, 1] if responses.shape[1] == 2 else responses
    return np.asarray(calibrator.predict(values), dtype=np.float64)
