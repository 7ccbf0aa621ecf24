"""Scores of predicted probabilities, each with a 95 % interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import expit, logit
from scipy.stats import rankdata
from sklearn.metrics import confusion_matrix

from featx.errors import DatasetError
from featx.evaluation.intervals import RESAMPLES, percentiles, resampled_sums, wilson
from featx.records import Score

__all__ = ["ClassScores", "confusion", "evaluate", "per_class"]

Counts = NDArray[np.float64]
"""Per resample and class, shape (resamples, classes): of truth, of predictions, or of both agreeing."""


@dataclass(frozen=True, slots=True)
class ClassScores:
    """One class of the test: how often it was found, and how often it was right when it was said.

    ``support`` and ``predicted`` count test images; ``precision`` or ``recall`` is 0 where there is
    nothing to divide by.
    """

    name: str
    support: int
    predicted: int
    precision: float
    recall: float
    f1: float


def evaluate(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    classes: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Score]:
    """Score predictions; the predicted class is the most probable one.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Labels, as they stand in ``classes``; or column numbers, where the classes are strings.
    probabilities : array-like of shape (n, k)
        One column for each class.
    classes : array-like of shape (k,)
        Labels of the columns.
    groups : array-like of shape (n,), optional
        What is not independent (a patient); intervals then draw whole groups.
    seed, resamples : int
        Of the bootstrap.

    Returns
    -------
    dict of str to Score
        ``accuracy``, ``balanced_accuracy``, ``precision_macro``, ``recall_macro``, ``f1_macro``,
        ``log_loss`` (nats), and ``roc_auc`` (each class against the rest, mean over classes; absent
        where the test lacks a class). Macro means run over the classes that occur in truth or
        predictions, as scikit-learn has them.

        Intervals: Wilson's for the accuracy of ungrouped images; DeLong's variance on the logit
        scale for ROC AUC; the percentile bootstrap for the rest.

    Raises
    ------
    DatasetError
        If the shapes do not fit, there is nothing to score, or a label is not among the classes.

    Source
    ------
    :func:`~featx.evaluation.wilson`, :func:`~featx.evaluation.bootstrap`; DeLong, DeLong and
    Clarke-Pearson 1988, Comparing the areas under two or more correlated ROC curves; its sum over
    whole clusters: Obuchowski 1997, Nonparametric analysis of clustered ROC curve data.

    Examples
    --------
    >>> scores = evaluate(["a", "b", "b"], [[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]], ["a", "b"])
    >>> round(scores["accuracy"].value, 3), round(scores["balanced_accuracy"].value, 3)
    (0.667, 0.75)
    """
    codes, p = _checked(y_true, probabilities, classes)
    n, k = p.shape
    predicted = p.argmax(axis=1)
    loss = _log_loss(codes, p)
    # Columns: truth, prediction, both (k each), log loss; four entries in a row.
    columns = np.column_stack(
        [codes, k + predicted, np.where(codes == predicted, 2 * k + codes, 3 * k + 1), np.full(n, 3 * k)]
    )
    values = np.ones((n, 4))
    values[:, 3] = loss
    entries = csr_array((values.ravel(), (np.repeat(np.arange(n), 4), columns.ravel())), shape=(n, 3 * k + 2))
    sums = np.vstack([entries.sum(axis=0)[None], resampled_sums(entries, groups, resamples, seed)])
    truth, said, both = sums[:, :k], sums[:, k : 2 * k], sums[:, 2 * k : 3 * k]
    drawn = {
        "accuracy": both.sum(axis=1) / truth.sum(axis=1),
        **{name: metric(truth, said, both) for name, metric in _FROM_COUNTS.items()},
        "log_loss": sums[:, 3 * k] / truth.sum(axis=1),
    }
    scores = {name: Score(float(each[0]), *percentiles(each[1:])) for name, each in drawn.items()}
    if groups is None:
        scores["accuracy"] = wilson(int((codes == predicted).sum()), n)
    if len(np.unique(codes)) == k:
        scores["roc_auc"] = _roc_auc(codes, p, groups)
    return scores


def confusion(y_true: ArrayLike, predicted: ArrayLike, classes: ArrayLike) -> NDArray[np.int64]:
    """Count test images by true class (rows) and predicted class (columns), shape (k, k).

    Examples
    --------
    >>> confusion(["a", "b", "b"], ["a", "a", "b"], ["a", "b"]).tolist()
    [[1, 0], [1, 1]]
    """
    return np.asarray(confusion_matrix(y_true, predicted, labels=np.asarray(classes)), dtype=np.int64)


def per_class(y_true: ArrayLike, predicted: ArrayLike, classes: ArrayLike) -> list[ClassScores]:
    """Precision, recall and F1 of every class, in the order of ``classes``.

    Examples
    --------
    >>> [(row.name, row.precision, row.recall) for row in per_class([0, 1, 1], [0, 0, 1], [0, 1])]
    [('0', 0.5, 1.0), ('1', 1.0, 0.5)]
    """
    counts = confusion(y_true, predicted, classes).astype(np.float64)
    both, truth, said = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    precision, recall, f1 = _ratio(both, said), _ratio(both, truth), _ratio(2 * both, truth + said)
    return [
        ClassScores(
            str(name), int(truth[i]), int(said[i]), float(precision[i]), float(recall[i]), float(f1[i])
        )
        for i, name in enumerate(np.asarray(classes))
    ]


def _checked(
    y_true: ArrayLike, probabilities: ArrayLike, classes: ArrayLike
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    labels, names = np.asarray(y_true), np.asarray(classes)
    p = np.asarray(probabilities, dtype=np.float64)
    if labels.ndim != 1 or p.shape != (len(labels), len(names)):
        raise DatasetError(
            f"There are {labels.shape} labels, {len(names)} classes and probabilities of shape {p.shape}: "
            f"give one "
            "row for each label and one column for each class."
        )
    if not len(labels):
        raise DatasetError(
            "There are no test images to score: label some, or hold some out with --test-size."
        )
    if not np.isfinite(p).all():
        raise DatasetError("Some probabilities are NaN or infinite: check the embeddings of the test images.")
    if labels.dtype.kind in "iu" and names.dtype.kind not in "iu":
        if labels.min() < 0 or labels.max() >= len(names):
            raise DatasetError(
                f"The labels are column numbers from {labels.min()} to {labels.max()}, and there are "
                f"{len(names)} "
                "classes: give numbers from 0 on."
            )
        return labels.astype(np.intp), p
    order = np.argsort(names, kind="stable")
    places = np.searchsorted(names[order], labels)
    codes = order[np.minimum(places, len(names) - 1)]
    if (strange := names[codes] != labels).any():
        raise DatasetError(
            f"The test has the class {str(labels[strange.argmax()])!r}, which training has not: add training "
            f"images "
            "of it, or leave it out of the test."
        )
    return codes, p


def _log_loss(codes: NDArray[np.intp], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the loss of each image in nats, clipped as scikit-learn does it for float64."""
    clipped = np.clip(p[np.arange(len(p)), codes], np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)
    return np.asarray(-np.log(clipped), dtype=np.float64)


def _ratio(above: Counts, below: Counts) -> Counts:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _mean_where(values: Counts, occurs: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray((values * occurs).sum(axis=1) / occurs.sum(axis=1), dtype=np.float64)


_FROM_COUNTS: dict[str, Callable[[Counts, Counts, Counts], NDArray[np.float64]]] = {
    "balanced_accuracy": lambda truth, _, both: _mean_where(_ratio(both, truth), truth > 0),
    "precision_macro": lambda truth, said, both: _mean_where(_ratio(both, said), truth + said > 0),
    "recall_macro": lambda truth, said, both: _mean_where(_ratio(both, truth), truth + said > 0),
    "f1_macro": lambda truth, said, both: _mean_where(_ratio(2 * both, truth + said), truth + said > 0),
}


def _roc_auc(codes: NDArray[np.intp], p: NDArray[np.float64], groups: ArrayLike | None) -> Score:
    """Mean over classes of the area of each class against the rest, from midranks.

    The area is the share of (positive, negative) pairs in the right order. ``component`` of a
    positive is the share of negatives below it, of a negative the share of positives above it
    (DeLong's V10 and V01), so the influence of each image on the mean area, and with it its
    variance, comes at the cost of two rankings a class.
    """
    n, k = p.shape
    areas = np.empty(k)
    influence = np.zeros(n)
    for c in range(k):
        positive = codes == c
        n_positive = int(positive.sum())
        n_negative = n - n_positive
        ranks = rankdata(p[:, c])
        component = np.empty(n)
        component[positive] = (ranks[positive] - rankdata(p[positive, c])) / n_negative
        component[~positive] = 1 - (ranks[~positive] - rankdata(p[~positive, c])) / n_positive
        areas[c] = component[positive].mean()
        influence += (component - areas[c]) / np.where(positive, n_positive, n_negative)
    value = float(areas.mean())
    sums = influence / k
    if groups is not None:
        sums = np.bincount(np.unique(np.asarray(groups), return_inverse=True)[1], weights=sums)
    units = len(sums)
    variance = float((sums**2).sum()) * units / max(units - 1, 1)
    if not 0 < value < 1 or variance == 0:
        return Score(value, value, value)
    half = NormalDist().inv_cdf(0.975) * variance**0.5 / (value * (1 - value))
    return Score(value, float(expit(logit(value) - half)), float(expit(logit(value) + half)))
