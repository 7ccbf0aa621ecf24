"""Every alpha of a ridge classifier from one eigendecomposition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from featx.heads.paths.fold import FoldRows, class_weights
from featx.heads.paths.gram import column_gram, products, row_gram
from featx.heads.warning_log import FoldLog

__all__ = ["solve_ridge_path"]


def solve_ridge_path(
    classifier: Any,
    params: Sequence[Mapping[str, Any]],
    fold: FoldRows,
    log: FoldLog,  # noqa: ARG001
) -> Iterator[NDArray[np.float64]]:
    """Answer as :class:`sklearn.linear_model.RidgeClassifier` for every ``alpha``; a :data:`PathSolver`.

    With the centred, weighted rows A, of which the smaller of AᵀA and AAᵀ is decomposed once, the weights
    for each alpha are a matrix product away.

    Source
    ------
    Hastie, Tibshirani and Friedman 2009, The elements of statistical learning, section 3.4.1; for more
    columns than rows, section 18.3.5.
    """
    k = fold.n_classes
    signs = np.where(fold.codes[:, None] == np.arange(k), 1.0, -1.0)
    weights = class_weights(classifier, fold.codes)[fold.codes]
    total = weights.sum()
    centre = (products(weights[:, None], fold.X)[0] / total).astype(np.float32)
    level = (weights @ signs) / total
    root = np.sqrt(weights)[:, None]
    A = fold.X - centre
    A *= root.astype(np.float32)
    B = root * (signs - level)
    wide = A.shape[1] > A.shape[0]
    values, vectors = eigh(row_gram(A) if wide else column_gram(A), check_finite=False, driver="evd")
    values = np.maximum(values, 0.0)
    # Of wide rows the weights are Aᵀ times the dual ones, so that the validation rows need A as well.
    shifted = fold.X_valid - centre
    project = (shifted @ A.T) @ vectors if wide else shifted @ vectors
    target = vectors.T @ (B if wide else products(A, B))
    for point in params:
        alpha = point["alpha"]
        response = project @ (target / (values + alpha)[:, None]) + level
        yield response
