"""Scores of predicted probabilities, each with a 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, hstack
from sklearn.metrics import confusion_matrix

from featx.errors import DatasetError
from featx.evaluation.calibration import expected_calibration_error
from featx.evaluation.counting import class_scores, count_scores
from featx.evaluation.ranking import ranking_scores
from featx.evaluation.reliability import flagged
from featx.evaluation.resampling import RESAMPLES, bootstrap_t, resampled_sums, sum_by_group
from featx.outcomes import ClassScores, Score

__all__ = ["Evaluation", "assess", "confusion", "evaluate", "per_class"]

MOST_CONFUSED = 100
"""Beyond so many classes an :class:`Evaluation` holds no confusion matrix: its size is their square."""

TOP = 5
MANY_CLASSES = 10
"""With more classes than this, ``top_5_accuracy`` is scored too."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that one row's predictions of the test images say.

    Parameters
    ----------
    scores : mapping of str to Score
        See :func:`evaluate`.
    per_class : tuple of ClassScores
        In the order of the classes.
    confusion : tuple of k tuples of k int
        Truth in rows, prediction in columns; empty with more than 100 classes.
    """

    scores: Mapping[str, Score]
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]


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
        What is not independent (a patient); intervals then take whole groups.
    seed, resamples : int
        Of the bootstrap.

    Returns
    -------
    dict of str to Score
        ``accuracy``, ``balanced_accuracy``, ``precision_macro``, ``recall_macro``, ``f1_macro``,
        ``log_loss`` (nats), ``ece`` (expected calibration error of the predicted class, 15 bins),
        ``top_5_accuracy`` (with more than 10 classes; of equal probabilities the first column counts as
        the greater), and ``roc_auc`` and ``average_precision`` (each class against the rest, mean over
        all classes, two as well; absent where the test lacks a class). Macro means run over the
        classes that occur in truth or predictions, as scikit-learn has them.

        Intervals: Wilson's for accuracy and top-5 accuracy of ungrouped images; for scores of
        counts Wilson's with the effective size that the bootstrap's standard error gives; for log
        loss the bootstrap-t; for rankings and calibration standard errors in closed form. Where
        they are known to fail, :attr:`~featx.outcomes.Score.reliable` is False.

    Raises
    ------
    DatasetError
        If the shapes do not fit, there is nothing to score, or a label is not among the classes.

    Source
    ------
    :func:`~featx.evaluation.wilson`, :func:`~featx.evaluation.intervals.effective_wilson`,
    :func:`~featx.evaluation.resampling.bootstrap_t`,
    :func:`~featx.evaluation.ranking.ranking_scores`,
    :func:`~featx.evaluation.calibration.expected_calibration_error`.

    Examples
    --------
    >>> scores = evaluate(["a", "b", "b"], [[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]], ["a", "b"])
    >>> round(scores["accuracy"].value, 3), round(scores["balanced_accuracy"].value, 3)
    (0.667, 0.75)
    """
    found = assess(y_true, probabilities, classes, groups=groups, seed=seed, resamples=resamples)
    return dict(found.scores)


def assess(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    classes: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Score predictions as :func:`evaluate` does, and class by class, from the same resamples.

    Parameters
    ----------
    y_true, probabilities, classes, groups, seed, resamples
        As for :func:`evaluate`.

    Returns
    -------
    Evaluation

    Raises
    ------
    DatasetError
        As for :func:`evaluate`.

    Examples
    --------
    >>> found = assess(["a", "b", "b"], [[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]], ["a", "b"])
    >>> found.confusion
    ((1, 0), (1, 1))
    >>> print([row.recall.value for row in found.per_class])
    [1.0, 0.5]
    """
    codes, p = _checked(y_true, probabilities, classes)
    labels = _group_numbers(groups, len(codes))
    n, k = p.shape
    predicted = p.argmax(axis=1)
    right = codes == predicted
    entries = _contributions(codes, predicted, _rank(codes, p) < TOP, _log_loss(codes, p), k)
    units = sum_by_group(entries, labels)
    of_loss = units[:, [3 * k + 2]].toarray()[:, 0]
    sizes = units[:, [3 * k]].toarray()[:, 0]
    squares = csr_array(np.column_stack([of_loss**2, of_loss * sizes, sizes**2]))
    sums = resampled_sums(hstack([units, squares], format="csr"), None, resamples, seed)
    whole = np.asarray(entries.sum(axis=0), dtype=np.float64)

    grouped = groups is not None
    scores = count_scores(whole[: 3 * k + 2], sums[:, : 3 * k + 2], units.shape[0], grouped=grouped)
    if k <= MANY_CLASSES:
        del scores["top_5_accuracy"]
    scores["log_loss"] = bootstrap_t(of_loss, sizes, sums[:, [3 * k + 2, 3 * k, -3, -2, -1]])
    scores["ece"] = expected_calibration_error(p[np.arange(n), predicted], right, labels)
    if k > 1 and len(np.unique(codes)) == k:
        scores |= ranking_scores(codes, p, labels)
    names = [str(name) for name in np.asarray(classes)]
    by_class = class_scores(names, whole, sums, units[:, : 2 * k], grouped=grouped)
    held = np.asarray((units[:, :k] > 0).sum(axis=0)).ravel() if grouped else None
    matrix = np.zeros((0, 0), dtype=np.int64)
    if k <= MOST_CONFUSED:
        matrix = confusion_matrix(codes, predicted, labels=np.arange(k))
    return Evaluation(
        scores=flagged(scores, whole[:k], held, units.shape[0], errors=int(n - right.sum())),
        per_class=by_class,
        confusion=tuple(tuple(row) for row in matrix.tolist()),
    )


def confusion(y_true: ArrayLike, predicted: ArrayLike, classes: ArrayLike) -> NDArray[np.int64]:
    """Count test images by true class (rows) and predicted class (columns), shape (k, k).

    Examples
    --------
    >>> confusion(["a", "b", "b"], ["a", "a", "b"], ["a", "b"]).tolist()
    [[1, 0], [1, 1]]
    """
    return np.asarray(confusion_matrix(y_true, predicted, labels=np.asarray(classes)), dtype=np.int64)


def per_class(
    y_true: ArrayLike,
    predicted: ArrayLike,
    classes: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[ClassScores, ...]:
    """Precision, recall and F1 of every class with their intervals, in the order of ``classes``.

    Parameters
    ----------
    y_true, predicted : array-like of shape (n,)
        Labels, as they stand in ``classes``.
    classes, groups, seed, resamples
        As for :func:`evaluate`.

    Returns
    -------
    tuple of ClassScores

    Raises
    ------
    DatasetError
        As for :func:`evaluate`.

    Examples
    --------
    >>> [(row.name, row.precision.value, row.recall.value) for row in per_class([0, 1, 1], [0, 0, 1], [0, 1])]
    [('0', 0.5, 1.0), ('1', 1.0, 0.5)]
    """
    names, said = np.asarray(classes), np.asarray(predicted)
    certain = (said[:, None] == names[None]).astype(np.float64)
    if (strange := certain.sum(axis=1) != 1).any():
        raise DatasetError(
            f"The prediction {str(said[strange.argmax()])!r} is not one of the {len(names)} classes: "
            "give their names."
        )
    found = assess(y_true, certain, classes, groups=groups, seed=seed, resamples=resamples)
    return found.per_class


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


def _group_numbers(groups: ArrayLike | None, n: int) -> NDArray[np.intp] | None:
    if groups is None:
        return None
    named = np.asarray(groups)
    if named.shape != (n,):
        raise DatasetError(
            f"The groups have the shape {named.shape}, and there are {n} test images: give one for each."
        )
    return np.asarray(np.unique(named, return_inverse=True)[1], dtype=np.intp)


def _log_loss(codes: NDArray[np.intp], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the loss of each image in nats, clipped as scikit-learn does it for float64."""
    clipped = np.clip(p[np.arange(len(p)), codes], np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)
    return np.asarray(-np.log(clipped), dtype=np.float64)


def _contributions(
    codes: NDArray[np.intp],
    predicted: NDArray[np.intp],
    among_first: NDArray[np.bool_],
    loss: NDArray[np.float64],
    k: int,
) -> csr_array:
    """Give what each image adds to the counts of :data:`featx.evaluation.counting.Counts`, and its loss."""
    n = len(codes)
    ones = np.ones(n)
    values = np.column_stack([ones, ones, codes == predicted, ones, among_first, loss])
    columns = np.column_stack(
        [codes, k + predicted, 2 * k + codes, *(np.full(n, 3 * k + extra) for extra in range(3))]
    )
    rows = np.repeat(np.arange(n), values.shape[1])
    return csr_array((values.ravel(), (rows, columns.ravel())), shape=(n, 3 * k + 3))


def _rank(codes: NDArray[np.intp], p: NDArray[np.float64]) -> NDArray[np.intp]:
    """How many classes come before the true one; of equal probabilities the first, as argmax has it."""
    own = p[np.arange(len(p)), codes][:, None]
    before = np.arange(p.shape[1])[None] < codes[:, None]
    return np.asarray(((p > own) | ((p == own) & before)).sum(axis=1), dtype=np.intp)
