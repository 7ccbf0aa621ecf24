"""Reading rows from several files in any order, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featx.files import disk_errors
from featx.records import LayerInfo
from featx.store.rowindex import RowSource

__all__ = ["OpenFiles", "gather"]

_BLOCK = 8 << 20
_OPEN_FILES = 32


def gather(
    files: OpenFiles,
    sources: Sequence[RowSource],
    layer: LayerInfo,
    source: NDArray[np.int32],
    row: NDArray[np.int64],
    block_bytes: int = _BLOCK,
) -> Iterator[NDArray[Any]]:
    """Read rows from several files in the order given, a bounded block at a time.

    Rows that follow each other in one file are read at once.

    Parameters
    ----------
    files : OpenFiles
        Keeps a bounded number of the sources open.
    sources : sequence of RowSource
        Where the rows lie.
    layer : LayerInfo
        The layer to read.
    source, row : ndarray of shape (n,)
        As :meth:`RowIndex.locate` gives them.

    Yields
    ------
    ndarray of shape (k, dim)
        In the stored dtype.
    """
    any_region = next(s.regions[layer.name] for s in sources if layer.name in s.regions)
    step = max(1, block_bytes // any_region.row_bytes)
    for start in range(0, len(row), step):
        from_, at = source[start : start + step], row[start : start + step]
        block = np.empty((len(at), layer.dim), any_region.dtype)
        breaks = np.flatnonzero((np.diff(from_) != 0) | (np.diff(at) != 1)) + 1
        edges = [0, *breaks.tolist(), len(at)]
        for first, last in pairwise(edges):
            holder = sources[from_[first]]
            with disk_errors(holder.path, "read"):
                region = holder.regions[layer.name]
                region.read_into(files.get(holder.path), holder.path, int(at[first]), block[first:last])
        yield block


class OpenFiles:
    """At most some dozens of files, kept open for reading; a run of days leaves more parts than that."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, Any] = OrderedDict()

    def get(self, path: Path) -> Any:
        """Give the open file, opening it if need be."""
        if path in self._files:
            self._files.move_to_end(path)
        else:
            if len(self._files) >= _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            self._files[path] = path.open("rb", buffering=0)
        return self._files[path]

    def close(self) -> None:
        """Close all of them."""
        while self._files:
            self._files.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
