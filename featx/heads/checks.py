"""What a search needs of its rows and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import DatasetError

__all__ = ["check_rows"]


def check_rows(X: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Rows as contiguous float32 and labels as an array of one type, or an error that says why not.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Embeddings, any real dtype.
    y : array-like of shape (n,)
        Labels: strings or integers; None and ``""`` are missing.

    Raises
    ------
    DatasetError
        If the shapes do not fit, a label is missing, a number is NaN or infinite, or there is one class.
    """
    labels = np.asarray(y)
    with np.errstate(over="ignore"):  # what overflows float32 is found below, as infinite
        rows = np.ascontiguousarray(X, dtype=np.float32)
    if rows.ndim != 2 or labels.ndim != 1 or len(rows) != len(labels):
        raise DatasetError(
            f"X has shape {rows.shape} and y {labels.shape}: give one row of X (n, d) for each label of y "
            f"(n,)."
        )
    if rows.size == 0:
        raise DatasetError(f"X has shape {rows.shape}, so there is nothing to fit: give labelled images.")
    labels = _one_type(labels)
    names = np.unique(labels)
    if len(names) < 2:
        raise DatasetError(
            f"All {len(labels)} images have the label {str(names[0])!r}: a head needs images of at least two "
            f"classes."
        )
    unusable = ~np.isfinite(rows).all(axis=1)
    if unusable.any():
        raise DatasetError(
            f"{int(unusable.sum())} of {len(rows)} rows of X hold NaN or infinity (the first is row "
            f"{int(unusable.argmax())}): leave these images out, or extract them again."
        )
    return rows, labels


def _one_type(labels: NDArray[Any]) -> NDArray[Any]:
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8", "surrogateescape")
    if labels.dtype.kind == "f":
        missing = ~np.isfinite(labels)
    elif labels.dtype.kind in "OUT":
        # NaN, by which tables say that there is nothing, is the one thing that is not itself.
        missing = np.array([label is None or label == "" or label != label for label in labels])
    else:
        return labels
    if missing.any():
        raise DatasetError(
            f"{int(missing.sum())} of {len(labels)} images have no label: leave them out, or label them."
        )
    if labels.dtype.kind == "f":
        if (labels != np.round(labels)).any():
            raise DatasetError(
                f"The labels are numbers with fractions, such as {labels[labels != np.round(labels)][0]:g}: "
                "a head tells classes apart; give strings or integers."
            )
        return labels.astype(np.int64)
    return np.array([str(label) for label in labels]) if labels.dtype.kind in "OT" else labels
