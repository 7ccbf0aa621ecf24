"""Gram matrices of float32 rows, summed in float64 without a float64 copy of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["column_gram", "products", "row_gram"]

_CHUNK = 2**22
"""Numbers that are converted at a time: 32 MiB of float64."""


def products(A: NDArray[Any], B: NDArray[Any]) -> NDArray[np.float64]:
    """Products of the columns of two matrices with as many rows, AᵀB.

    Examples
    --------
    >>> products(np.ones((3, 1), np.float32), np.array([[1, 2], [3, 4], [5, 6]], np.float32)).tolist()
    [[9.0, 12.0]]
    """
    step = max(1, _CHUNK // (A.shape[1] + B.shape[1]))
    total = np.zeros((A.shape[1], B.shape[1]))
    for start in range(0, len(A), step):
        part = slice(start, start + step)
        total += A[part].astype(np.float64).T @ B[part].astype(np.float64)
    return total


def column_gram(A: NDArray[np.float32]) -> NDArray[np.float64]:
    """Products of the columns, AᵀA, shape (d, d).

    Examples
    --------
    >>> column_gram(np.array([[1, 2], [3, 4]], dtype=np.float32)).tolist()
    [[10.0, 14.0], [14.0, 20.0]]
    """
    n, d = A.shape
    step = max(1, _CHUNK // d)
    total = np.zeros((d, d))
    for start in range(0, n, step):
        part = A[start : start + step].astype(np.float64)
        total += part.T @ part
    return total


def row_gram(A: NDArray[np.float32]) -> NDArray[np.float64]:
    """Products of the rows, AAᵀ, shape (n, n)."""
    n, d = A.shape
    step = max(1, _CHUNK // n)
    total = np.zeros((n, n))
    for start in range(0, d, step):
        part = A[:, start : start + step].astype(np.float64)
        total += part @ part.T
    return total
