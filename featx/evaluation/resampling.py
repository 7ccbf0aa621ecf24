"""Bootstrap: what scores would have been on test sets that were drawn again, whole groups at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from featx.evaluation.intervals import student
from featx.outcomes import Score

__all__ = ["bootstrap", "bootstrap_t", "percentiles", "resampled_sums", "sum_by_group"]

RESAMPLES = 2000
"""Default number of bootstrap resamples."""

_CHUNK_BYTES = 64 * 2**20

_KEPT_BYTES = 16 * 2**20


def bootstrap(
    contributions: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    groups: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Score:
    """Percentile interval of a statistic of summed contributions.

    Parameters
    ----------
    contributions : array-like of shape (n, m)
        What each image adds: ``statistic`` sees their column sums.
    statistic : callable
        From sums of shape (resamples, m) to values of shape (resamples,).
    groups : array-like of shape (n,), optional
        Whole groups are drawn; default: single images.
    resamples : int, default=2000
        Number of resamples.
    seed : int, default=0
        For the draws.
    confidence : float, default=0.95
        Share of such intervals that should cover the truth.

    Returns
    -------
    Score
        The statistic of all images, and the percentiles of the resamples. Too narrow with few
        images or groups, or near a bound: see
        :func:`~featx.evaluation.interval_caution`.

    Source
    ------
    Efron and Tibshirani 1993, An introduction to the bootstrap, chapter 13; whole clusters as in
    Davison and Hinkley 1997, section 3.8.

    Examples
    --------
    >>> import numpy as np
    >>> hits = np.repeat([1.0, 0.0], [80, 20])
    >>> ones = np.ones(100)
    >>> score = bootstrap(np.column_stack([hits, ones]), lambda sums: sums[:, 0] / sums[:, 1])
    >>> score.value, 0.70 < score.low < 0.75, 0.85 < score.high < 0.90
    (0.8, True, True)
    """
    rows = np.asarray(contributions, dtype=np.float64)
    sums = resampled_sums(rows, groups, resamples, seed)
    value = float(statistic(rows.sum(axis=0, keepdims=True))[0])
    low, high = percentiles(statistic(sums), confidence)
    return Score(value, low, high)


def bootstrap_t(totals: NDArray[np.float64], sizes: NDArray[np.float64], sums: NDArray[np.float64]) -> Score:
    """Interval of the mean of something skewed, such as a loss: how far means are off in their own errors.

    Parameters
    ----------
    totals, sizes : ndarray of shape (units,)
        Sum over each unit's images, and how many they are.
    sums : ndarray of shape (resamples, 5)
        Of each resample: totals, sizes, totals², totals · sizes, sizes².

    Returns
    -------
    Score
        The mean over all images; not narrower than Student's interval on either side.

    Source
    ------
    Efron and Tibshirani 1993, chapter 12; the error of a ratio of sums as in Cochran 1977, Sampling
    techniques, section 2.11.

    Examples
    --------
    >>> loss, ones = np.linspace(0, 1, 100) ** 4, np.ones(100)
    >>> drawn = resampled_sums(np.column_stack([loss, ones, loss**2, loss, ones]))
    >>> score = bootstrap_t(loss, ones, drawn)
    >>> score.high - score.value > score.value - score.low
    True
    """
    units = len(totals)
    whole = [totals.sum(), sizes.sum(), (totals**2).sum(), (totals * sizes).sum(), (sizes**2).sum()]
    means, errors = _mean_and_error(np.vstack([whole, sums]), units)
    value, error = float(means[0]), float(errors[0])
    if not error > 1e-9 * abs(value):
        return Score(value, value, value)
    # A resample of equal units has no error, and says nothing of how far it is off.
    off = np.divide(
        means[1:] - value, errors[1:], out=np.zeros(len(sums)), where=errors[1:] > 1e-9 * abs(value)
    )
    below, above = percentiles(off)
    half = float(student(units))
    low, high = value - max(above, half) * error, value - min(below, -half) * error
    return Score(value, max(0.0, low) if totals.min() >= 0 else low, high)


def _mean_and_error(sums: NDArray[np.float64], units: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of each row of sums, and its standard error from the spread of the units."""
    total, size, squares, products, sizes2 = sums.T
    mean = total / size
    spread = np.maximum(squares - 2 * mean * products + mean**2 * sizes2, 0.0)
    return mean, np.sqrt(spread * units / max(units - 1, 1)) / size


def resampled_sums(
    contributions: Any,
    groups: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Column sums of each resample, shape (resamples, m).

    Parameters
    ----------
    contributions : ndarray or scipy.sparse array of shape (n, m)
        What each image adds.
    groups : array-like of shape (n,), optional
        Whole groups are drawn.
    resamples, seed : int
        Number of resamples, and where the draws start.

    Source
    ------
    Efron 1979, Bootstrap methods: another look at the jackknife.
    """
    units = sum_by_group(contributions, groups)
    n_units, width = units.shape
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK_BYTES // (16 * n_units))
    if resamples <= step and 8 * resamples * n_units <= _KEPT_BYTES:
        return np.asarray((units.T @ _kept_weights(n_units, resamples, seed)).T)
    sums = np.empty((resamples, width))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        sums[start : start + count] = (units.T @ _weights(generator, n_units, count)).T
    return sums


def _weights(generator: np.random.Generator, n_units: int, count: int) -> NDArray[np.float64]:
    """How often each unit was drawn, shape (n_units, count): it turns resampling into one product."""
    drawn = generator.integers(n_units, size=(count, n_units))
    drawn += np.arange(count)[:, None] * n_units
    weights = np.bincount(drawn.ravel(), minlength=count * n_units).reshape(count, n_units)
    return weights.T.astype(np.float64)


@lru_cache(maxsize=4)
def _kept_weights(n_units: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """Keep the draws: every row of a run is scored with the same ones."""
    weights = _weights(np.random.default_rng(seed), n_units, resamples)
    weights.setflags(write=False)
    return weights


def sum_by_group(contributions: Any, groups: ArrayLike | None) -> Any:
    """Add up the rows of each group, shape (groups, m); without groups every image stands for itself."""
    if groups is None:
        return contributions
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    n = len(codes)
    members = csr_array((np.ones(n), (codes, np.arange(n))), shape=(int(codes.max()) + 1, n))
    return members @ contributions


def percentiles(values: NDArray[Any], confidence: float = 0.95) -> tuple[float, float]:
    """Return the bounds of the central ``confidence`` of the values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
