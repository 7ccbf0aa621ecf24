"""Arrays as they lie in an ``.npy`` or ``.npz`` file, read a few rows at a time.

Nothing is mapped into memory for long: the pages of a mapped file count as memory of the process that
touched them, and a process ends at a page of a mapped file that has become shorter. Rows are read where
they lie. What is compressed, or in Fortran's order, is written once into an unnamed temporary file.

Source: the formats are those of :mod:`numpy.lib.format` and of PKWARE's APPNOTE.TXT, section 4.3.
"""

from __future__ import annotations

import errno
import io
import math
import mmap
import os
import shutil
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from featx.errors import SourceError
from featx.images.reading import SharedFile
from featx.records import escape_name

__all__ = ["StoredArray", "open_arrays"]

BLOCK_BYTES = 16 * 2**20
"""Bytes of an array that are in memory at once."""

_HEADER_BYTES = 10_000 + npy.MAGIC_LEN + 4
"""NumPy reads no longer header, and one that says it has gigabytes must not be looked for."""

_MOST_DEFLATED = 1032
"""Bytes that one byte can come from, at the most (https://zlib.net/zlib_tech.html)."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LOCAL_MAGIC = b"PK\x03\x04"

_DAMAGE = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
    EOFError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and zipfile raise for a file with a changed byte, depending on where it is."""


class StoredArray:
    """One array of a file; of its values only those asked for are in memory.

    Parameters
    ----------
    called : str
        What an error calls it.
    shape : tuple of int
    dtype : numpy.dtype
    fortran : bool
        Whether the first axis runs fastest.
    find : callable
        Gives the file that the values are in, and where; called once, when a value is needed.
    """

    def __init__(
        self,
        called: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        fortran: bool,
        find: Callable[[], tuple[SharedFile, int]],
    ) -> None:
        self.called, self.shape, self.dtype = called, shape, dtype
        self._is_turned = fortran and len(shape) > 1
        self._find = find
        self._place: tuple[SharedFile, int] | None = None
        self._lock = Lock()

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of what stands at one place of the first axis."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Read a slice of the first axis; the array is in C's order, and may not be written to.

        Raises
        ------
        SourceError
            If it is damaged, or the temporary files have no room for it.
        OSError
            If the file has become shorter.
        """
        stop = min(stop, len(self))
        size = max(0, stop - start) * self.row_bytes
        shape = (max(0, stop - start), *self.shape[1:])
        if not size:
            return np.zeros(shape, self.dtype)
        file, offset = self._settle()
        data = file.read_at(offset + start * self.row_bytes, size)
        if len(data) < size:
            raise OSError(errno.EIO, "the file has become shorter")
        return np.frombuffer(data, self.dtype).reshape(shape)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Read everything, some rows at a time; see :data:`BLOCK_BYTES`."""
        step = self._step()
        return (self.rows(start, start + step) for start in range(0, len(self), step))

    def _step(self) -> int:
        return max(1, BLOCK_BYTES // max(1, self.row_bytes))

    def _settle(self) -> tuple[SharedFile, int]:
        with self._lock:
            if self._place is None:
                with _as_source_errors(self.called):
                    file, offset = self._find()
                    self._place = (self._turn(file, offset), 0) if self._is_turned else (file, offset)
            return self._place

    def _turn(self, file: SharedFile, offset: int) -> SharedFile:
        """Write the array in C's order, so that a row lies in one piece."""
        start = offset % mmap.ALLOCATIONGRANULARITY
        length = start + self.nbytes
        descriptor = file.raw.fileno()
        with (
            _temporary(self.nbytes) as turned,
            mmap.mmap(descriptor, length, access=mmap.ACCESS_READ, offset=offset - start) as mapped,
        ):
            values: NDArray[Any] = np.ndarray(self.shape, self.dtype, mapped, start, order="F")
            try:
                for first in range(0, len(self), self._step()):
                    turned.raw.write(values[first : first + self._step()].tobytes())
            finally:
                del values  # a map that is looked at cannot be closed
            turned.raw.flush()
            return turned


def open_arrays(path: Path, where: str) -> dict[str, StoredArray]:
    """Read the headers of a ``.npy`` or ``.npz`` file.

    Parameters
    ----------
    path : Path
        What it is, its first bytes say.
    where : str
        What an error calls it.

    Returns
    -------
    dict of str to StoredArray
        By name; that of a ``.npy`` is empty.

    Raises
    ------
    SourceError
        If it cannot be read, is not whole, or promises more values than it can hold.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "photos.npz")
    >>> np.savez_compressed(path, images=np.zeros((9, 4, 4), np.uint8), labels=np.arange(9))
    >>> arrays = open_arrays(path, "photos.npz")
    >>> arrays["images"].shape, arrays["labels"].rows(3, 6).tolist()
    ((9, 4, 4), [3, 4, 5])
    """
    with _as_source_errors(where):
        file = SharedFile(path.open("rb"))
        magic = file.raw.read(npy.MAGIC_LEN)
        file.raw.seek(0)
        if magic.startswith(npy.MAGIC_PREFIX):
            size = os.fstat(file.raw.fileno()).st_size
            shape, fortran, dtype, begin = _read_header(file.raw, size, where)
            return {"": StoredArray(where, shape, dtype, fortran, lambda: (file, begin))}
        archive = zipfile.ZipFile(file.raw)
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        return {
            member.filename.removesuffix(".npy"): _member(file, archive, member, where) for member in members
        }


def _member(file: SharedFile, archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> StoredArray:
    called = f"the array {escape_name(member.filename.removesuffix('.npy'))} of {where}"
    is_stored = member.compress_type == zipfile.ZIP_STORED
    if not is_stored and member.compress_type != zipfile.ZIP_DEFLATED:
        raise SourceError(f"{called} is compressed as NumPy never does it; save it with numpy.savez")
    is_cut = member.header_offset + member.compress_size > os.fstat(file.raw.fileno()).st_size
    if is_cut or member.file_size > member.compress_size * (1 if is_stored else _MOST_DEFLATED):
        raise SourceError(
            f"{called} promises {member.file_size:,} bytes, more than can be in this file; it is not whole: "
            "get it again"
        )
    with archive.open(member) as stream:
        shape, fortran, dtype, begin = _read_header(stream, member.file_size, called)
    array_bytes = math.prod(shape) * dtype.itemsize

    def find() -> tuple[SharedFile, int]:
        if is_stored:
            magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(
                file.read_at(member.header_offset, _LOCAL_HEADER.size)
            )
            if magic != _LOCAL_MAGIC:
                raise zipfile.BadZipFile("a header is not where it should be")
            return file, member.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes + begin
        with file.lock, archive.open(member) as stream, _temporary(array_bytes) as unpacked:
            stream.read(begin)
            left = array_bytes
            while block := stream.read(min(left, 2**20)):
                left -= len(block)
                unpacked.raw.write(block)
            if left:
                raise EOFError(f"{left:,} bytes are missing")
            unpacked.raw.flush()
            return unpacked, 0

    return StoredArray(called, shape, dtype, fortran, find)


def _read_header(
    stream: IO[bytes], size: int, called: str
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Give shape, Fortran's order, dtype, and where the values begin."""
    head = io.BytesIO(stream.read(_HEADER_BYTES))
    version = npy.read_magic(head)
    if version == (1, 0):
        shape, fortran, dtype = npy.read_array_header_1_0(head)
    elif version == (2, 0):
        shape, fortran, dtype = npy.read_array_header_2_0(head)
    else:
        raise ValueError(f"version {version} of the format is for arrays of fields")
    needed = math.prod(shape) * dtype.itemsize
    # An object takes 8 bytes of memory and any number in the file, where it is not read.
    if min(shape, default=0) < 0 or (needed > size - head.tell() and not dtype.hasobject):
        raise SourceError(
            f"{called} promises {needed:,} bytes of values of the shape {shape}, and has "
            f"{size - head.tell():,}; it is not whole: get the file again"
        )
    return shape, fortran, dtype, head.tell()


@contextmanager
def _temporary(size: int) -> Iterator[SharedFile]:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise SourceError(
            f"{size:,} bytes have to be unpacked, and {folder} has room for {free:,}; set TMPDIR to a folder "
            "that has, or save the arrays with numpy.savez, in C's order"
        )
    yield SharedFile(tempfile.TemporaryFile())  # noqa: SIM115 - closed when nobody reads from it any more


@contextmanager
def _as_source_errors(called: str) -> Iterator[None]:
    """Turn what a damaged file, or a full disk, gives into a :class:`SourceError`."""
    try:
        yield
    except OSError as error:
        raise SourceError(f"{called} cannot be read: {error.strerror or error}") from error
    except _DAMAGE as error:
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise SourceError(
            f"{called} cannot be read as NumPy's arrays ({detail}); save them again, with numpy.savez or "
            "numpy.save"
        ) from error
