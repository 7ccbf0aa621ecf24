"""Scores by class and the confusion matrix of the best model, counted from its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.evaluation.intervals import wilson
from featx.records import Score


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How one class fared on the test images.

    Parameters
    ----------
    name : str
        The class.
    count, right, predicted : int
        Test images of it, those of them found, and all that were called so.
    """

    name: str
    count: int
    right: int
    predicted: int

    @property
    def recall(self) -> Score | None:
        """Share of its images that were found, with Wilson's interval; None if it has none."""
        return wilson(self.right, self.count) if self.count else None

    @property
    def precision(self) -> float | None:
        """Share of what was called so and is; None if nothing was called so."""
        return self.right / self.predicted if self.predicted else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of the two; None if the class neither occurs nor was predicted."""
        both = self.count + self.predicted
        return 2 * self.right / both if both else None


def confusion_matrix(results: Mapping[str, Any], predictions: Mapping[str, Any]) -> NDArray[np.int64] | None:
    """Count the best model's test predictions by true and by predicted class.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    predictions : mapping
        The arrays of ``predictions.npz``.

    Returns
    -------
    ndarray of int64, (n_classes, n_classes), or None
        Truth in rows, prediction in columns; None without predictions of test images.

    Examples
    --------
    >>> arrays = {"truth": np.array([0, 1, 1]), "probabilities_0": np.array([[.9, .1], [.2, .8], [.6, .4]])}
    >>> confusion_matrix({"best": 0, "dataset": {"classes": ["a", "b"]}}, arrays).tolist()
    [[1, 0], [1, 1]]
    """
    probabilities = predictions.get(f"probabilities_{results.get('best')}")
    truth = predictions.get("truth")
    k = len(results["dataset"].get("classes") or [])
    if probabilities is None or truth is None or probabilities.shape != (len(truth), k) or not len(truth):
        return None
    matrix = np.zeros((k, k), dtype=np.int64)
    known = (truth >= 0) & (truth < k)
    np.add.at(matrix, (truth[known], probabilities.argmax(axis=1)[known]), 1)
    return matrix


def class_scores(results: Mapping[str, Any], predictions: Mapping[str, Any]) -> list[ClassScore]:
    """Score each class on the test images, for the best model.

    Parameters
    ----------
    results, predictions : mapping
        As for :func:`confusion_matrix`.

    Returns
    -------
    list of ClassScore
        In the order of the classes; empty without predictions of test images.
    """
    matrix = confusion_matrix(results, predictions)
    if matrix is None:
        return []
    return [
        ClassScore(str(name), int(matrix[i].sum()), int(matrix[i, i]), int(matrix[:, i].sum()))
        for i, name in enumerate(results["dataset"]["classes"])
    ]
