"""Do probabilities mean what they say? The expected calibration error, and how much of it is noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from featx.evaluation.intervals import student
from featx.evaluation.resampling import sum_by_group
from featx.outcomes import Score

__all__ = ["BINS", "expected_calibration_error"]

BINS = 15
"""Bins of equal width, Guo et al. 2017."""


def expected_calibration_error(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], groups: ArrayLike | None = None
) -> Score:
    """Mean gap between the probability of the predicted class and how often it is right, by bin.

    Parameters
    ----------
    confidence : ndarray of float, shape (n,)
        Probability of the predicted class.
    right : ndarray of bool, shape (n,)
        Whether it is the true one.
    groups : array-like of shape (n,), optional
        What is not independent.

    Returns
    -------
    Score
        The usual estimate, which is too high: noise in a bin counts as a gap, so that 150 images of a
        perfectly calibrated model give about 0.05. The interval allows for that by reaching down to
        what remains when each bin's share of noise is taken away; how much that is cannot be known
        where gap and noise are alike, so it covers the truth in 87 to 100 % of simulated sets, and is
        never called reliable. The percentile bootstrap, which adds noise to noise, hardly ever covers
        it where probabilities are calibrated.

    Source
    ------
    Guo, Pleiss, Sun and Weinberger 2017, On calibration of modern neural networks, equation 3; the bias:
    Bröcker 2012, Estimating reliability and resolution of probability forecasts; Roelofs et al. 2022,
    Mitigating bias in calibration error estimation.

    Examples
    --------
    >>> right = np.repeat([True, False], [80, 20])
    >>> round(expected_calibration_error(np.full(100, 0.9), right).value, 3)
    0.1
    """
    n = len(confidence)
    # Bins are closed on the right, so that 1 is in the last.
    bins = np.clip(np.ceil(confidence * BINS).astype(np.intp) - 1, 0, BINS - 1)
    gaps = np.zeros((n, BINS + 1))
    gaps[np.arange(n), bins] = right - confidence
    gaps[:, BINS] = 1
    sums = np.asarray(sum_by_group(gaps, groups))
    by_unit, counts = sums[:, :BINS] / n, sums[:, BINS] / n
    units = len(counts)
    gap = by_unit.sum(axis=0)
    noise = np.sqrt((by_unit**2).sum(axis=0))
    value = float(np.abs(gap).sum())
    influence = by_unit @ np.sign(gap) - value * counts
    error = float((influence**2).sum() * units / max(units - 1, 1)) ** 0.5
    # One-sided at either end: only one of the two bounds is in danger at a time.
    half = student(units, 0.9) * error
    low = float(value - _bias(np.abs(gap), noise, shrunk=1.0) - half)
    high = float(value - _bias(np.abs(gap), noise, shrunk=0.0) + half)
    return Score(value, min(max(0.0, low), value), min(max(high, value), 1.0), reliable=False)


def _bias(gap: NDArray[np.float64], noise: NDArray[np.float64], shrunk: float) -> float:
    """Excess of Σ E|N(μ, noise²)| over Σ μ, where μ is the gap less ``shrunk`` standard errors of it."""
    z = np.divide(gap, noise, out=np.zeros_like(gap), where=noise > 0)
    z = np.maximum(z - shrunk, 0.0)
    # Mean of the folded normal distribution, in units of the noise, less its centre.
    excess = np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) - 2 * z * ndtr(-z)
    return float((noise * excess).sum())
