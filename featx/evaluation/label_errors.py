"""Labels that may be wrong, suspected from probabilities of a model that did not learn from them."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import DatasetError

__all__ = ["Suspects", "is_guessing", "suspect_labels"]

_MARGIN = 1e-6
"""A probability this far below a threshold still reaches it, as cleanlab has it: both are rounded."""

Codes = NDArray[np.intp]


class Suspects(NamedTuple):
    """Rows whose label is suspected to be wrong.

    Parameters
    ----------
    rows : ndarray of int, (m,)
        The most suspect first.
    method : str
        What found them.
    checked : int
        Rows that were looked at: those with a probability of every class.
    contradicted : int
        Those whose most probable class is another than their label; suspects are some of them.
    """

    rows: NDArray[np.intp]
    method: str
    checked: int
    contradicted: int


def suspect_labels(labels: ArrayLike, probabilities: ArrayLike) -> Suspects:
    """Find rows whose label is confidently contradicted, by confident learning.

    The threshold of a class is the mean probability of it among the rows that are labelled so. Rows that
    reach the threshold of a class count for it (of several, for the most probable): so many of each label are
    confidently of each other class. Scaled up to all rows, these counts say how many rows of each label to
    suspect for each other class, and those are taken for which that class is ahead of the label by most, if
    the label is not the most probable class (in the paper: pruning by noise rate). Ranked by the normalised
    margin, the probability of the label less that of the most probable other class; among equals, in their
    own order.

    With cleanlab installed (the extra ``audit``) its ``find_label_issues`` is asked; otherwise the same is
    computed here.

    Parameters
    ----------
    labels : array-like of int, (n,)
        Column of each row's label.
    probabilities : array-like of float, (n, classes)
        From a model that was not fitted on the row; rows with NaN are not looked at.

    Returns
    -------
    Suspects

    Raises
    ------
    DatasetError
        If the shapes do not fit.

    Source
    ------
    Northcutt, Jiang, Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset Labels, Journal
    of Artificial Intelligence Research 70.

    Examples
    --------
    >>> p = [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.05, 0.95]]
    >>> suspect_labels([0, 0, 1, 1, 0], p).rows
    array([4])
    """
    codes, p = np.asarray(labels), np.asarray(probabilities, np.float64)
    if codes.ndim != 1 or p.ndim != 2 or len(codes) != len(p):
        raise DatasetError(
            f"There are labels of shape {codes.shape} and probabilities of shape {p.shape}: give one label "
            "and one row of probabilities for each image."
        )
    rows = np.flatnonzero(~np.isnan(p).any(axis=1))
    codes, p = codes[rows], p[rows]
    # One class cannot be contradicted.
    several = len(np.unique(codes)) > 1
    suspect, method = (
        _suspect(codes, p) if several else (np.zeros(len(codes), np.bool_), "confident learning")
    )
    found = np.flatnonzero(suspect)
    by_margin = np.argsort(_margins(codes[found], p[found]), kind="stable")
    contradicted = int((p.argmax(axis=1) != codes).sum())
    return Suspects(rows[found[by_margin]], method, len(rows), contradicted)


def is_guessing(labels: ArrayLike, probabilities: ArrayLike) -> bool:
    """Say whether a model's balanced accuracy cannot be told from chance: then it contradicts at random.

    The lower end of its 95 % interval, from recalls with Agresti and Coull's pseudo-counts, is compared with
    one over the number of classes. Confident learning takes the mean probability of a class for confidence,
    even where that is chance, and suspects two of three labels of features that say nothing.

    Parameters
    ----------
    labels, probabilities : array-like
        As for :func:`suspect_labels`.

    Examples
    --------
    >>> labels = [0, 1] * 20
    >>> is_guessing(labels, [[0.6, 0.4]] * 40), is_guessing(labels, [[0.6, 0.4], [0.3, 0.7]] * 20)
    (True, False)
    """
    codes, p = np.asarray(labels), np.asarray(probabilities, np.float64)
    known = ~np.isnan(p).any(axis=1)
    codes, p = codes[known], p[known]
    counts = np.bincount(codes, minlength=p.shape[1])
    right = np.bincount(codes[p.argmax(axis=1) == codes], minlength=p.shape[1])
    counts, right = counts[counts > 0], right[counts > 0]
    if len(counts) < 2:
        return True
    recalls = (right + 2) / (counts + 4)
    error = np.sqrt((recalls * (1 - recalls) / (counts + 4)).sum()) / len(counts)
    return bool((right / counts).mean() - 1.96 * error <= 1 / len(counts))


def _suspect(codes: Codes, p: NDArray[np.float64]) -> tuple[NDArray[np.bool_], str]:
    try:
        # Late: it loads pandas.
        from cleanlab.filter import find_label_issues
    except ImportError:
        return _prune_by_noise_rate(codes, p), "confident learning"
    with warnings.catch_warnings():
        # Of a class with one row, which is left alone.
        warnings.filterwarnings("ignore", message="May not flag all label issues in class")
        # One process: more take longer to start than this takes.
        found = find_label_issues(codes, p, filter_by="prune_by_noise_rate", n_jobs=1)
    return np.asarray(found, np.bool_), f"confident learning (cleanlab {version('cleanlab')})"


def _prune_by_noise_rate(codes: Codes, p: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which rows are suspect, as cleanlab 2.9 does."""
    numbers = _expected_errors(codes, p)
    suspect = np.zeros(len(codes), np.bool_)
    for label, other in zip(*np.nonzero(numbers), strict=True):
        rows = np.flatnonzero(codes == label)
        if label != other and len(rows) > 1:
            ahead = np.argsort(p[rows, label] - p[rows, other], kind="stable")
            suspect[rows[ahead[: numbers[label, other]]]] = True
    nudged = p.copy()
    nudged[np.arange(len(p)), codes] += _MARGIN
    return np.asarray(suspect & (nudged.argmax(axis=1) != codes))


def _expected_errors(codes: Codes, p: NDArray[np.float64]) -> NDArray[np.int64]:
    """Estimate how many rows of each label (rows) are of each class (columns): the calibrated joint."""
    k = p.shape[1]
    counts = np.bincount(codes, minlength=k)
    own = np.bincount(codes, weights=p[np.arange(len(p)), codes], minlength=k)
    # A class without rows has no threshold that could be reached.
    thresholds = np.divide(own, counts, out=np.full(k, 2.0), where=counts > 0)
    confident = p >= np.maximum(thresholds, 2 * _MARGIN) - _MARGIN
    n_confident = confident.sum(axis=1)
    guess = np.where(n_confident > 1, p.argmax(axis=1), confident.argmax(axis=1))
    # Columns lie together, as in cleanlab: a sum in another order differs by a bit, and halves are rounded.
    joint = np.zeros((k, k), order="F")
    np.add.at(joint, (codes[n_confident > 0], guess[n_confident > 0]), 1)
    np.fill_diagonal(joint, joint.diagonal().clip(min=1))
    scaled = (joint.T / joint.sum(axis=1) * counts).T
    numbers = np.array([_rounded(row) for row in scaled / scaled.sum() * len(codes)])
    # One row of each label is right; what that takes is taken from the errors of the label.
    lacking = np.maximum(1 - numbers.diagonal(), 0)
    several = np.maximum(np.count_nonzero(numbers, axis=1) - 1, 1)
    left = np.asarray(np.maximum(numbers - (lacking / several)[:, None], 0), np.int64)
    np.fill_diagonal(left, numbers.diagonal() + lacking)
    return left


def _rounded(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round to integers of the same sum: where it is off, those that were rounded most give way.

    Examples
    --------
    >>> _rounded(np.array([1.4, 2.4, 3.2])).tolist()
    [1, 3, 3]
    """
    rounded = values.round()
    while (off := round(values.sum().round() - rounded.sum())) != 0:
        step = 1 if off > 0 else -1
        rounded[np.argsort(values - rounded)[::-step][: abs(off)]] += step
    return np.asarray(rounded, np.int64)


def _margins(codes: Codes, p: NDArray[np.float64]) -> NDArray[np.float64]:
    others = p.copy()
    others[np.arange(len(p)), codes] = -np.inf
    margins: NDArray[np.float64] = p[np.arange(len(p)), codes] - others.max(axis=1)
    return margins
