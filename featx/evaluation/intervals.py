"""How sure a score is: intervals for proportions and for anything that can be resampled."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from featx.records import Score

__all__ = ["bootstrap", "interval_caution", "percentiles", "resampled_sums", "wilson"]

RESAMPLES = 2000
"""Default number of bootstrap resamples."""

_CHUNK_BYTES = 64 * 2**20


def wilson(k: int, n: int, confidence: float = 0.95) -> Score:
    """Interval of a proportion of independent trials.

    Parameters
    ----------
    k, n : int
        Successes and trials.
    confidence : float, default=0.95
        Share of such intervals that cover the truth.

    Returns
    -------
    Score
        ``k / n`` and its bounds.

    Raises
    ------
    ValueError
        If not 0 ≤ k ≤ n and n ≥ 1.

    Source
    ------
    Wilson 1927, Probable inference, the law of succession, and statistical inference, Journal of the
    American Statistical Association 22:209–212; without continuity correction, as recommended by
    Brown, Cai and DasGupta 2001, Interval estimation for a binomial proportion.

    Examples
    --------
    >>> score = wilson(81, 263)
    >>> round(score.low, 4), round(score.high, 4)
    (0.2553, 0.3662)
    """
    if n < 1 or not 0 <= k <= n:
        raise ValueError(f"{k} successes of {n} trials: expected 0 ≤ k ≤ n and n ≥ 1.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = k / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At k = 0 and k = n one bound is the share itself; rounding must not put it on the wrong side.
    low = 0.0 if k == 0 else max(0.0, centre - half)
    high = 1.0 if k == n else min(1.0, centre + half)
    return Score(share, low, high)


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
        images or groups, or near a bound: see :func:`interval_caution`.

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
    units = _sum_by_group(contributions, groups)
    n_units, width = units.shape
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK_BYTES // (16 * n_units))
    sums = np.empty((resamples, width))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = generator.integers(n_units, size=(count, n_units))
        drawn += np.arange(count)[:, None] * n_units
        # How often each unit was drawn turns resampling into one product.
        weights = np.bincount(drawn.ravel(), minlength=count * n_units).reshape(count, n_units)
        sums[start : start + count] = (units.T @ weights.T.astype(np.float64)).T
    return sums


def _sum_by_group(contributions: Any, groups: ArrayLike | None) -> Any:
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


def interval_caution(n: int, errors: int, n_groups: int | None = None) -> str | None:
    """Say why a bootstrap interval is too narrow, or None where it can be trusted.

    Parameters
    ----------
    n, errors : int
        Test images, and how many of them are wrong.
    n_groups : int, optional
        Groups among the test images, if whole groups were drawn.

    Source
    ------
    Simulation: the percentile bootstrap covers 80 % at n = 153 and accuracy 0.98 (3 errors
    expected), and 90 % with 10 groups, where it should cover 95 %.

    Examples
    --------
    >>> interval_caution(153, 2)
    'only 2 of 153 test images are wrong: bootstrap intervals are too narrow'
    >>> interval_caution(500, 60)
    """
    if n_groups is not None and n_groups < 40:
        return f"only {n_groups} groups in the test: bootstrap intervals are too narrow"
    if min(errors, n - errors) < 10:
        kind, count = ("wrong", errors) if errors <= n - errors else ("right", n - errors)
        return f"only {count} of {n} test images are {kind}: bootstrap intervals are too narrow"
    return None
