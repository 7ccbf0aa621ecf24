"""Is one row really better than another? Paired, on the same test images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import DatasetError
from featx.evaluation.intervals import RESAMPLES, percentiles, resampled_sums
from featx.records import Comparison

__all__ = ["compare", "holm", "mcnemar", "sign_flip"]

FLIPS = 10_000
"""Random sign flips of the paired test of groups; the smallest p-value is 1 / (FLIPS + 1)."""


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value that two classifiers are equally often right.

    Parameters
    ----------
    only_a, only_b : int
        Images that only the one, and only the other, classifies rightly.

    Returns
    -------
    float
        Twice the smaller binomial tail with probability one half, at most 1.

    Source
    ------
    McNemar 1947, Note on the sampling error of the difference between correlated proportions;
    exact, as in Edwards 1948 and Fagerland, Lydersen and Laake 2013.

    Examples
    --------
    >>> round(mcnemar(2, 10), 4)
    0.0386
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    term = tail = 1
    for i in range(1, fewer + 1):
        term = term * (n - i + 1) // i
        tail += term
    return float(min(1.0, 2 * tail / 2**n))


def sign_flip(differences: ArrayLike, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p-value that independent units differ by 0 in the mean, by flipping their signs.

    With one image a unit this is McNemar's test; with whole groups it allows for images of a group
    that are right and wrong together.

    Parameters
    ----------
    differences : array-like of shape (units,)
        Sum of the differences of each unit.
    flips, seed : int
        Number of random flips, and where they start.

    Source
    ------
    Fisher 1935, The design of experiments, section 21; the p-value counts the observed signs as one
    of the flips, Phipson and Smyth 2010.
    """
    units = np.asarray(differences, dtype=np.float64)
    units = units[units != 0]
    if not len(units):
        return 1.0
    generator = np.random.default_rng(seed)
    observed = abs(units.sum()) - 1e-9
    extreme = 0
    step = max(1, 2**24 // len(units))
    for start in range(0, flips, step):
        signs = generator.integers(2, size=(min(step, flips - start), len(units)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ units) >= observed).sum())
    return (1 + extreme) / (1 + flips)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, so that the chance of any false alarm is kept.

    Source
    ------
    Holm 1979, A simple sequentially rejective multiple test procedure.

    Examples
    --------
    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def compare(
    predictions: Sequence[ArrayLike],
    y_true: ArrayLike,
    best: int,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[Comparison, ...]:
    """Compare the winner with every other row on the same test images.

    Parameters
    ----------
    predictions : sequence of array-like of shape (n,)
        Labels, or class numbers, that each row predicts.
    y_true : array-like of shape (n,)
        The truth, in the same terms.
    best : int
        The row that the others are compared with.
    groups : array-like of shape (n,), optional
        What is not independent; whole groups are then drawn and flipped.
    seed, resamples : int
        Of the bootstrap.

    Returns
    -------
    tuple of Comparison
        ``a`` is ``best``, ``b`` each other row in turn; the difference of their accuracies with its
        paired 95 % bootstrap interval, and the p-value of this one test (McNemar's exact test; sign
        flips for groups). Whoever reads several together corrects them with :func:`holm`.

    Raises
    ------
    DatasetError
        If the lengths differ, or there is no row ``best``.

    Examples
    --------
    >>> (row,) = compare([[0, 1, 1, 1], [0, 1, 0, 0]], [0, 1, 1, 1], best=0)
    >>> row.a, row.b, row.difference, row.p_value
    (0, 1, 0.5, 0.5)
    """
    truth = np.asarray(y_true)
    labels = [np.asarray(row) for row in predictions]
    if not 0 <= best < len(labels):
        raise DatasetError(f"There is no row {best} among {len(labels)}: give one of them.")
    for index, row in enumerate(labels):
        if row.shape != truth.shape or not len(truth):
            raise DatasetError(
                f"Row {index} predicts {row.shape} images and the truth has {truth.shape}: compare rows on "
                f"the same "
                "test images."
            )
    others = [index for index in range(len(labels)) if index != best]
    if not others:
        return ()
    right = np.array([row == truth for row in labels], dtype=np.int8)
    differences = (right[best] - right[others]).T
    sums = resampled_sums(_with_ones(differences), groups, resamples, seed)
    shares = sums[:, :-1] / sums[:, -1:]
    p_values = [_p_value(differences[:, at], groups, seed) for at in range(len(others))]
    return tuple(
        Comparison(best, other, float(differences[:, at].mean()), *percentiles(shares[:, at]), p_values[at])
        for at, other in enumerate(others)
    )


def _with_ones(differences: NDArray[np.int8]) -> NDArray[np.float64]:
    return np.column_stack([differences, np.ones(len(differences))]).astype(np.float64)


def _p_value(difference: NDArray[np.int8], groups: ArrayLike | None, seed: int) -> float:
    if groups is None:
        return mcnemar(int((difference > 0).sum()), int((difference < 0).sum()))
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    return sign_flip(np.bincount(codes, weights=difference), seed=seed)
