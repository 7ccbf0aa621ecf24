"""Scores that follow from counts of truth, predictions and hits, with intervals from resampled counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.evaluation.intervals import effective_wilson, proportion, student
from featx.evaluation.reliability import trusted_class
from featx.outcomes import ClassScores, Score

__all__ = ["class_scores", "count_scores"]

Counts = NDArray[np.float64]
"""One row for the test and one for each resample; columns: how many images of each class there are, how
many were called so, how many of these rightly (k columns each), how many there are in all, and how many
have the true class among their first five."""


def count_scores(whole: Counts, resampled: Counts, units: int, *, grouped: bool) -> dict[str, Score]:
    """Accuracy, balanced accuracy, macro precision, recall and F1, and top-5 accuracy.

    Parameters
    ----------
    whole : ndarray of shape (3 k + 2,)
        Counts of the test, see :data:`Counts`.
    resampled : ndarray of shape (resamples, 3 k + 2)
        Counts of the resamples.
    units : int
        Images, or groups, that were drawn.
    grouped : bool
        Whether groups were drawn; proportions of single images have Wilson's own interval.

    Returns
    -------
    dict of str to Score

    Examples
    --------
    >>> whole = np.array([50, 50, 60, 40, 45, 35, 100, 100.0])
    >>> print(round(count_scores(whole, whole[None], 100, grouped=False)["recall_macro"].value, 6))
    0.8
    """
    k = (len(whole) - 2) // 3
    values = _macro(whole[None])
    drawn = _macro(resampled)
    # With no error at all, or with one in the largest class, the bootstrap cannot know of the smaller ones.
    support = whole[:k][whole[:k] > 0]
    stratified = min(units, len(support) ** 2 / (1 / support).sum())
    scores = {}
    for name, value in values.items():
        if not grouped and name in ("accuracy", "top_5_accuracy"):
            scores[name] = proportion(round(value[0] * whole[3 * k]), round(whole[3 * k]))
            continue
        size = units if name in ("accuracy", "top_5_accuracy") else stratified
        low, high = effective_wilson(value[0], _error(drawn[name], units), student(units), size)
        scores[name] = Score(float(value[0]), float(low), float(high))
    return scores


def class_scores(
    names: Sequence[str], whole: Counts, resampled: Counts, by_unit: Any, *, grouped: bool
) -> tuple[ClassScores, ...]:
    """Precision, recall and F1 of every class.

    Parameters
    ----------
    names : sequence of k str
        The classes.
    whole, resampled : ndarray
        As for :func:`count_scores`; further columns are not looked at.
    by_unit : scipy.sparse array of shape (units, 2 k)
        Images of each class, and those called so, in each unit.
    grouped : bool
        Whether the units are groups.

    Returns
    -------
    tuple of ClassScores
        Wilson's interval for precision and recall of ungrouped images, and his with the effective size
        from the bootstrap's standard error otherwise.
    """
    k, units = len(names), by_unit.shape[0]
    truth, said, right = (whole[i * k : (i + 1) * k] for i in range(3))
    drawn = [resampled[:, i * k : (i + 1) * k] for i in range(3)]
    # Only units that hold a class can tell of it.
    there = np.asarray((by_unit > 0).sum(axis=0), dtype=np.float64).ravel()
    of_class, of_name = there[:k], there[k:]
    ways = {
        "precision": (right, said, drawn[2], drawn[1], of_name),
        "recall": (right, truth, drawn[2], drawn[0], of_class),
        "f1": (2 * right, truth + said, 2 * drawn[2], drawn[0] + drawn[1], (of_class + of_name) / 2),
    }
    found: dict[str, list[Score]] = {}
    for name, (above, below, above_drawn, below_drawn, those) in ways.items():
        value, error = _ratio(above, below), _error_where(above_drawn, below_drawn, units)
        low, high = effective_wilson(value, error, student(those), np.maximum(those, 1))
        trusted = trusted_class(truth, of_class if grouped else None, units)
        found[name] = [
            Score(float(v), float(a), float(b), bool(t))
            for v, a, b, t in zip(value, low, high, trusted, strict=True)
        ]
    rows = []
    for c, name in enumerate(names):
        counts = int(truth[c]), int(right[c]), int(said[c])
        recall, precision = found["recall"][c], found["precision"][c]
        if not grouped and counts[0]:
            recall = replace(proportion(counts[1], counts[0]), reliable=recall.reliable)
        if not grouped and counts[2]:
            precision = replace(proportion(counts[1], counts[2]), reliable=precision.reliable)
        rows.append(
            ClassScores(
                name,
                *counts,
                precision=precision if counts[2] else None,
                recall=recall if counts[0] else None,
                f1=found["f1"][c] if counts[0] + counts[2] else None,
            )
        )
    return tuple(rows)


def _macro(counts: Counts) -> dict[str, Counts]:
    """Give every score of each row of counts."""
    k = (counts.shape[1] - 2) // 3
    truth, said, right, images = *(counts[:, i * k : (i + 1) * k] for i in range(3)), counts[:, 3 * k]
    recall, precision = _ratio(right, truth), _ratio(right, said)
    named = truth + said > 0
    return {
        "accuracy": right.sum(axis=1) / images,
        "balanced_accuracy": _mean_where(recall, truth > 0),
        "precision_macro": _mean_where(precision, named),
        "recall_macro": _mean_where(recall, named),
        "f1_macro": _mean_where(_ratio(2 * right, truth + said), named),
        "top_5_accuracy": counts[:, 3 * k + 1] / images,
    }


def _error(drawn: Counts, units: int) -> Counts:
    """Take the standard error from the resamples, which make it too small by one unit."""
    return np.asarray(drawn.std(axis=0) * (units / max(units - 1, 1)) ** 0.5)


def _error_where(above: Counts, below: Counts, units: int) -> Counts:
    """Take the standard error of each column's ratio from the resamples that have one."""
    there = below > 0
    drawn, count = _ratio(above, below), np.maximum(there.sum(axis=0), 1)
    mean = drawn.sum(axis=0) / count
    variance = ((drawn - mean) ** 2 * there).sum(axis=0) / count
    return np.asarray(np.sqrt(variance * units / max(units - 1, 1)))


def _ratio(above: Counts, below: Counts) -> Counts:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _mean_where(values: Counts, occurs: NDArray[np.bool_]) -> Counts:
    return np.asarray((values * occurs).sum(axis=1) / occurs.sum(axis=1), dtype=np.float64)
