"""Probabilities for every head, without changing a label."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline

from featx.heads.folds import Folds

__all__ = ["fit_with_probabilities", "probabilities", "response"]


def fit_with_probabilities(
    pipeline: Pipeline, X: NDArray[np.float32], y: NDArray[Any], folds: Folds, jobs: int
) -> Any:
    """Fit a pipeline on all rows so that it has ``predict_proba``.

    A classifier that has none is wrapped: its decision values on rows that it was not fitted on
    (``folds``) choose one temperature, which divides the values before the softmax. Unlike the
    sigmoid of Platt, one positive factor for all classes keeps their order, so that ``predict`` is
    the classifier's own. The classifier inside is fitted on all rows.

    Parameters
    ----------
    pipeline : Pipeline
        Unfitted, parameters set.
    X, y : ndarray of shape (n, d) and (n,)
        All rows that may be learned from.
    folds : list of (train, valid) pairs
        A partition of the rows; used only where calibration is needed.
    jobs : int
        Threads.

    Returns
    -------
    Pipeline or CalibratedClassifierCV
        Plain scikit-learn, fitted.

    Source
    ------
    Guo et al. 2017, On Calibration of Modern Neural Networks, section 4 (temperature scaling);
    :class:`sklearn.calibration.CalibratedClassifierCV`.
    """
    if hasattr(pipeline, "predict_proba"):
        return pipeline.fit(X, y)
    calibrated = CalibratedClassifierCV(pipeline, method="temperature", ensemble=False, cv=folds)
    # scikit-learn encodes only labels that are strings; others it takes for column numbers.
    classes, codes = np.unique(y, return_inverse=True)
    # Threads: libsvm and BLAS release the GIL, and X is not copied to other processes.
    with joblib.parallel_config("threading", n_jobs=jobs):
        calibrated.fit(X, codes)
    calibrated.classes_ = classes
    # The fitted model does not need the row indices of its folds; a saved one should not carry them.
    return calibrated.set_params(cv=len(folds))


def response(classifier: Any, X: NDArray[np.float32]) -> NDArray[np.float64]:
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
