"""Linear classifiers with an L2 penalty, minimised along a path of penalties."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from featx.heads.paths.gram import row_gram
from featx.heads.paths.losses import Loss

__all__ = ["LinearPath", "Plane"]

_TOLERANCE = 1.5e-4
"""Largest slope left, in coordinates in which the curvature is about one and relative to the root of the
objective. On noisy rows at the weakest penalty, where most is left to go, 0.25 % of the labels said are
then others than at the minimum; with scikit-learn's own tolerance 15 % are."""

_STALLED = 1e-2
"""A line search that finds nothing lower has met the precision of float32; above this slope, it has not."""

_STEPS = 1000
_OUT_OF_STEPS = 1
"""SciPy's status of L-BFGS for that."""

_SAMPLE = 20_000
"""So many rows tell the curvature; it steers the descent and does not change where it ends."""


@dataclass(frozen=True, slots=True)
class Plane:
    """Weights (columns, d) and intercepts (columns,) of a linear classifier, float64."""

    weights: NDArray[np.float64]
    intercepts: NDArray[np.float64]

    def scores(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores of shape (n, columns)."""
        values = X @ self.weights.T.astype(np.float32) + self.intercepts.astype(np.float32)
        return np.asarray(values, dtype=np.float64)


class LinearPath:
    """The minimum of ``mean loss + penalty / 2 · ‖weights‖²`` for one penalty after the other.

    Each minimum starts at the one before it. Three things make it quick, and none changes the minimum:
    rows of more columns than there are rows are rotated to the space that they span, in which the penalty
    is the same; coordinates are changed so that the curvature is about the same in all directions, which
    takes L-BFGS some ten steps instead of hundreds; and sums run in float32, as scikit-learn's do for
    float32 rows.

    Parameters
    ----------
    X : ndarray of float32, (n, d)
        Standardised rows, C-contiguous.
    loss : Loss
        Of the scores of these rows.
    penalise_intercept : bool, default=False
        Whether the penalty counts the intercept too, as liblinear has it.

    Source
    ------
    Hastie and Tibshirani 2004, Efficient quadratic regularization for expression arrays, Biostatistics
    5:329–340 (the rotation); Nocedal and Wright 2006, Numerical optimization, section 7.2 (L-BFGS) and
    5.1 (preconditioning).
    """

    def __init__(
        self,
        X: NDArray[np.float32],
        loss: Loss,
        penalise_intercept: bool = False,
    ) -> None:
        self._X = X
        self._loss = loss
        self._mass = loss.mass
        self._columns = loss.columns
        self._penalised = penalise_intercept
        n, d = X.shape
        if d > n:
            # X = rows · Q with orthonormal Q: XXᵀ is rows · rowsᵀ, whose triangular root is as good as any.
            products = row_gram(X)
            products[np.diag_indices(n)] += 1e-10 * max(float(products.trace()), 1.0)
            self._root: NDArray[np.float64] | None = cholesky(products, lower=True, overwrite_a=True)
            self._rows = np.ascontiguousarray(self._root, dtype=np.float32)
        else:
            self._root = None
            self._rows = X
        sample = self._rows[:: -(-n // _SAMPLE)]
        self._moment = sample.T @ sample / np.float32(len(sample))
        self._weights = np.zeros((loss.columns, self._rows.shape[1]), np.float32)
        self._intercepts = np.zeros(loss.columns, np.float32)

    def minimise(self, penalty: float) -> Plane:
        """Go on to another penalty; the smaller the step, the quicker.

        Warns
        -----
        ConvergenceWarning
            If the minimum was not reached.
        """
        rows, d = self._rows, self._rows.shape[1]
        curvature = self._curvature()
        inverse = self._whiten(curvature, penalty)
        level = np.float32((curvature + (penalty if self._penalised else 0.0)) ** -0.5)
        mass, shrink = np.float32(self._mass), np.float32(penalty)

        def unpack(theta: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            parts = theta.reshape(self._columns, d + 1).astype(np.float32)
            return parts[:, :d] @ inverse, parts[:, d] * level

        def objective(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weights, intercepts = unpack(theta)
            scores = weights @ rows.T
            scores += intercepts[:, None]
            value, slope = self._loss(scores)
            along = slope @ rows
            along /= mass
            along += shrink * weights
            gradient = np.empty((self._columns, d + 1))
            gradient[:, :d] = along @ inverse.T
            gradient[:, d] = slope.sum(axis=1) / mass
            size = float(np.vdot(weights, weights))
            if self._penalised:
                gradient[:, d] += shrink * intercepts
                size += float(np.vdot(intercepts, intercepts))
            gradient[:, d] *= level
            return value / self._mass + 0.5 * penalty * size, gradient.ravel()

        start = np.empty((self._columns, d + 1))
        # weights = start · inverse, and inverse is lower triangular.
        start[:, :d] = solve_triangular(inverse, self._weights.T, lower=True, trans=1, check_finite=False).T
        start[:, d] = self._intercepts / level
        value, gradient = objective(start.ravel())
        # L-BFGS first tries a step of length one; scaled by the slope, that is the step of Newton.
        scale = float(np.linalg.norm(gradient)) or 1.0
        begun = start.ravel() / scale

        def scaled(position: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            if np.array_equal(position, begun):
                return value, gradient * scale
            here, slope = objective(position * scale)
            return here, slope * scale

        # Once the classes come apart, there is little loss left, and it must be left in proportion.
        share = min(1.0, max(value, 1e-8) ** 0.5)
        # Under a strong penalty even the start is that flat, and most of the little way is still to go.
        tolerance = min(_TOLERANCE * share, 1e-2 * scale)
        found = minimize(
            scaled,
            begun,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _STEPS, "maxfun": 2 * _STEPS, "gtol": tolerance * scale, "ftol": 0.0},
        )
        left = float(np.abs(found.jac).max()) / scale
        if found.status == _OUT_OF_STEPS or (not found.success and left > _STALLED * share):
            warnings.warn(
                f"A linear path stopped at a slope of {left:.1g}.", ConvergenceWarning, stacklevel=2
            )
        self._weights, self._intercepts = unpack(found.x * scale)
        return Plane(self._original(), self._intercepts.astype(np.float64))

    def _curvature(self) -> float:
        """Mean second derivative of the loss where we stand; what is flat is taken for nearly flat."""
        scores = self._weights @ self._rows.T
        scores += self._intercepts[:, None]
        return max(self._loss.curvature(scores), 1e-8)

    def _whiten(self, curvature: float, penalty: float) -> NDArray[np.float32]:
        """Return the inverse of the triangular root of ``curvature · moment + penalty``."""
        matrix = np.float32(curvature) * self._moment
        # Below the precision of float32 the root would not exist.
        matrix[np.diag_indices(len(matrix))] += max(penalty, 2e-7 * float(matrix.trace()))
        root = cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
        inverse = solve_triangular(root, np.eye(len(root), dtype=root.dtype), lower=True, check_finite=False)
        return np.asarray(inverse, dtype=np.float32)

    def _original(self) -> NDArray[np.float64]:
        """Weights for the columns that the rows came with."""
        if self._root is None:
            return self._weights.astype(np.float64)
        # rows = root, X = root · Q: weights · Q = (weights · root⁻¹) · X.
        dual = solve_triangular(self._root, self._weights.T, lower=True, trans=1, check_finite=False).T
        return np.asarray(dual @ self._X.astype(np.float64), dtype=np.float64)
