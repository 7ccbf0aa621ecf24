"""Scores by class and the confusion matrix of the best model: as stored, or from its predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.evaluation.metrics import confusion, per_class


def confusion_matrix(results: Mapping[str, Any], predictions: Mapping[str, Any]) -> NDArray[np.int64] | None:
    """Give the best model's test predictions by true and by predicted class.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    predictions : mapping
        The arrays of ``predictions.npz``, for runs whose results hold no matrix.

    Returns
    -------
    ndarray of int64, (n_classes, n_classes), or None
        Truth in rows, prediction in columns; None where neither holds it.

    Examples
    --------
    >>> arrays = {"truth": np.array([0, 1, 1]), "probabilities_0": np.array([[.9, .1], [.2, .8], [.6, .4]])}
    >>> confusion_matrix({"best": 0, "rows": [{}], "dataset": {"classes": ["a", "b"]}}, arrays).tolist()
    [[1, 0], [1, 1]]
    """
    if stored := _best_row(results).get("confusion"):
        return np.asarray(stored, dtype=np.int64)
    found = _predicted(results, predictions)
    return None if found is None else confusion(*found, np.arange(len(results["dataset"]["classes"])))


def class_scores(results: Mapping[str, Any], predictions: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Score each class on the test images, for the best model.

    Parameters
    ----------
    results, predictions : mapping
        As for :func:`confusion_matrix`.

    Returns
    -------
    sequence of mapping
        :class:`featx.outcomes.ClassScores` in plain types, in the order of the classes; empty without
        test images. Those of runs of earlier versions are counted here, and take the images as independent.
    """
    stored: Sequence[Mapping[str, Any]] = _best_row(results).get("per_class") or ()
    if stored:
        return stored
    found = _predicted(results, predictions)
    if found is None:
        return ()
    names = results["dataset"]["classes"]
    scores = per_class(*found, np.arange(len(names)))
    return [dataclasses.asdict(score) | {"name": name} for score, name in zip(scores, names, strict=True)]


def _best_row(results: Mapping[str, Any]) -> Mapping[str, Any]:
    rows, best = results.get("rows") or (), results.get("best")
    row: Mapping[str, Any] = rows[best] if isinstance(best, int) and 0 <= best < len(rows) else {}
    return row


def _predicted(
    results: Mapping[str, Any], predictions: Mapping[str, Any]
) -> tuple[NDArray[np.integer[Any]], NDArray[np.intp]] | None:
    """Give the true and the predicted class of each test image, by number."""
    probabilities = predictions.get(f"probabilities_{results.get('best')}")
    truth = predictions.get("truth")
    k = len(results["dataset"].get("classes") or [])
    if probabilities is None or truth is None or probabilities.shape != (len(truth), k):
        return None
    known = (truth >= 0) & (truth < k)
    return (truth[known], probabilities.argmax(axis=1)[known]) if known.any() else None
