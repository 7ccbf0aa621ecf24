"""Every C of a support vector machine from one Gram matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.base import clone

from featx.heads.calibration import response
from featx.heads.paths.fold import FoldRows, class_weights
from featx.heads.warning_log import FoldLog

__all__ = ["solve_kernel_path"]


def solve_kernel_path(
    classifier: Any, params: Sequence[Mapping[str, Any]], fold: FoldRows, log: FoldLog
) -> Iterator[NDArray[np.float64]]:
    """Answer as :class:`sklearn.svm.SVC` with a linear or RBF kernel; a :data:`PathSolver`.

    libsvm computes rows of the kernel again for every pair of classes and every C; here it is handed the
    whole matrix, which is one product. Where no support vector reaches its bound C, the solution is that
    of every larger C too, and is not computed again.

    Source
    ------
    Hastie, Rosset, Tibshirani and Zhu 2004, The entire regularization path for the support vector machine,
    Journal of Machine Learning Research 5:1391–1415, section 3 (the path ends where no margin is
    violated); :class:`sklearn.svm.SVC`, ``kernel="precomputed"``.
    """
    answers: dict[int, NDArray[np.float64]] = {}
    by_width: dict[float | None, list[int]] = {}
    for index, point in enumerate(params):
        by_width.setdefault(_width(classifier, point, fold), []).append(index)
    bounds = [float(point.get("C", classifier.C)) for point in params]
    lightest = float(class_weights(classifier, fold.codes).min())
    for width, indices in by_width.items():
        kernel, kernel_valid = _kernels(fold, width)
        final: NDArray[np.float64] | None = None
        for index in sorted(indices, key=bounds.__getitem__):
            if final is None:
                machine = clone(classifier).set_params(**{**params[index], "kernel": "precomputed"})
                # The matrix is ours: looking for NaN in it takes as long as an easy fit.
                with sklearn.config_context(assume_finite=True), log.fit(params[index]):
                    machine.fit(kernel, fold.codes)
                    answers[index] = response(machine, kernel_valid)
                largest = float(np.abs(machine.dual_coef_).max())
                if machine.fit_status_ == 0 and largest < bounds[index] * lightest * (1 - 1e-9):
                    final = answers[index]
            else:
                answers[index] = final
    for index in range(len(params)):
        yield answers[index]


def _width(classifier: Any, point: Mapping[str, Any], fold: FoldRows) -> float | None:
    """Return the gamma of an RBF kernel, as SVC has it; None for a linear one."""
    if classifier.kernel == "linear":
        return None
    gamma = point.get("gamma", classifier.gamma)
    if gamma == "scale":
        variance = float(fold.X.var(dtype=np.float64))
        return 1.0 / (fold.X.shape[1] * variance) if variance else 1.0
    return 1.0 / fold.X.shape[1] if gamma == "auto" else float(gamma)


def _kernels(fold: FoldRows, width: float | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the kernel among the training rows, and between validation and training rows."""
    norms = np.einsum("ij,ij->i", fold.X, fold.X)
    matrices = []
    for rows in (fold.X, fold.X_valid):
        K = rows @ fold.X.T
        if width is not None:
            K *= -2.0
            K += norms
            K += np.einsum("ij,ij->i", rows, rows)[:, None]
            np.maximum(K, 0.0, out=K)
            K *= -width
            np.exp(K, out=K)
        matrices.append(K.astype(np.float64))
    return matrices[0], matrices[1]
