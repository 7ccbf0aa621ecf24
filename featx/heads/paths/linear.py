"""Every C of logistic regression, and of a linear machine with a squared hinge; and their final fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from featx.heads.paths.descent import LinearPath, Plane
from featx.heads.paths.fold import FoldRows, class_weights
from featx.heads.paths.losses import BinaryLogistic, Loss, Multinomial, SquaredHinge
from featx.heads.warning_log import FoldLog

__all__ = ["fit_hinge", "fit_logistic", "solve_hinge_path", "solve_logistic_path"]


def solve_logistic_path(
    classifier: Any, params: Sequence[Mapping[str, Any]], fold: FoldRows, log: FoldLog
) -> Iterator[NDArray[np.float64]]:
    """Answer as :class:`sklearn.linear_model.LogisticRegression` with L2; a :data:`PathSolver`."""
    path = LinearPath(fold.X, _logistic_loss(classifier, fold.codes))
    for plane in _along(path, params, len(fold.codes), log):
        scores = plane.scores(fold.X_valid)
        if scores.shape[1] == 1:
            yield np.column_stack([expit(-scores[:, 0]), expit(scores[:, 0])])
        else:
            yield softmax(scores, axis=1)


def solve_hinge_path(
    classifier: Any, params: Sequence[Mapping[str, Any]], fold: FoldRows, log: FoldLog
) -> Iterator[NDArray[np.float64]]:
    """Answer as :class:`sklearn.svm.LinearSVC` with the squared hinge; a :data:`PathSolver`."""
    path = LinearPath(fold.X, _hinge_loss(classifier, fold.codes), penalise_intercept=True)
    for plane in _along(path, params, len(fold.codes), log):
        scores = plane.scores(fold.X_valid)
        yield np.column_stack([-scores, scores]) if scores.shape[1] == 1 else scores


def fit_logistic(classifier: Any, X: NDArray[np.float32], y: NDArray[Any]) -> Any:
    """Fit a LogisticRegression from where the path ends: scikit-learn has little left to do.

    Parameters
    ----------
    classifier : LogisticRegression
        Unfitted, its C set; fitted in place.
    X : ndarray of float32, (n, d)
        Scaled rows.
    y : ndarray, (n,)
        Labels.
    """
    codes = np.unique(y, return_inverse=True)[1]
    plane = LinearPath(X, _logistic_loss(classifier, codes)).minimise(_penalty(classifier.C, len(y)))
    classifier.coef_ = plane.weights.astype(X.dtype)
    classifier.intercept_ = plane.intercepts.astype(X.dtype)
    classifier.set_params(warm_start=True)
    return classifier.fit(X, y).set_params(warm_start=False)


def fit_hinge(classifier: Any, X: NDArray[np.float32], y: NDArray[Any]) -> Any:
    """Give a LinearSVC the solution of its problem, which liblinear takes 100 times as long to find.

    Parameters and return value as for :func:`fit_logistic`. liblinear cannot start from a solution, so
    that the coefficients are set, not fitted again.
    """
    classes, codes = np.unique(y, return_inverse=True)
    path = LinearPath(X, _hinge_loss(classifier, codes), penalise_intercept=True)
    plane = path.minimise(_penalty(classifier.C, len(y)))
    classifier.coef_, classifier.intercept_ = plane.weights, plane.intercepts
    classifier.classes_, classifier.n_features_in_, classifier.n_iter_ = classes, X.shape[1], 0
    return classifier


def _along(path: LinearPath, params: Sequence[Mapping[str, Any]], n: int, log: FoldLog) -> Iterator[Plane]:
    """Minima for every C, in the order of ``params``, found from the smallest C on."""
    planes: dict[int, Plane] = {}
    for index in sorted(range(len(params)), key=lambda index: params[index]["C"]):
        with log.fit(params[index]):
            planes[index] = path.minimise(_penalty(params[index]["C"], n))
    for index in range(len(params)):
        yield planes[index]


def _penalty(C: float, n: int) -> float:
    """``C · sum of losses + ½‖w‖²``, divided by ``C · n``; balanced weights sum to n too."""
    return 1.0 / (C * n)


def _logistic_loss(classifier: Any, codes: NDArray[np.intp]) -> Loss:
    weights = class_weights(classifier, codes)[codes].astype(np.float32)
    return BinaryLogistic(codes, weights) if codes.max() == 1 else Multinomial(codes, weights)


def _hinge_loss(classifier: Any, codes: NDArray[np.intp]) -> Loss:
    return SquaredHinge(codes, class_weights(classifier, codes)[codes].astype(np.float32))
