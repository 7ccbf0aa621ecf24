"""The heaps that HDF5 keeps text in, looked over before HDF5 sees them.

A text in a dataset or an attribute is a reference into a *global heap collection*, a block of the
file that holds one object after the other, each with its size. HDF5 follows these sizes without
asking whether they lead on: where an object says that it is 0 bytes of free space, it never comes
back, holding the lock of h5py, and no signal ends it but SIGKILL. HDF5 also reads the same text as
often as it is referred to, so that a small file can ask for any amount of memory.

Source: HDF5 File Format Specification, sections III.E (global heap) and IV.A.2.d (class 9); the
loop is that of ``H5HG__cache_heap_deserialize`` in HDF5 1.14 and 2.0.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from featx.errors import DamagedStoreError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["REFERENCE", "GuardedFile", "check_references"]

REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("object", "<u4")])
"""A text as it stands in a dataset (16 bytes)."""

_SIGNATURE = b"GCOL\x01"
_COLLECTION = struct.Struct("<5s3xQ")
_OBJECT = struct.Struct("<HHxxxxQ")
_READ_ROWS = 1 << 16


class GuardedFile(io.RawIOBase):
    """An open file as HDF5 is allowed to see it: heaps that HDF5 would not survive are blanked.

    HDF5 reads a heap whole or its first 4096 bytes, from its first byte on, so a heap is known by its
    signature. Without the signature HDF5 reports an error, as for any other damage.

    Parameters
    ----------
    raw : FileIO
        Open for reading; stays open.
    """

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self._size = os.fstat(raw.fileno()).st_size

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._raw.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset in bytes; a damaged address far behind the end is the end."""
        return self._raw.seek(min(offset, self._size), whence)

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read what is there, and blank the signature of a heap that does not lead to its end."""
        view = memoryview(buffer).cast("B")
        start = self._raw.tell()
        count = self._raw.readinto(view) or 0
        if view[: len(_SIGNATURE)] == _SIGNATURE:
            position = self._raw.tell()
            if not self._leads_to_its_end(start):
                view[: len(_SIGNATURE)] = bytes(len(_SIGNATURE))
            self._raw.seek(position)
        return count

    def _leads_to_its_end(self, start: int) -> bool:
        self._raw.seek(start)
        head = self._raw.read(_COLLECTION.size) or b""
        size = _COLLECTION.unpack(head)[1] if len(head) == _COLLECTION.size else 0
        if not _COLLECTION.size <= size <= self._size - start:
            return False
        return _is_sound(self._raw.read(size - _COLLECTION.size) or b"")


def _is_sound(objects: bytes) -> bool:
    place = 0
    while place + _OBJECT.size <= len(objects):
        index, _, size = _OBJECT.unpack_from(objects, place)
        # Index 0 is free space, whose size counts its own header; the others are padded to 8 bytes.
        needed = _OBJECT.size + (size + 7) // 8 * 8 if index else size
        if needed < _OBJECT.size or place + needed > len(objects):
            return False
        place += needed
    return True


def check_references(dataset: h5py.Dataset, raw: io.FileIO, path: Path) -> None:
    """Refuse a text dataset that refers to more bytes than the file has, before it is read.

    Parameters
    ----------
    dataset : h5py.Dataset
        Text, in one piece, as :func:`featx.store.checking.inspect` makes sure.
    raw : FileIO
        The same file.
    path : Path
        Its name, for messages.

    Raises
    ------
    DamagedStoreError
        If the texts together are longer than the file, or their references are not in it.
    """
    if not dataset.size:
        return
    size = os.fstat(raw.fileno()).st_size
    raw.seek(dataset.id.get_offset())
    total, left = 0, int(dataset.size)
    while left:
        data = raw.read(min(left, _READ_ROWS) * REFERENCE.itemsize) or b""
        count = len(data) // REFERENCE.itemsize
        references = np.frombuffer(data, REFERENCE, count)
        total += int(references["length"].sum(dtype=np.uint64))
        left -= count
        if not count or total > size:
            raise DamagedStoreError(
                f"{path} is refused: {dataset.name} refers to more text than the {size} bytes of the file "
                "hold; it is damaged or was not written by featx"
            )
