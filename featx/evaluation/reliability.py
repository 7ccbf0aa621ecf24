"""Which intervals can be trusted: what simulations of their coverage showed.

An interval is called unreliable where it covers the truth less than 92 or more than 98 % of the time in
benchmarks/bench_coverage.py, whose results are in benchmarks/results/coverage.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from featx.outcomes import Score

__all__ = ["FEW_ERRORS", "MANY_GROUPS", "MANY_IN_CLASS", "flagged", "trusted_class"]

MANY_GROUPS = 40
"""With fewer groups in the test, no interval is called reliable."""

MANY_IN_CLASS = 20
"""With fewer images of a class, neither its scores nor means over classes have reliable intervals."""

MANY_GROUPS_OF_CLASS = 15
"""Nor with fewer groups that hold the class."""

FEW_ERRORS = 5
"""With fewer wrong images, the log loss hangs on losses that were not seen."""

BY_CLASS = frozenset(
    {"balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "roc_auc", "average_precision"}
)
"""Means over classes, in which the smallest weighs as much as the largest."""


def trusted_class(
    support: NDArray[np.float64], held: NDArray[np.float64] | None, units: int
) -> NDArray[np.bool_]:
    """Say of each class whether the intervals of its scores are reliable.

    Parameters
    ----------
    support : ndarray of shape (k,)
        Test images of each class.
    held : ndarray of shape (k,), or None
        How many groups hold each class; None without groups.
    units : int
        Number of images, or of groups.

    Examples
    --------
    >>> trusted_class(np.array([100.0, 12.0]), None, 112).tolist()
    [True, False]
    """
    enough = np.asarray(support >= MANY_IN_CLASS)
    if held is None:
        return enough
    return enough & (held >= MANY_GROUPS_OF_CLASS) & (units >= MANY_GROUPS)


def flagged(
    scores: Mapping[str, Score],
    support: NDArray[np.float64],
    held: NDArray[np.float64] | None,
    units: int,
    *,
    errors: int,
) -> dict[str, Score]:
    """Mark the scores whose intervals are unreliable.

    Parameters
    ----------
    scores : mapping of str to Score
    support, held, units
        As for :func:`trusted_class`.
    errors : int
        Test images that are wrong.

    Returns
    -------
    dict of str to Score

    Examples
    --------
    >>> score = Score(0.9, 0.8, 0.95)
    >>> marked = flagged({"accuracy": score, "f1_macro": score}, np.array([90.0, 10.0]), None, 100, errors=10)
    >>> [name for name, score in marked.items() if not score.reliable]
    ['f1_macro']
    """
    unreliable: set[str] = set()
    there = support > 0
    if not trusted_class(support, held, units)[there].all():
        unreliable |= BY_CLASS
    if errors < FEW_ERRORS:
        unreliable.add("log_loss")
    if held is not None and units < MANY_GROUPS:
        unreliable |= scores.keys()
    return {
        name: replace(score, reliable=score.reliable and name not in unreliable)
        for name, score in scores.items()
    }
