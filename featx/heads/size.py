"""How many numbers a fitted head has learned."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV

__all__ = ["count_parameters", "threads_for"]

_COPIES = 6
"""The most that a fold holds, in sizes of the rows: measured, 4 for logistic regression."""

_USABLE = 0.8
"""Of the memory that is free."""


def threads_for(wanted: int, nbytes: int) -> int:
    """Take fewer threads where as many folds at once would not fit into the memory that is free.

    Parameters
    ----------
    wanted : int
        Threads that were asked for.
    nbytes : int
        Size of the rows, float32.
    """
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        # Not every system tells; nothing is known then.
        return wanted
    return max(1, min(wanted, int(free * _USABLE / (_COPIES * nbytes))))


def count_parameters(estimator: Any) -> int:
    """Count the learned numbers of the classifier inside; see :class:`~featx.heads.Tuned`.

    Examples
    --------
    >>> from featx.heads import find_head
    >>> count_parameters(find_head("logreg").build().fit([[0.0, 1.0], [1.0, 3.0]], ["a", "b"]))
    3
    """
    if isinstance(estimator, CalibratedClassifierCV):
        estimator = estimator.calibrated_classifiers_[0].estimator
    classifier = estimator[-1]
    if hasattr(classifier, "coefs_"):
        return sum(int(part.size) for part in (*classifier.coefs_, *classifier.intercepts_))
    if hasattr(classifier, "coef_"):
        return int(np.size(classifier.coef_) + np.size(classifier.intercept_))
    if hasattr(classifier, "support_vectors_"):
        learned = (classifier.support_vectors_, classifier.dual_coef_, classifier.intercept_)
        return sum(int(np.size(part)) for part in learned)
    if hasattr(classifier, "n_samples_fit_"):
        return int(classifier.n_samples_fit_ * classifier.n_features_in_)
    raise TypeError(f"No rule counts the parameters of a {type(classifier).__name__}.")
