"""Writing a featx file so that HDF5 never touches the disk.

The HDF5 library can crash the interpreter when the disk is full, because it flushes what it could
not write once more while it closes. So it does not write here: it builds the file's *skeleton*
(groups, attributes, index and the headers of the feature datasets, whose space is allocated early
and never filled) in a sparse file in memory, where nothing can fail. Then the whole file goes to
the disk front to back by plain writes, the bytes of each feature dataset at the offset that HDF5
gave it, the rest from the skeleton, hashed on the way; the user block comes last. An error is an
ordinary :class:`OSError`, and memory holds the index and one block of rows.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.errors import StoreError
from featx.files import PlainFile, publish
from featx.records import FORMAT_VERSION, LayerInfo
from featx.store.schema import TEXT, Table
from featx.store.userblock import SIZE, Header, pack_header

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["write_file"]

_PAGE = 1 << 16
_ALIGNMENT = 64  # bytes: a cache line, so that memory maps of every dtype are aligned

Blocks = Callable[[LayerInfo], Iterable[NDArray[Any]]]
_NO_ROWS = np.dtype("<f4")


def _no_blocks(_layer: LayerInfo) -> Iterable[NDArray[Any]]:
    return ()


def write_file(
    path: Path,
    *,
    attributes: Mapping[str, bytes | int | float],
    tables: Mapping[str, Table],
    layers: Sequence[LayerInfo] = (),
    rows: int = 0,
    dtype: np.dtype[Any] = _NO_ROWS,
    blocks: Blocks = _no_blocks,
    before_publish: Callable[[], None] | None = None,
) -> None:
    """Write a store, a part or an index; it appears under ``path`` whole, or not at all.

    Parameters
    ----------
    path : Path
        The final name.
    attributes : mapping
        Attributes of ``/``; bytes are text.
    tables : mapping
        Group name to its datasets.
    layers : sequence of LayerInfo
        One dataset of shape (``rows``, ``dim``) each, written in this order; an index has none.
    rows : int
        Number of rows.
    dtype : numpy dtype
        Of the stored rows, ``<f2`` or ``<f4``.
    blocks : callable
        Called with a layer, gives its rows as contiguous arrays of that dtype, top to bottom.
    before_publish : callable, optional
        Called when all blocks are written and before the file gets its name.

    Raises
    ------
    StoreError
        For every disk error, naming the path, and if the blocks are not as many rows as announced.
    """
    sparse = _SparseFile()
    offsets = _build(sparse, attributes, tables, layers, rows, dtype)
    digest = hashlib.sha256()
    with publish(path) as file:
        file.reserve(sparse.size)
        file.write(bytes(SIZE))
        for name, offset, size in sorted(offsets, key=lambda item: item[1]):
            _copy(sparse, offset, file, digest)
            layer = next(layer for layer in layers if layer.name == name)
            for block in blocks(layer):
                if block.dtype != dtype or block.shape[1:] != (layer.dim,):
                    raise StoreError(
                        f"Layer {name!r} of {path} got a block of {block.dtype} {block.shape}, expected "
                        f"{dtype} (n, {layer.dim}); extract again"
                    )
                data = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
                digest.update(data)
                file.write(data)
            if file.position != offset + size:
                got = (file.position - offset) // (layer.dim * dtype.itemsize)
                raise StoreError(f"Layer {name!r} of {path} got {got} rows, expected {rows}; extract again")
        _copy(sparse, sparse.size, file, digest)
        if before_publish is not None:
            before_publish()
        file.patch(0, pack_header(Header(FORMAT_VERSION, sparse.size - SIZE, digest.digest())))


def _build(
    sparse: _SparseFile,
    attributes: Mapping[str, bytes | int | float],
    tables: Mapping[str, Table],
    layers: Sequence[LayerInfo],
    rows: int,
    dtype: np.dtype[Any],
) -> list[tuple[str, int, int]]:
    """Let HDF5 write all but the rows; gives (layer name, offset, size in bytes) of each dataset."""
    with h5py.File(
        sparse, "w", userblock_size=SIZE, alignment_threshold=1, alignment_interval=_ALIGNMENT
    ) as h5:
        _set_attributes(h5, attributes)
        for group_name, table in tables.items():
            group = h5.require_group(group_name)
            for name, values in table.items():
                if isinstance(values, list):
                    data = np.empty(len(values), dtype=object)
                    data[:] = values
                    group.create_dataset(name, data=data, dtype=TEXT)
                else:
                    group.create_dataset(name, data=values)
        offsets: list[tuple[str, int, int]] = []
        group = h5.require_group("features") if layers else None
        for layer in layers:
            dataset = _allocate(group, layer.name, (rows, layer.dim), dtype)
            _set_attributes(
                dataset, {"node": layer.node.encode(), "pool": layer.pool.encode(), "dim": layer.dim}
            )
            if rows:
                offsets.append((layer.name, int(dataset.id.get_offset()), int(dataset.id.get_storage_size())))
    return offsets


def _allocate(group: h5py.Group, name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> h5py.Dataset:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind, space = h5py.h5t.py_create(dtype), h5py.h5s.create_simple(shape)
    return h5py.Dataset(h5py.h5d.create(group.id, name.encode(), kind, space, properties))


def _set_attributes(target: h5py.HLObject, attributes: Mapping[str, bytes | int | float]) -> None:
    for name, value in attributes.items():
        if isinstance(value, bytes):
            target.attrs.create(name, value, dtype=TEXT)
        else:
            target.attrs.create(name, value, dtype="<f8" if isinstance(value, float) else "<i8")


def _copy(sparse: _SparseFile, end: int, file: PlainFile, digest: hashlib._Hash) -> None:
    sparse.seek(file.position)
    while count := min(end - file.position, _PAGE):
        data = sparse.read(count)
        digest.update(data)
        file.write(data)


class _SparseFile(io.RawIOBase):
    """A file in memory that keeps only the pages that were written; the others read as zeros."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._position = 0
        self.size = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def truncate(self, size: int | None = None) -> int:
        # HDF5 only ever grows a file that it creates.
        self.size = self._position if size is None else size
        return self.size

    def write(self, data: ReadableBuffer) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            page, start = divmod(self._position + done, _PAGE)
            count = min(len(view) - done, _PAGE - start)
            content = self._pages.setdefault(page, bytearray(_PAGE))
            content[start : start + count] = view[done : done + count]
            done += count
        self._position += done
        self.size = max(self.size, self._position)
        return done

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        total = min(len(view), max(0, self.size - self._position))
        done = 0
        while done < total:
            page, start = divmod(self._position + done, _PAGE)
            count = min(total - done, _PAGE - start)
            content = self._pages.get(page)
            view[done : done + count] = bytes(count) if content is None else content[start : start + count]
            done += count
        self._position += done
        return done
