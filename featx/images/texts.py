"""Values of arrays and tables as text: labels, groups and columns of a store are text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TEXT_KINDS", "as_texts", "is_whole"]

TEXT_KINDS = "biufMSU"
"""Kinds of NumPy's dtypes that :func:`as_texts` knows."""


def as_texts(values: NDArray[Any], *, whole: bool = False) -> list[str]:
    """Write values as text, with no space around it; NaN and NaT, by which tables say nothing, are empty.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Of a kind in :data:`TEXT_KINDS`; bytes are UTF-8 in which stray bytes survive.
    whole : bool, default=False
        Write floats as integers; see :func:`is_whole`.

    Examples
    --------
    >>> as_texts(np.array([1.0, np.nan, 2.0]), whole=True)
    ['1', '', '2']
    >>> as_texts(np.array([0.1, 2], np.float32)), as_texts(np.array(["2026-11-21"], "M8[D]"))
    (['0.1', '2.0'], ['2026-11-21'])
    """
    kind = values.dtype.kind
    if kind == "f":
        numbers = map(str, map(int, np.nan_to_num(values))) if whole else values.astype(np.str_).tolist()
        return [
            "" if missing else text for missing, text in zip(np.isnan(values).tolist(), numbers, strict=True)
        ]
    if kind == "M":
        return ["" if text == "NaT" else text for text in np.datetime_as_string(values).tolist()]
    if kind == "S":
        return [text.decode("utf-8", "surrogateescape").strip() for text in values.tolist()]
    return [str(value).strip() for value in values.tolist()]


def is_whole(values: NDArray[Any]) -> bool:
    """Whether all floats that are numbers are integers, as where a table had gaps between integers.

    Examples
    --------
    >>> is_whole(np.array([1.0, np.nan])), is_whole(np.array([1.5])), is_whole(np.array([np.inf]))
    (True, False, False)
    """
    numbers = values[~np.isnan(values)]
    return bool((np.isfinite(numbers) & (numbers == np.trunc(numbers))).all())
