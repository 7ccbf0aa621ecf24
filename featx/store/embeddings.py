"""The embeddings of a store: a layer as one array, some rows of it, or block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import UnknownNameError
from featx.records import LayerInfo
from featx.store.imageindex import ImageIndex
from featx.store.opening import find_rows
from featx.store.storefile import StoreFile

__all__ = ["Embeddings"]


class Embeddings(ImageIndex):
    """The images of a store and their embeddings, one row per image.

    Parameters
    ----------
    path : Path
        What the user calls the store.
    file : StoreFile
        Its one file, or the index of a directory; closed if that is no store.

    Raises
    ------
    NotAStoreError
        If it is one part of a store.
    DamagedStoreError
        If its parts cannot be told.
    """

    def __init__(self, path: Path, file: StoreFile) -> None:
        super().__init__(file)
        self.path = path
        self.layers: tuple[LayerInfo, ...] = file.contents.layers
        try:
            self._rows = find_rows(path, file)
        except BaseException:
            file.close()
            raise

    def layer(self, layer: str) -> LayerInfo:
        """Find a layer by ``NODE:POOL``, or by ``NODE`` if it has one pooling only.

        Raises
        ------
        UnknownNameError
            Listing the names that there are.
        """
        matches = [info for info in self.layers if info.name == layer]
        matches = matches or [info for info in self.layers if info.node == layer]
        if len(matches) == 1:
            return matches[0]
        known = [info.name for info in (matches or self.layers)]
        hint = (
            f"It is pooled in {len(matches)} ways; name one." if matches else f"{self.path} has these layers."
        )
        raise UnknownNameError("layer", layer, known, hint)

    def X(self, layer: str) -> NDArray[Any]:
        """Embeddings of one layer.

        Parameters
        ----------
        layer : str
            ``NODE:POOL``, or ``NODE`` if it has one pooling only.

        Returns
        -------
        ndarray of shape (n, dim), float16 or float32
            Read-only: a :class:`numpy.memmap` where the rows lie in one piece, as they do in a store of
            one file; else (a directory of several parts, or no images) an array in memory, the same
            one as long as it is in use.

        Raises
        ------
        UnknownNameError
            If there is no such layer, or several.
        """
        return self._rows.all(self.layer(layer))

    def take(self, layer: str, index: Sequence[int] | NDArray[np.integer[Any] | np.bool_]) -> NDArray[Any]:
        """Read some rows of one layer, for batches of a store that is larger than memory.

        Parameters
        ----------
        layer : str
            As for :meth:`X`.
        index : sequence of int of length k, or of bool of length n
            Rows in any order, with repetitions, negative ones from the end; or a mask with k of them.

        Returns
        -------
        ndarray of shape (k, dim), float16 or float32
            A copy in memory.

        Raises
        ------
        IndexError
            If there is no such row, or ``index`` is something else.
        """
        return self._rows.take(self.layer(layer), _row_numbers(index, len(self), self.path))

    def blocks(self, layer: str, rows: int = 1024) -> Iterator[NDArray[Any]]:
        """Read one layer top to bottom, a bounded number of rows at a time.

        Parameters
        ----------
        layer : str
            As for :meth:`X`.
        rows : int, default=1024
            Rows of a block, at least 1.

        Returns
        -------
        iterator of ndarray of shape (k, dim), float16 or float32
            In memory; k is ``rows`` but for the last block.

        Raises
        ------
        ValueError
            If ``rows`` is less than 1; at the call, not at the first block.
        """
        if rows < 1:
            raise ValueError(f"Got blocks of {rows} rows, expected 1 or more")
        info, count = self.layer(layer), len(self)
        return (
            self._rows.take(info, np.arange(start, min(start + rows, count)))
            for start in range(0, count, rows)
        )


def _row_numbers(index: Sequence[int] | NDArray[Any], count: int, path: Path) -> NDArray[np.int64]:
    """Bring what selects rows into the form 0 ≤ row < count, as NumPy reads it.

    Examples
    --------
    >>> _row_numbers([-1, 0], 3, Path("a.h5")).tolist()
    [2, 0]
    >>> _row_numbers([True, False, True], 3, Path("a.h5")).tolist()
    [0, 2]
    """
    values = np.asarray(index)
    if values.ndim != 1:
        raise IndexError(f"Rows were asked for by an array of shape {values.shape}; expected one dimension")
    if values.dtype == np.bool_:
        if len(values) != count:
            raise IndexError(f"Rows were asked for by a mask of length {len(values)}; {path} has {count}")
        return np.flatnonzero(values).astype(np.int64)
    if not len(values) and not isinstance(index, np.ndarray):  # an empty list says nothing of its type
        return np.empty(0, np.int64)
    if values.dtype.kind not in "iu":
        raise IndexError(
            f"Rows were asked for by {values.dtype} values; expected integers, or a mask of length {count}"
        )
    outside = (values < -count) | (values >= count)
    if outside.any():
        raise IndexError(f"row {int(values[outside][0])} was asked for; {path} has {count}")
    return values.astype(np.int64) % max(1, count)
