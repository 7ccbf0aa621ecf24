"""Rows go to parts as they come: what every writer of a store does, whatever becomes of the parts.

What is committed is never lost: a kill, a full disk or an error leaves the finished parts, and the
next writer of the same space uses them.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import StoreError
from featx.files import disk_errors
from featx.records import LayerInfo, SkippedImage, Space, escape_name
from featx.store.digests import DigestSet
from featx.store.gathering import OpenFiles, gather
from featx.store.locking import WriterLock
from featx.store.parts import write_part
from featx.store.rounding import round_rows
from featx.store.rowindex import Places, RowIndex, RowSource
from featx.store.schema import DIGEST_SIZE, IndexRow, check_layers
from featx.store.shapes import Shapes

__all__ = ["PartsWriter"]


class _Batch(NamedTuple):
    digests: NDArray[np.uint8]
    phashes: NDArray[np.uint64]
    shapes: Shapes
    rows: list[NDArray[Any]]

    @property
    def nbytes(self) -> int:
        return self.digests.nbytes + sum(rows.nbytes for rows in self.rows)


class PartsWriter(ABC):
    """Writes parts; a context manager that holds a lock.

    Parameters
    ----------
    path : Path
        The store.
    space : Space
        What the embeddings are.
    layers : sequence of LayerInfo
        The layers that every :meth:`add` brings.
    locked : Path
        The file whose lock keeps a second writer of the same parts out.
    parts_directory : Path
        Where this writer's parts lie.
    request : mapping
        Arguments and versions, in types that JSON has; kept as provenance.
    source : str
        Where the images come from.
    overwrite : bool, default=False
        Replace a store (never anything else) instead of adding to it. Parts of the same space that
        an unfinished run left are used even so.
    flush_seconds : float, default=30
        Rows become a part after this many seconds of work …
    flush_bytes : int, default=256 MiB
        … or when they take this many bytes, whichever is first.

    Attributes
    ----------
    known : DigestSet
        Digests that had a row for all of ``layers`` when the writer was entered.
    removed : int
        After :meth:`finish`: images of the earlier store that the source does not have any more.
    notes : list of str
        One line for each thing people should hear of, such as a damaged part that is not used.
    earlier_versions : mapping of str to str
        Versions of the packages that the first rows found by the writer were computed with.
    """

    def __init__(
        self,
        path: Path,
        space: Space,
        layers: Sequence[LayerInfo],
        *,
        locked: Path,
        parts_directory: Path,
        request: Mapping[str, Any],
        source: str,
        overwrite: bool = False,
        flush_seconds: float = 30.0,
        flush_bytes: int = 256 << 20,
    ) -> None:
        check_layers(layers)
        self.path = path
        self.parts_directory = parts_directory
        self.space = space
        self.layers = tuple(layers)
        self.request = dict(request)
        self.source = source
        self.overwrite = overwrite
        self.flush_seconds = flush_seconds
        self.flush_bytes = flush_bytes
        self.known = DigestSet()
        self.notes: list[str] = []
        self.removed = 0
        self._n_earlier = 0
        self.earlier_versions: Mapping[str, str] = {}
        self._dtype = np.dtype(space.store_dtype).newbyteorder("<")
        self._lock = WriterLock(locked)
        self._index = RowIndex()
        self._next_number = 1
        self._reset_buffer()

    @abstractmethod
    def _prepare(self) -> None:
        """Refuse what featx did not write, and make the directory of the lock."""

    @abstractmethod
    def _recover(self) -> None:
        """Under the lock: find the rows that earlier runs left, and make the directory of the parts."""

    @abstractmethod
    def finish(
        self, images: Sequence[IndexRow], skipped: Sequence[SkippedImage], provenance: Mapping[str, Any]
    ) -> Path:
        """Write the index, and with it the store."""

    def __enter__(self) -> Self:
        self._prepare()
        self._lock.acquire()
        try:
            self._recover()
            self.known = self._index.known(layer.name for layer in self.layers)
            self._n_earlier = len(self._index.sources)
            self.earlier_versions = next((source.versions for source in self._index.sources), {})
            self._reset_buffer()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._batches and not _is_disk_error(error):
                try:
                    self.flush()
                except StoreError as second:
                    if error is None:
                        raise
                    error.add_note(f"The rows not yet in a part were dropped: {second}")
        finally:
            self._leave()
            try:
                self._lock.release()
            except StoreError as second:
                if error is None:
                    raise
                error.add_note(str(second))

    def _leave(self) -> None:  # noqa: B027 - most writers have nothing to do
        """Tidy up before the lock goes."""

    def add(
        self,
        digests: NDArray[np.uint8],
        phashes: NDArray[np.uint64],
        features: Mapping[str, NDArray[np.float32]],
        *,
        widths: ArrayLike | None = None,
        heights: ArrayLike | None = None,
        modes: ArrayLike | None = None,
    ) -> None:
        """Take finished rows; writes a part when one is due.

        Parameters
        ----------
        digests : ndarray of shape (k, 32), uint8
            SHA-256 of the encoded bytes of each image.
        phashes : ndarray of shape (k,), uint64
            Perceptual hashes.
        features : mapping of str to ndarray of shape (k, dim), float32
            One array for every layer, by layer name; finite.
        widths, heights : array-like of shape (k,), int, optional
            Of the upright images in their full size, in pixels; 0 where unknown.
        modes : array-like of shape (k,), str or bytes, optional
            Pillow's names of what the files hold; empty where unknown.

        Raises
        ------
        OverflowStoreError
            If a value does not fit the stored dtype; none of the rows is taken.
        StoreError
            If shapes or layers are not as announced, a value is NaN or infinite, or the disk fails.
        """
        digests = np.ascontiguousarray(digests, dtype=np.uint8)
        count = len(digests)
        if digests.shape != (count, DIGEST_SIZE) or np.shape(phashes) != (count,):
            raise StoreError(
                f"Got digests {digests.shape} and phashes {np.shape(phashes)}, expected (k, {DIGEST_SIZE}) "
                "and (k,)"
            )
        names = [layer.name for layer in self.layers]
        if set(features) != set(names):
            raise StoreError(f"Got rows of the layers {sorted(features)}, expected {sorted(names)}")
        shapes = Shapes.of(count, widths, heights, modes)
        if not count:
            return
        cast = [self._cast(layer, features[layer.name], digests) for layer in self.layers]
        # In one step, so that a signal leaves whole batches only.
        self._batches.append(_Batch(digests.copy(), np.array(phashes, np.uint64), shapes, cast))
        waiting = sum(batch.nbytes for batch in self._batches)
        if waiting >= self.flush_bytes or time.monotonic() - self._since >= self.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Write the rows in memory as a part; does nothing without any.

        Raises
        ------
        StoreError
            If the part cannot be written; the rows stay in memory.
        """
        if not self._batches:
            return
        self._lock.confirm()
        path = write_part(
            self.parts_directory,
            np.concatenate([batch.digests for batch in self._batches]),
            np.concatenate([batch.phashes for batch in self._batches]),
            {
                layer.name: [batch.rows[position] for batch in self._batches]
                for position, layer in enumerate(self.layers)
            },
            self.space,
            self.layers,
            shapes=Shapes.join(batch.shapes for batch in self._batches),
            request=self.request,
            source=self.source,
            seconds=time.monotonic() - self._since,
            number=self._next_number,
        )
        self._next_number += 1
        self._reset_buffer()
        self._index.sources.append(RowSource.open(path, check=False))

    def forget(self) -> None:
        """Give up the rows of an unfinished run, which are not computed as they were; removes its parts."""
        for source in self._index.sources:
            if source.path.parent == self.parts_directory:
                with disk_errors(source.path):
                    source.path.unlink(missing_ok=True)
        self._forget_rows()

    def _forget_rows(self) -> None:
        self._index.sources.clear()
        self.known = DigestSet()
        self._n_earlier = 0

    def partly_known(self, layers: Sequence[LayerInfo]) -> set[bytes]:
        """Digests that have a row for at least one of these layers, :attr:`layers` or not."""
        return set().union(*(self._index.known([layer.name]) for layer in layers))

    def stored(self, layer: LayerInfo, digests: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        """Read the rows that there are.

        Parameters
        ----------
        layer : LayerInfo
            Any, one of :attr:`layers` or not.
        digests : ndarray of shape (n, 32), uint8
            Of images.

        Returns
        -------
        has_row : ndarray of shape (n,), bool
        rows : ndarray of shape (k, dim)
            Of the k images that have one, in the stored dtype.
        """
        source, row = self._index.locate(layer.name, digests)
        has_row = source >= 0
        rows = np.zeros((0, layer.dim), self._dtype)
        if has_row.any():
            with OpenFiles() as files:
                rows = np.concatenate(
                    list(gather(files, self._index.sources, layer, source[has_row], row[has_row]))
                )
        return has_row, rows

    def _with_earlier_seconds(
        self, provenance: Mapping[str, Any], where: Mapping[str, Places]
    ) -> dict[str, Any]:
        """Add to the seconds of this run what the rows that it found had taken, as far as they are used."""
        seconds = float(provenance.get("seconds", 0.0))
        for number, source in enumerate(self._index.sources[: self._n_earlier]):
            # Another shard's rows are that one's work, and counted there.
            if source.path == self.path or source.path.parent == self.parts_directory:
                used = max(len(np.unique(row[from_ == number])) for from_, row in where.values())
                seconds += source.seconds * used / max(1, len(source.digests))
        return {**provenance, "seconds": seconds}

    def _locate(
        self, images: Sequence[IndexRow], digests: NDArray[np.uint8], others: Sequence[LayerInfo]
    ) -> tuple[list[LayerInfo], dict[str, Places]]:
        """Find the row of every image for the layers asked for, and for those others that can be kept."""
        layers = list(self.layers)
        where = {layer.name: self._index.locate(layer.name, digests) for layer in layers}
        for name, (from_, _) in where.items():
            missing = np.flatnonzero(from_ < 0)
            if len(missing):
                image = images[missing[0]]
                raise StoreError(
                    f"{self.path} has no row of layer {name!r} for {len(missing)} of {len(images)} images, "
                    f"such as {escape_name(image.record.name)!r} ({image.digest.hex()[:16]}…); run the "
                    "extraction again"
                )
        for layer in others:
            if layer.name not in where:
                found = self._index.locate(layer.name, digests)
                if np.all(found[0] >= 0):
                    layers.append(layer)
                    where[layer.name] = found
        return layers, where

    def _cast(self, layer: LayerInfo, values: NDArray[Any], digests: NDArray[np.uint8]) -> NDArray[Any]:
        if values.shape != (len(digests), layer.dim):
            raise StoreError(
                f"Layer {layer.name!r} got rows of shape {values.shape}, expected "
                f"({len(digests)}, {layer.dim})"
            )
        return round_rows(values, self._dtype, layer.name, digests)

    def _reset_buffer(self) -> None:
        self._batches: list[_Batch] = []
        self._since = time.monotonic()


def _is_disk_error(error: BaseException | None) -> bool:
    """Whether writing once more would only fail once more."""
    return isinstance(error, OSError | MemoryError) or (
        isinstance(error, StoreError) and isinstance(error.__cause__, OSError)
    )
