"""What rounding to the stored dtype costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray


def share_lost(rows: NDArray[np.float32], dtype: DTypeLike) -> NDArray[np.float64]:
    """Give the relative L2 error of each row when it is stored in ``dtype``.

    Parameters
    ----------
    rows : ndarray of float32, (n, dim)
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
    return np.divide(error, norm, out=np.zeros_like(norm), where=norm > 0)
