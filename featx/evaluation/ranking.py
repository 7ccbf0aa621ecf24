"""Scores of the order in which images are ranked, with standard errors from one sort a class."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.evaluation.intervals import effective_wilson, student
from featx.evaluation.resampling import sum_by_group
from featx.outcomes import Score

__all__ = ["ranking_scores"]

STRENGTH = 0.5
"""Weight of the assumed size of :func:`~featx.evaluation.intervals.effective_wilson`, in wrong trials."""

Values = NDArray[np.float64]


def ranking_scores(codes: NDArray[np.intp], p: Values, groups: ArrayLike | None = None) -> dict[str, Score]:
    """Area under the ROC curve and average precision, each class against the rest, mean over classes.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        True class of each image; each of at least two classes occurs.
    p : ndarray of float, shape (n, k)
        Probabilities.
    groups : array-like of shape (n,), optional
        What is not independent.

    Returns
    -------
    dict of str to Score
        ``roc_auc`` and ``average_precision``; images of the same probability stand at one step, as
        scikit-learn has it. The intervals are Wilson's, with the effective size that the infinitesimal
        jackknife's variance gives (for the area nearly DeLong's; the limit of the bootstrap's for
        many resamples) and, where few pairs are in the wrong order, an assumed one.

    Source
    ------
    Efron 1982, The jackknife, the bootstrap and other resampling plans, chapter 6; DeLong, DeLong and
    Clarke-Pearson 1988, Comparing the areas under two or more correlated ROC curves; its sum over whole
    clusters: Obuchowski 1997, Nonparametric analysis of clustered ROC curve data. The assumed sizes are
    our own, chosen by simulation (benchmarks/bench_coverage.py): without them the intervals of nearly
    perfect rankings cover the truth 85 to 91 % of the time.

    Examples
    --------
    >>> p = np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.2, 0.8]])
    >>> scores = ranking_scores(np.array([0, 0, 1, 1]), p)
    >>> round(scores["roc_auc"].value, 4), round(scores["average_precision"].value, 4)
    (0.75, 0.8333)
    """
    n, k = p.shape
    areas, precisions = np.empty(k), np.empty(k)
    of_area, of_precision = np.zeros(n), np.zeros(n)
    for c in range(k):
        order = np.argsort(-p[:, c], kind="stable")
        positive = (codes[order] == c).astype(np.float64)
        # Everything of one probability is found at the same step: the first and last place of its run.
        starts = np.concatenate([[True], np.diff(p[order, c]) != 0])
        run = starts.cumsum() - 1
        first = np.flatnonzero(starts)[run]
        last = np.append(np.flatnonzero(starts)[1:], n)[run] - 1
        found, said = positive.cumsum()[last], last + 1.0
        n_positive = found[-1]
        n_negative = n - n_positive

        # The area is the share of (positive, negative) pairs in the right order, ties half. The component
        # of a positive is the share of negatives below it, of a negative that of positives above it.
        above = found - _in_run(positive, first, last) / 2
        false = (first + last + 1) / 2 - above
        component = np.where(positive > 0, 1 - false / n_negative, above / n_positive)
        areas[c] = (positive * component).sum() / n_positive
        of_area[order] += (component - areas[c]) / np.where(positive > 0, n_positive, n_negative)

        # With weights w, AP = Σ w found/said over the positives, by Σ w of them; an image counts in `said`
        # (a positive in `found` too) of every step from its own on.
        precisions[c] = (positive * found / said).sum() / n_positive
        gained = found / said + _from(positive / said, first) - precisions[c]
        of_precision[order] += (positive * gained - _from(positive * found / said**2, first)) / n_positive
    # One misplaced pair in one of k rankings weighs 1/k of it; precisions are less independent.
    return {
        "roc_auc": _score(areas.mean(), of_area / k, groups, size=k * n),
        "average_precision": _score(precisions.mean(), of_precision / k, groups, size=1.5 * n),
    }


def _from(steps: Values, first: NDArray[np.intp]) -> Values:
    """Sum of ``steps`` from the first of each image's run to the end."""
    return np.asarray(steps[::-1].cumsum()[::-1][first], dtype=np.float64)


def _in_run(positive: Values, first: NDArray[np.intp], last: NDArray[np.intp]) -> Values:
    """Positives in each image's run."""
    up_to = np.concatenate([[0.0], positive.cumsum()])
    return np.asarray(up_to[last + 1] - up_to[first], dtype=np.float64)


def _score(value: float, influence: Values, groups: ArrayLike | None, size: float) -> Score:
    sums = sum_by_group(influence[:, None], groups)[:, 0]
    units = len(sums)
    error = float((sums**2).sum() * units / max(units - 1, 1)) ** 0.5
    low, high = effective_wilson(value, error, student(units), size, strength=STRENGTH)
    return Score(float(value), float(low), float(high))
