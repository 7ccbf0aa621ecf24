"""Losses of linear classifiers on scores of shape (columns, n), with their derivatives.

Class-major, one row for each column of the classifier: sums over classes then run along memory, which
for ten classes is ten times as fast as the other way.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

__all__ = ["BinaryLogistic", "Loss", "Multinomial", "SquaredHinge"]

Scores = NDArray[np.float32]


class Loss(Protocol):
    """A convex function of scores."""

    mass: float
    """Sum of the weights of the rows."""

    columns: int
    """Number of columns of scores that it takes."""

    def __call__(self, scores: Scores) -> tuple[float, Scores]:
        """Sum of the losses, and its derivative by each score; the scores are overwritten."""

    def curvature(self, scores: Scores) -> float:
        """Mean second derivative by a score."""


class Multinomial:
    """Cross-entropy of the softmax over the columns, one for each class.

    Parameters
    ----------
    codes : ndarray of int, (n,)
        Class of each row.
    weights : ndarray of float32, (n,)
        Weight of each row.

    Examples
    --------
    >>> loss = Multinomial(np.array([1, 0]), np.ones(2, np.float32))
    >>> value, slope = loss(np.zeros((2, 2), np.float32))
    >>> round(value, 4), slope.tolist()
    (1.3863, [[0.5, -0.5], [-0.5, 0.5]])
    """

    def __init__(self, codes: NDArray[np.intp], weights: NDArray[np.float32]) -> None:
        self._codes, self._weights, self._rows = codes, weights, np.arange(len(codes))
        self.mass = float(weights.sum(dtype=np.float64))
        self.columns = int(codes.max()) + 1

    def __call__(self, scores: Scores) -> tuple[float, Scores]:
        """Sum of the losses, and its derivative by each score."""
        scores -= scores.max(axis=0)
        own = scores[self._codes, self._rows]
        np.exp(scores, out=scores)
        total = scores.sum(axis=0)
        value = float((self._weights * (np.log(total) - own)).sum(dtype=np.float64))
        scores /= total
        scores[self._codes, self._rows] -= 1.0
        scores *= self._weights
        return value, scores

    def curvature(self, scores: Scores) -> float:
        """Mean second derivative by a score."""
        p = softmax(scores, axis=0)
        return float((p * (1 - p) * self._weights).sum(dtype=np.float64)) / (self.mass * self.columns)


class BinaryLogistic:
    """Cross-entropy of the logistic function of one column, which speaks for class 1."""

    columns = 1

    def __init__(self, codes: NDArray[np.intp], weights: NDArray[np.float32]) -> None:
        self._ones, self._weights = codes.astype(np.float32), weights
        self.mass = float(weights.sum(dtype=np.float64))

    def __call__(self, scores: Scores) -> tuple[float, Scores]:
        """Sum of the losses, and its derivative by each score."""
        # log(1 + exp(-margin)), from the side on which it does not overflow.
        margin = (2 * self._ones - 1) * scores[0]
        value = float((self._weights * np.logaddexp(0, -margin)).sum(dtype=np.float64))
        slope = (expit(scores[0]) - self._ones) * self._weights
        return value, slope[None]

    def curvature(self, scores: Scores) -> float:
        """Mean second derivative by a score."""
        p = expit(scores[0])
        return float((p * (1 - p) * self._weights).sum(dtype=np.float64)) / self.mass


class SquaredHinge:
    """Squared hinge loss of each class against the rest; of class 1, where there are two.

    As in liblinear, the weight of a class counts for its own rows in its own column, and for both classes
    where there are two.

    Parameters
    ----------
    codes : ndarray of int, (n,)
        Class of each row.
    weights : ndarray of float32, (n,)
        Weight of each row.
    """

    def __init__(self, codes: NDArray[np.intp], weights: NDArray[np.float32]) -> None:
        classes = int(codes.max()) + 1
        self.columns = classes if classes > 2 else 1
        own = codes == (np.arange(classes)[:, None] if classes > 2 else np.ones((1, 1)))
        self._signs = np.where(own, np.float32(1), np.float32(-1))
        self._scales = np.where(own | (classes == 2), weights, np.float32(1))
        self.mass = float(len(codes))

    def __call__(self, scores: Scores) -> tuple[float, Scores]:
        """Sum of the losses, and its derivative by each score."""
        missing = np.maximum(1.0 - self._signs * scores, np.float32(0))
        slope = self._scales * missing
        value = float((slope * missing).sum(dtype=np.float64))
        slope *= -2.0 * self._signs
        return value, slope

    def curvature(self, scores: Scores) -> float:
        """Mean second derivative by a score."""
        short = self._signs * scores < 1
        return 2.0 * float((self._scales * short).sum(dtype=np.float64)) / (self.mass * self.columns)
