"""Whether test images can be told from training images, which those of one source cannot."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from scipy.stats import mannwhitneyu
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from featx.errors import DatasetError
from featx.evaluation.metrics import evaluate

__all__ = ["Shift", "draw_parts", "measure_shift"]

MOST_ROWS = 500
"""Rows of each part that are looked at, at most: 0.1 s with 1280 dimensions."""

FEWEST_ROWS = 40
"""Rows of each part below which nothing is measured: an AUC would be told to ± 0.2 or worse."""

FEWEST_OF_CLASS = 10
"""Rows of each part below which a class has no area of its own."""

_C = 1e-3
"""Strong enough a penalty for fewer rows than dimensions; the AUC is the same from 1e-3 to 1e-2."""

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Shift:
    """How well test images are told from training images of the same classes.

    Parameters
    ----------
    auc, low, high : float
        Area under the ROC curve of a classifier that tells them apart, on images that it was not fitted
        on, and its 95 % interval; 0.5 is chance.
    p_value : float
        One-sided, that test images do not score higher (Mann and Whitney); a group counts once.
    scored : int
        Images that the area is of.
    classes : dict of str to float
        The area within each class of at least ten images a part.
    """

    auc: float
    low: float
    high: float
    p_value: float
    scored: int
    classes: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)


def draw_parts(
    train: ArrayLike, test: ArrayLike, *, seed: int = 0, most: int = MOST_ROWS
) -> tuple[Rows, Rows]:
    """Draw as many rows of each class from training as from the test.

    So that parts with other shares of the classes are not told apart by these.

    Parameters
    ----------
    train, test : array-like of shape (n_train,), (n_test,)
        Labels.
    seed : int, default=0
    most : int, default=500
        Rows of each part, at most.

    Returns
    -------
    tuple of two ndarrays of int
        Positions in ``train`` and in ``test``, ascending.

    Examples
    --------
    >>> [len(rows) for rows in draw_parts(["a"] * 8 + ["b"] * 2, ["a"] * 3 + ["b"] * 3)]
    [5, 5]
    """
    labels, tested = np.asarray(train), np.asarray(test)
    rng = np.random.default_rng(seed)
    share = min(1.0, most / max(len(tested), 1))
    first: list[Rows] = []
    second: list[Rows] = []
    for label in np.unique(tested):
        own, other = np.flatnonzero(labels == label), np.flatnonzero(tested == label)
        count = min(len(own), max(1, int(share * len(other))))
        first.append(rng.choice(own, count, replace=False))
        second.append(rng.choice(other, count, replace=False))
    empty = np.empty(0, np.intp)
    return np.sort(np.concatenate([empty, *first])), np.sort(np.concatenate([empty, *second]))


def measure_shift(
    train: ArrayLike,
    test: ArrayLike,
    train_labels: ArrayLike,
    test_labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Shift | None:
    """Let a logistic regression tell test from training rows, and say how well it does.

    A classifier two-sample test: if both parts were drawn from one source, no classifier could do better
    than chance on rows that it did not learn from. It is fitted on one half and scored on the other: scores
    of several folds depend on each other, and their p-values are too small (of 100 draws from one source,
    10 were below 0.05).

    Parameters
    ----------
    train, test : array-like of shape (n_train, d), (n_test, d)
        Embeddings, of as many rows in each class: see :func:`draw_parts`.
    train_labels, test_labels : array-like of shape (n_train,), (n_test,)
    groups : array-like of shape (n_train + n_test,), optional
        What is not independent; kept whole.
    seed : int, default=0
        For the halves.

    Returns
    -------
    Shift or None
        None with fewer than 40 rows of a part, or groups too few for two halves of both parts.

    Raises
    ------
    DatasetError
        If the shapes do not fit.

    Source
    ------
    Lopez-Paz and Oquab 2017, Revisiting Classifier Two-Sample Tests, ICLR (arXiv:1610.06545).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> train, test = rng.normal(size=(50, 4)), rng.normal(3, size=(50, 4))
    >>> measure_shift(train, test, ["a"] * 50, ["a"] * 50).auc > 0.9
    True
    """
    one, other = np.asarray(train, np.float32), np.asarray(test, np.float32)
    labels = np.concatenate([np.asarray(train_labels, np.str_), np.asarray(test_labels, np.str_)])
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise DatasetError(
            f"The parts have shapes {one.shape} and {other.shape}: give rows of as many dimensions."
        )
    if len(labels) != len(one) + len(other):
        raise DatasetError(
            f"There are {len(labels)} labels for {len(one) + len(other)} rows: give one for each."
        )
    if min(len(one), len(other)) < FEWEST_ROWS:
        return None
    X = np.concatenate([one, other])
    is_test = np.repeat([0, 1], [len(one), len(other)])
    units = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    halves = _halves(is_test, units, seed)
    if halves is None:
        return None
    fitted, scored = halves
    model = make_pipeline(StandardScaler(), LogisticRegression(C=_C, max_iter=1000, random_state=seed))
    with threadpool_limits(1):
        scores = model.fit(X[fitted], is_test[fitted]).decision_function(X[scored])
    p, truth, units = expit(scores), is_test[scored], None if units is None else units[scored]
    area = evaluate(truth, np.column_stack([1 - p, p]), [0, 1], groups=units)["roc_auc"]
    return Shift(
        auc=area.value,
        low=area.low,
        high=area.high,
        p_value=_p_value(scores, truth, units),
        scored=len(scored),
        classes=_by_class(labels[scored], truth, scores),
    )


def _halves(is_test: Rows, groups: Rows | None, seed: int) -> tuple[Rows, Rows] | None:
    """Give the rows to fit on and those to score, with whole groups; None if a half lacks a part."""
    if groups is None:
        splitter: Any = StratifiedKFold(2, shuffle=True, random_state=seed)
    elif len(np.unique(groups)) < 2:
        return None
    else:
        splitter = StratifiedGroupKFold(2, shuffle=True, random_state=seed)
    fitted, scored = next(splitter.split(is_test, is_test, groups))
    both = all(len(np.unique(is_test[half])) == 2 for half in (fitted, scored))
    return (fitted, scored) if both else None


def _p_value(scores: NDArray[np.float64], is_test: Rows, groups: Rows | None) -> float:
    """Compare the parts' scores; images of one group count once, by their mean."""
    tested = is_test == 1
    if groups is not None:
        units, members = np.unique(groups * 2 + is_test, return_inverse=True)
        scores = np.bincount(members, weights=scores) / np.bincount(members)
        tested = units % 2 == 1
    return float(mannwhitneyu(scores[tested], scores[~tested], alternative="greater").pvalue)


def _by_class(labels: NDArray[np.str_], is_test: Rows, scores: NDArray[np.float64]) -> dict[str, float]:
    areas = {}
    for label in np.unique(labels):
        own = labels == label
        if min(np.bincount(is_test[own], minlength=2)) >= FEWEST_OF_CLASS:
            areas[str(label)] = float(roc_auc_score(is_test[own], scores[own]))
    return areas
