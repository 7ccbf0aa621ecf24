"""Rounding to the stored dtype, and what it may cost: an embedding is never stored as something else."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from featx.errors import OverflowStoreError, StoreError

__all__ = ["MOST_LOST", "finite_rows", "round_rows", "share_lost"]

MOST_LOST = 0.01
"""Relative error of a row beyond which it is not stored; a normal float16 number is off by 2⁻¹¹ at most."""


def share_lost(rows: NDArray[np.floating[Any]], dtype: DTypeLike) -> NDArray[np.float64]:
    """Give the relative L2 error of each row when it is stored in ``dtype``.

    Parameters
    ----------
    rows : ndarray of float, (n, dim)
    dtype : dtype
        Such as float16, whose range ends at 65504 and whose smallest number is 6e-8.

    Returns
    -------
    ndarray of float64, (n,)
        Infinite where a value overflows; 1 where all of the row becomes zero.

    Examples
    --------
    >>> share_lost(np.array([[1.0, 0.5], [1e-9, 2e-9], [1e6, 1.0]], np.float32), np.float16)
    array([ 0.,  1., inf])
    """
    exact = rows.astype(np.float64)
    with np.errstate(over="ignore"):
        stored = rows.astype(dtype).astype(np.float64)
    norm = np.linalg.norm(exact, axis=1)
    error = np.linalg.norm(stored - exact, axis=1)
    return np.asarray(np.divide(error, norm, out=np.zeros_like(norm), where=norm > 0))


def round_rows(
    values: NDArray[np.floating[Any]], dtype: np.dtype[Any], layer: str, digests: NDArray[np.uint8]
) -> NDArray[Any]:
    """Round rows to the stored dtype, or refuse.

    Parameters
    ----------
    values : ndarray of float, (k, dim)
    dtype : dtype
        float16 or float32.
    layer : str
        For the message.
    digests : ndarray of uint8, (k, 32)
        For the message.

    Raises
    ------
    OverflowStoreError
        If a value is too large, or a row so small that more than 1 % of it would be lost.
    StoreError
        If a value is NaN or infinite.
    """
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise StoreError(
            f"Layer {layer!r} of image {_digest(digests, ~finite)} holds NaN or infinity; "
            "skip this image instead"
        )
    lost = np.zeros(len(values), np.bool_)
    doubtful = np.flatnonzero(~_is_safe(values, dtype))
    lost[doubtful] = share_lost(values[doubtful], dtype) > MOST_LOST
    if lost.any():
        row = np.abs(values[int(lost.argmax())])
        limits = np.finfo(dtype)
        raise OverflowStoreError(
            f"Layer {layer!r} of image {_digest(digests, lost)} reaches {float(row.max()):.6g}, "
            f"out of the range of {dtype.name} ({float(limits.smallest_subnormal):.0e} to "
            f"{float(limits.max):.6g}); use --store-dtype float32"
        )
    return np.array(values, dtype=dtype, order="C")


def _is_safe(values: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """Find rows that lose less than :data:`MOST_LOST` for sure, at a tenth of the cost of the exact share.

    A value in range is off by at most eps of itself, or by half the smallest subnormal number; of a row
    of d values the latter is at most sqrt(d) times that, in the L2 norm.
    """
    if values.dtype == dtype:
        return np.ones(len(values), np.bool_)
    limits = np.finfo(dtype)
    norm = np.sqrt(np.einsum("ij,ij->i", values, values))
    least = np.sqrt(values.shape[1]) * float(limits.smallest_subnormal) / 2 / (MOST_LOST - float(limits.eps))
    largest = float(limits.max)
    fits = (values.max(axis=1) <= largest) & (values.min(axis=1) >= -largest)
    return np.asarray(fits & (norm >= least))


def finite_rows(rows: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Whether each row is finite; of float16 by its bits, since NumPy looks at those one by one.

    Parameters
    ----------
    rows : ndarray of float16 or float32, (n, dim)

    Returns
    -------
    ndarray of bool, (n,)

    Examples
    --------
    >>> finite_rows(np.array([[1, -2], [np.inf, 0], [0, np.nan]], np.float16))
    array([ True, False, False])
    """
    if rows.dtype != np.dtype("<f2"):
        return np.asarray(np.isfinite(rows).all(axis=1))
    exponents = rows.view("<u2") & np.uint16(0x7C00)
    return np.asarray((exponents != 0x7C00).all(axis=1))


def _digest(digests: NDArray[np.uint8], which: NDArray[np.bool_]) -> str:
    return f"{digests[int(which.argmax())].tobytes().hex()[:16]}…"
