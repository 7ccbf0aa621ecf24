"""Size and mode of images as a store keeps them; files written before they were kept have none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import StoreError

__all__ = ["SHAPE_FIELDS", "Shapes"]

SHAPE_FIELDS: Mapping[str, np.dtype[Any]] = {
    "width": np.dtype("<u4"),
    "height": np.dtype("<u4"),
    "mode": np.dtype("S8"),
}
"""Datasets of which a file has all, or none if it was written before they were kept."""


class Shapes(NamedTuple):
    """Size and mode of some images, 16 bytes each.

    Parameters
    ----------
    widths, heights : ndarray of uint32, (n,)
        Of the upright image in its full size, in pixels; 0 if unknown.
    modes : ndarray of S8, (n,)
        Pillow's name of what the file holds, such as ``RGB`` or ``I;16``; empty if unknown.
    """

    widths: NDArray[np.uint32]
    heights: NDArray[np.uint32]
    modes: NDArray[np.bytes_]

    @classmethod
    def of(
        cls,
        count: int,
        widths: ArrayLike | None = None,
        heights: ArrayLike | None = None,
        modes: ArrayLike | None = None,
    ) -> Shapes:
        """Bring what is known of ``count`` images into this form; what is None is unknown.

        Raises
        ------
        StoreError
            If it is not one value for each image, or none of these types.

        Examples
        --------
        >>> Shapes.of(1, [640], [480], ["RGB"]).modes, Shapes.of(2).widths
        (array([b'RGB'], dtype='|S8'), array([0, 0], dtype=uint32))
        """
        columns: list[NDArray[Any]] = []
        for values, (name, dtype) in zip((widths, heights, modes), SHAPE_FIELDS.items(), strict=True):
            try:
                column = np.zeros(count, dtype) if values is None else np.array(values, dtype)
            except (ValueError, TypeError, OverflowError) as error:
                raise StoreError(f"Got {name}s that are not of type {dtype} ({error})") from error
            if column.shape != (count,):
                raise StoreError(f"Got {name}s of shape {column.shape}, expected ({count},)")
            columns.append(column)
        return cls(*columns)

    @classmethod
    def join(cls, pieces: Iterable[Shapes]) -> Shapes:
        """Put at least one piece after the other."""
        return cls(*(np.concatenate(columns) for columns in zip(*pieces, strict=True)))

    def datasets(self) -> dict[str, NDArray[Any]]:
        """Give the columns by the names of their datasets."""
        return dict(zip(SHAPE_FIELDS, self, strict=True))
