"""Writing a store: rows go to parts as they come, parts become one file at the end.

What is committed is never lost: a kill, a full disk or an error leaves the finished parts in
``STORE.parts/``, and the next writer of the same space uses them. The only exception is a part or a
store of another space, which is refused, or replaced when asked to.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featx.errors import (
    DamagedStoreError,
    NotAStoreError,
    SpaceMismatchError,
    StoreError,
)
from featx.files import disk_errors, remove_temporaries, sync_directory
from featx.records import LayerInfo, SkippedImage, Space, escape_name
from featx.store.gathering import OpenFiles, gather
from featx.store.locking import WriterLock
from featx.store.parts import part_number, write_part
from featx.store.rounding import round_rows
from featx.store.rowindex import RowIndex, RowSource
from featx.store.schema import (
    DIGEST_SIZE,
    IndexRow,
    check_layers,
    digest_rows,
    images_table,
    root_attributes,
    skipped_table,
)
from featx.store.skeleton import write_file
from featx.store.storefile import StoreFile
from featx.store.userblock import NewerFormatError

__all__ = ["IndexRow", "StoreWriter"]


class StoreWriter:
    """Writes one single-file store; a context manager that holds the store's lock.

    Parameters
    ----------
    path : Path or str
        The store. A finished store of the same space is added to; its rows are used again.
    space : Space
        What the embeddings are.
    layers : sequence of LayerInfo
        The layers that every :meth:`add` brings.
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
    known : set of bytes
        Digests that had a row for all of ``layers`` when the writer was entered.
    notes : list of str
        One line for each thing people should hear of, such as a damaged part that is not used.
    earlier_seconds : float
        Wall time that the rows found by the writer took when they were computed.

    Examples
    --------
    >>> import tempfile
    >>> from featx.records import ImageRecord
    >>> from featx.store.reader import FeatureStore
    >>> space = Space("custom", "mine", {"digest": "0"}, {}, "1", "fp32", "float16")
    >>> path = Path(tempfile.mkdtemp()) / "photos.h5"
    >>> with StoreWriter(path, space, [LayerInfo("fc", "flatten", 2)], request={}, source="photos") as writer:
    ...     digest, phash = np.full((1, 32), 7, np.uint8), np.zeros(1, np.uint64)
    ...     writer.add(digest, phash, {"fc:flatten": np.ones((1, 2), np.float32)})
    ...     _ = writer.finish([IndexRow(ImageRecord("a.jpg", label="ant"), bytes(digest))], [], {})
    >>> FeatureStore(path).names
    ['a.jpg']
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        space: Space,
        layers: Sequence[LayerInfo],
        *,
        request: Mapping[str, Any],
        source: str,
        overwrite: bool = False,
        flush_seconds: float = 30.0,
        flush_bytes: int = 256 << 20,
    ) -> None:
        check_layers(layers)
        # Renaming over a symbolic link would replace the link.
        self.path = Path(os.path.realpath(path))
        self.space = space
        self.layers = tuple(layers)
        self.request = dict(request)
        self.source = source
        self.overwrite = overwrite
        self.flush_seconds = flush_seconds
        self.flush_bytes = flush_bytes
        self.known: set[bytes] = set()
        self.notes: list[str] = []
        self.parts_directory = self.path.with_name(f"{self.path.name}.parts")
        self._dtype = np.dtype(space.store_dtype).newbyteorder("<")
        self._lock = WriterLock(self.path)
        self._index = RowIndex()
        self._finished: RowSource | None = None
        self._next_number = 1
        self._earlier_seconds = 0.0
        self._reset_buffer()

    @property
    def earlier_seconds(self) -> float:
        """Wall time of the rows that were found, in seconds."""
        return self._earlier_seconds

    def __enter__(self) -> Self:
        self._refuse_foreign()
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        try:
            self._refuse_foreign()
            with disk_errors(self.path):
                remove_temporaries(self.path)
            self._load_store()
            self._load_parts()
            with disk_errors(self.parts_directory):
                self.parts_directory.mkdir(exist_ok=True)
                sync_directory(self.parts_directory.parent)
        except BaseException:
            self._lock.release()
            raise
        self.known = self._index.known(layer.name for layer in self.layers)
        self._earlier_seconds = sum(source.seconds for source in self._index.sources)
        self._reset_buffer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._digests and not _is_disk_error(error):
                try:
                    self.flush()
                except StoreError as second:
                    if error is None:
                        raise
                    error.add_note(f"The rows not yet in a part were dropped: {second}")
        finally:
            with suppress(OSError):  # it holds parts, or is gone
                self.parts_directory.rmdir()
            self._lock.release()

    def add(
        self,
        digests: NDArray[np.uint8],
        phashes: NDArray[np.uint64],
        features: Mapping[str, NDArray[np.float32]],
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
        if not count:
            return
        cast = [self._cast(layer, features[layer.name], digests) for layer in self.layers]
        self._digests.append(digests.copy())
        self._phashes.append(np.array(phashes, np.uint64))
        for rows, array in zip(self._rows, cast, strict=True):
            rows.append(array)
        self._bytes += sum(array.nbytes for array in cast) + digests.nbytes
        if self._bytes >= self.flush_bytes or time.monotonic() - self._since >= self.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Write the rows in memory as a part; does nothing without any.

        Raises
        ------
        StoreError
            If the part cannot be written; the rows stay in memory.
        """
        if not self._digests:
            return
        path = write_part(
            self.parts_directory,
            np.concatenate(self._digests),
            np.concatenate(self._phashes),
            {layer.name: rows for layer, rows in zip(self.layers, self._rows, strict=True)},
            self.space,
            self.layers,
            request=self.request,
            source=self.source,
            seconds=time.monotonic() - self._since,
            number=self._next_number,
        )
        self._next_number += 1
        self._reset_buffer()
        self._index.sources.append(RowSource.open(path, check=False))

    def finish(
        self, images: Sequence[IndexRow], skipped: Sequence[SkippedImage], provenance: Mapping[str, Any]
    ) -> Path:
        """Assemble the store: index, every row in the order of the images, then the final name.

        Layers that a finished store of the same space has for all the images are kept.

        Parameters
        ----------
        images : sequence of IndexRow
            Row ``i`` of the store is ``images[i]``; identical images keep a row each.
        skipped : sequence of SkippedImage
            What could not be used.
        provenance : mapping
            ``seconds`` and ``peak_memory_bytes`` of the run; more is kept as JSON.

        Returns
        -------
        Path
            The store.

        Raises
        ------
        StoreError
            If an image has no row, or the disk fails; parts are kept.
        """
        self.flush()
        digests = digest_rows(images)
        layers, where = self._locate(images, digests)
        from_, at = where[self.layers[0].name]
        phashes = np.zeros(len(images), np.uint64)
        for number, source in enumerate(self._index.sources):
            mine = from_ == number
            phashes[mine] = source.phashes[at[mine]]
        images_, columns = images_table(images, phashes)
        with OpenFiles() as files:
            write_file(
                self.path,
                attributes=root_attributes(self.space, self.request, self.source, provenance),
                tables={"images": images_, "images/columns": columns, "skipped": skipped_table(skipped)},
                layers=layers,
                rows=len(images),
                dtype=self._dtype,
                blocks=lambda layer: gather(files, self._index.sources, layer, *where[layer.name]),
                before_publish=files.close,
            )
        self._remove_parts()
        return self.path

    def _locate(
        self, images: Sequence[IndexRow], digests: NDArray[np.uint8]
    ) -> tuple[list[LayerInfo], dict[str, tuple[NDArray[np.int32], NDArray[np.int64]]]]:
        """Find the row of every image for the layers asked for, and for those that can be kept."""
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
        if self._finished is not None:
            for name, region in self._finished.regions.items():
                if name not in where:
                    found = self._index.locate(name, digests)
                    if np.all(found[0] >= 0):
                        layers.append(region.layer)
                        where[name] = found
        return layers, where

    def _cast(self, layer: LayerInfo, values: NDArray[Any], digests: NDArray[np.uint8]) -> NDArray[Any]:
        if values.shape != (len(digests), layer.dim):
            raise StoreError(
                f"Layer {layer.name!r} got rows of shape {values.shape}, expected "
                f"({len(digests)}, {layer.dim})"
            )
        return round_rows(values, self._dtype, layer.name, digests)

    def _reset_buffer(self) -> None:
        self._digests: list[NDArray[np.uint8]] = []
        self._phashes: list[NDArray[np.uint64]] = []
        self._rows: list[list[NDArray[Any]]] = [[] for _ in self.layers]
        self._bytes = 0
        self._since = time.monotonic()

    def _refuse_foreign(self) -> None:
        """Never touch what featx did not write, whatever the options."""
        if not os.path.lexists(self.path):
            return
        try:
            file = StoreFile(self.path)
        except NotAStoreError:
            raise NotAStoreError(f"{self.path} exists and is no featx store; choose another output") from None
        except DamagedStoreError:
            # It begins with our magic, so it is ours; what to do is decided under the lock.
            return
        file.close()
        if file.contents.kind != "store":
            raise NotAStoreError(f"{self.path} exists and is a part of another store; choose another output")

    def _load_store(self) -> None:
        if self.overwrite or not self.path.exists():
            return
        try:
            found = RowSource.open(self.path, check=True)
        except DamagedStoreError as error:
            raise DamagedStoreError(f"{error}, with --overwrite to replace it") from error
        self._refuse_other_space(self.path, found.space)
        self._refuse_other_width(found)
        self._finished = found
        self._index.sources.append(found)

    def _load_parts(self) -> None:
        if not os.path.lexists(self.parts_directory):
            return
        with disk_errors(self.parts_directory, "read"):
            entries = sorted(self.parts_directory.iterdir())
        for path in entries:
            number = part_number(path)
            if number is None:
                if path.name.startswith("part-") and path.name.endswith(".tmp"):
                    with disk_errors(path):
                        path.unlink()
                continue
            self._next_number = max(self._next_number, number + 1)
            try:
                found = RowSource.open(path, check=True)
            except NewerFormatError:
                raise
            except (DamagedStoreError, NotAStoreError) as error:
                self._put_aside(path, error)
                continue
            if self.overwrite and found.space.key != self.space.key:
                self.notes.append(f"{path} is of another space and was removed")
                with disk_errors(path):
                    path.unlink()
                continue
            self._refuse_other_space(path, found.space)
            self._refuse_other_width(found)
            self._index.sources.append(found)

    def _put_aside(self, path: Path, error: StoreError) -> None:
        self.notes.append(f"{error}; it is not used and its rows are computed again")
        with disk_errors(path):
            path.rename(path.with_name(f"{path.name}.damaged"))

    def _refuse_other_space(self, path: Path, space: Space) -> None:
        differences = space.differences(self.space)
        if differences:
            if "backbone" in differences:  # the other differences follow from this one
                differences = {"backbone": differences["backbone"]}
            fields = "; ".join(
                f"{name} is {_short(theirs)} there and {_short(mine)} now"
                for name, (theirs, mine) in differences.items()
            )
            raise SpaceMismatchError(
                f"{path} holds embeddings of another space: {fields}; choose another output, or replace it "
                "with --overwrite"
            )

    def _refuse_other_width(self, found: RowSource) -> None:
        for layer in self.layers:
            region = found.regions.get(layer.name)
            if region is not None and region.layer.dim != layer.dim:
                raise SpaceMismatchError(
                    f"{found.path} holds layer {layer.name!r} with {region.layer.dim} dimensions, got "
                    f"{layer.dim}; choose another output, or replace it with --overwrite"
                )

    def _remove_parts(self) -> None:
        """Everything is in the store now; what cannot be removed does no harm."""
        self._index.sources.clear()
        try:
            for path in self.parts_directory.iterdir():
                if path.name.startswith("part-"):
                    path.unlink()
            self.parts_directory.rmdir()
        except OSError as error:
            self.notes.append(
                f"{self.parts_directory} could not be removed ({error.strerror}); remove it by hand"
            )


def _is_disk_error(error: BaseException | None) -> bool:
    """Whether writing once more would only fail once more."""
    return isinstance(error, OSError | MemoryError) or (
        isinstance(error, StoreError) and isinstance(error.__cause__, OSError)
    )


def _short(value: Any) -> str:
    """Write a value; of a digest the beginning."""
    is_digest = isinstance(value, str) and len(value) == 64
    return f"{value[:12]}…" if is_digest else repr(value)
