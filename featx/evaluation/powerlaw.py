"""How an error falls with the number of labels: an inverse power law with a floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import DatasetError

__all__ = ["PowerLaw", "fit_power_law"]

_EXPONENTS = np.geomspace(0.05, 2.0, 80)
"""Tried one by one; neighbours differ by 5 %, far below what any learning curve can tell."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Curves ``error(n) = asymptote + scale · (n / unit)^-exponent``, b of them.

    Parameters
    ----------
    asymptote, scale, exponent : ndarray of float64, (b,)
        Asymptote and scale are at least 0, so that no curve rises.
    unit : float
        The largest size that the curves were fitted to; ``scale`` is what an unlimited number of
        labels would still take off the error there.
    """

    asymptote: Numbers
    scale: Numbers
    exponent: Numbers
    unit: float

    def at(self, n: float) -> Numbers:
        """Errors at ``n`` labels, (b,)."""
        return np.asarray(self.asymptote + self.scale * (n / self.unit) ** -self.exponent, dtype=np.float64)


def fit_power_law(sizes: ArrayLike, errors: ArrayLike, weights: ArrayLike | None = None) -> PowerLaw:
    """Fit many curves of the same sizes by weighted least squares.

    For a given exponent the curve is linear in asymptote and scale, and their least squares under
    the bounds have a closed form; the exponent is searched on a grid. Thousands of bootstrap curves
    are so fitted at once, without a start that a solver could go wrong from.

    Parameters
    ----------
    sizes : array-like of shape (j,)
        Numbers of labels, at least three different ones.
    errors : array-like of shape (j,) or (b, j)
        Shares of errors, 0 to 1.
    weights : array-like of shape (j,), optional
        Default: the sizes, so that later points count for more.

    Returns
    -------
    PowerLaw

    Raises
    ------
    DatasetError
        If there are fewer than three sizes, or the shapes do not fit.

    Source
    ------
    Cortes, Jackel, Solla, Vapnik and Denker 1994, Learning curves: asymptotic values and rate of
    convergence (NIPS 6); weights as in Figueroa, Zeng-Treitler, Kandula and Ngo 2012, Predicting
    sample size required for classification performance, BMC Medical Informatics and Decision Making
    12:8; linear parameters eliminated as in Golub and Pereyra 1973.

    Examples
    --------
    >>> import numpy as np
    >>> n = np.array([10, 20, 40, 80, 160, 320])
    >>> law = fit_power_law(n, 0.05 + 0.8 * n**-0.5)
    >>> round(float(law.asymptote[0]), 2), round(float(law.exponent[0]), 1), round(float(law.at(640)[0]), 3)
    (0.05, 0.5, 0.081)
    """
    n = np.asarray(sizes, dtype=np.float64)
    e = np.atleast_2d(np.asarray(errors, dtype=np.float64))
    w = n if weights is None else np.asarray(weights, dtype=np.float64)
    if len(np.unique(n)) < 3 or e.shape[1:] != n.shape or w.shape != n.shape:
        raise DatasetError(
            f"There are sizes of shape {n.shape}, errors {e.shape} and weights {w.shape}: give at least "
            "three different sizes, and one error and one weight for each."
        )
    unit = float(n.max())
    w = w / w.sum()
    best = np.full(len(e), np.inf)
    chosen = np.zeros((3, len(e)))
    for exponent in _EXPONENTS:
        x = (n / unit) ** -exponent
        asymptote, scale = _non_negative(x, e, w)
        loss = ((e - asymptote[:, None] - scale[:, None] * x) ** 2) @ w
        better = loss < best
        best[better] = loss[better]
        chosen[:, better] = asymptote[better], scale[better], np.full(int(better.sum()), exponent)
    return PowerLaw(chosen[0], chosen[1], chosen[2], unit)


def _non_negative(x: Numbers, e: Numbers, w: Numbers) -> tuple[Numbers, Numbers]:
    """Least squares of ``e ≈ a + b·x`` with both at least 0; weights sum to 1, errors are not negative."""
    mean_x, mean_e = float(w @ x), e @ w
    slope = (e @ (w * x) - mean_x * mean_e) / (float(w @ x**2) - mean_x**2)
    slope = np.maximum(slope, 0.0)
    level = mean_e - slope * mean_x
    through_zero = (e @ (w * x)) / float(w @ x**2)
    return np.maximum(level, 0.0), np.where(level < 0, through_zero, slope)
