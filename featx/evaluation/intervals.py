"""How sure a score is: intervals for proportions, and for what behaves like one."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv, stdtrit

from featx.outcomes import Score

__all__ = ["effective_wilson", "interval_caution", "proportion", "student", "wilson"]


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
    Brown, Cai and DasGupta 2001, Interval estimation for a binomial proportion. Within a trial or so of
    0 or n it covers as little as 84 %: see :func:`proportion`.

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


def proportion(k: int, n: int) -> Score:
    """Wilson's 95 % interval, mended where hardly any trial, or nearly every one, succeeds.

    Parameters
    ----------
    k, n : int
        Successes and trials.

    Returns
    -------
    Score
        As :func:`wilson`, but for 1 to 3 successes or failures the nearer bound is that of a Poisson
        count, which lies a little further out.

    Raises
    ------
    ValueError
        As for :func:`wilson`.

    Source
    ------
    Brown, Cai and DasGupta 2001, section 4.1.1, the modified Wilson interval.

    Examples
    --------
    >>> round(wilson(149, 150).high, 5), round(proportion(149, 150).high, 5)
    (0.99882, 0.99966)
    """
    score = wilson(k, n)
    if 2 * k < n:
        return Score(score.value, min(score.low, float(_poisson(k) / n)), score.high)
    return Score(score.value, score.low, max(score.high, float(1 - _poisson(n - k) / n)))


def _poisson(count: ArrayLike) -> NDArray[np.float64]:
    """Mean with which a Poisson count reaches ``count`` 5 % of the time; infinite beyond 3, 0 for none."""
    some = np.asarray(count, dtype=np.float64)
    # A count that was computed can be 3 and a rounding error.
    return np.where(
        some > 3 + 1e-6, np.inf, np.where(some > 0, gammaincinv(np.clip(some, 1e-3, 3), 0.05), 0.0)
    )


def student(units: ArrayLike, confidence: float = 0.95) -> NDArray[np.float64]:
    """Two-sided quantile of Student's t for the mean of so many independent units, for each number.

    Source
    ------
    Cameron and Miller 2015, A practitioner's guide to cluster-robust inference, section VI: one degree
    of freedom less than there are groups.

    Examples
    --------
    >>> student([10, 500]).round(3).tolist()
    [2.262, 1.965]
    """
    freedom = np.maximum(np.asarray(units, dtype=np.float64) - 1, 1)
    return np.asarray(stdtrit(freedom, 0.5 + confidence / 2), dtype=np.float64)


def effective_wilson(
    value: ArrayLike,
    error: ArrayLike,
    quantile: ArrayLike,
    size: ArrayLike,
    *,
    strength: float = 0.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's interval for any score from 0 to 1 whose standard error is known.

    The score is taken for a proportion of the number of trials that would give it this error. Near 1,
    where few errors remain, such an interval is as skewed as it must be, which neither percentiles of
    a bootstrap nor value ± 2 errors are.

    Parameters
    ----------
    value, error : array-like of shape (m,)
        The scores and their standard errors.
    quantile : array-like of shape (m,)
        How many standard errors: :func:`student`.
    size : array-like of shape (m,)
        Number of trials where the error says nothing, since it is 0.
    strength : float, default=0
        How many wrong trials the weight of ``size`` equals: with few of them, an estimated error is
        itself unsure and often much too small.

    Returns
    -------
    low, high : ndarray of shape (m,)

    Source
    ------
    Korn and Graubard 1998, Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data, Survey Methodology 24:193–201, for the effective size; Franco,
    Little, Louis and Slud 2019, Comparative study of confidence intervals for proportions in complex
    sample surveys, for Wilson's interval with it; near 0 and 1 mended as in :func:`proportion`.
    ``strength``, which takes the place of that, is our own: benchmarks/bench_coverage.py.

    Examples
    --------
    >>> low, high = effective_wilson(81 / 263, (81 * 182 / 263**3) ** 0.5, 1.96, 263)
    >>> round(float(low), 4), round(float(high), 4)
    (0.2553, 0.3662)
    """
    share, spread = np.asarray(value, dtype=np.float64), np.asarray(error, dtype=np.float64)
    share = np.clip(share, 0.0, 1.0)
    # The inverse of the number of trials: 0 errors, or a score of 0 or 1, must not divide.
    known = (spread > 1e-12) & (share > 0) & (share < 1)
    inverse = np.divide(spread**2, share * (1 - share), out=np.zeros_like(share), where=known)
    wrong = np.divide(1 - share, inverse, out=np.zeros_like(share), where=known)
    weight = wrong / (wrong + strength) if strength else known.astype(np.float64)
    weight = np.where(known, weight, 0.0)
    inverse = weight * inverse + (1 - weight) / np.asarray(size, dtype=np.float64)
    z2 = np.asarray(quantile, dtype=np.float64) ** 2 * inverse
    centre = (share + z2 / 2) / (1 + z2)
    half = np.sqrt(z2 * share * (1 - share) + z2 * z2 / 4) / (1 + z2)
    low, high = centre - half, centre + half
    if not strength:
        rare, common = _poisson(share / inverse) * inverse, 1 - _poisson((1 - share) / inverse) * inverse
        low = np.where(share < 0.5, np.minimum(low, rare), low)
        high = np.where(share < 0.5, high, np.maximum(high, common))
    # Rounding must not put a bound on the wrong side of the score.
    return np.clip(low, 0, share), np.clip(high, share, 1)


def interval_caution(n: int, errors: int, n_groups: int | None = None) -> str | None:
    """Say why the percentile bootstrap is too narrow, or None where it can be trusted.

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
