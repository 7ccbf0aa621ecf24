"""One open featx file, read safely: user block first, structure next, rows by plain reads."""

from __future__ import annotations

import errno
import io
import os
import stat
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import local
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.errors import DamagedStoreError, NotAStoreError, StoreError
from featx.files import disk_errors
from featx.records import Progress, ProgressCallback
from featx.store.checking import Contents, Region, inspect
from featx.store.heap import GuardedFile, check_references
from featx.store.schema import decode_text
from featx.store.shapes import SHAPE_FIELDS, Shapes
from featx.store.userblock import REMEDY, Header, check_bytes, read_header

__all__ = ["StoreFile", "count_bytes"]


class StoreFile:
    """A store or a part, open for reading.

    The file stays the same one even if another is renamed over its path, since everything is read
    through one descriptor, HDF5 included.

    Parameters
    ----------
    path : Path
        Must exist.
    check : bool, default=False
        Hash every byte before HDF5 sees one.
    on_bytes : callable, optional
        Called with the number of bytes that were hashed since the last call.
    remedy : str
        What messages of damage say is to be done, such as
        :data:`featx.store.userblock.PART_REMEDY`.

    Raises
    ------
    StoreError
        If it does not exist or cannot be opened.
    NotAStoreError
        If it is something else.
    DamagedStoreError
        If it is truncated, of another format, or holds what has no place in a store.
    """

    def __init__(
        self,
        path: Path,
        *,
        check: bool = False,
        on_bytes: Callable[[int], None] | None = None,
        remedy: str = REMEDY,
    ) -> None:
        self.path = path
        self.remedy = remedy
        self._local = local()  # another thread would lose a file of ours in the middle
        self.is_hashed = check
        """Whether its bytes were hashed when it was opened, and nothing has relied on that yet."""
        descriptor = _open(path)
        self._close = weakref.finalize(self, os.close, descriptor)
        self.raw = io.FileIO(descriptor, "rb", closefd=False)
        try:
            with disk_errors(path, "read"):
                self.header: Header = read_header(self.raw, path, remedy=remedy)
                if check:
                    check_bytes(self.raw, path, on_bytes, remedy=remedy)
                self.size = os.fstat(descriptor).st_size
            with self.h5() as h5:
                self.contents: Contents = inspect(h5, path, self.size)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; memory maps of it stay valid."""
        self._close()

    def require_open(self) -> None:
        """Refuse to go on with a closed file.

        Raises
        ------
        StoreError
            If it has been closed.
        """
        if not self._close.alive:
            raise StoreError(f"{self.path} has been closed; open it again with FeatureStore")

    def hash(self, on_bytes: Callable[[int], None]) -> None:
        """Hash every byte with plain reads, unless opening has just done so.

        Raises
        ------
        DamagedStoreError
            If any is not the one that was written.
        """
        self.require_open()
        if self.is_hashed:
            self.is_hashed = False  # it may have changed when this is asked again
            on_bytes(self.size)
            return
        with disk_errors(self.path, "read"):
            check_bytes(self.raw, self.path, on_bytes, remedy=self.remedy)

    @contextmanager
    def h5(self) -> Iterator[h5py.File]:
        """Open the file with HDF5 for the time of the block; blocks inside share the outermost's."""
        self.require_open()
        shared = getattr(self._local, "h5", None)
        if shared is not None:
            yield shared
            return
        try:
            h5 = h5py.File(GuardedFile(self.raw), "r")
        except (OSError, RuntimeError, ValueError, TypeError, OverflowError) as error:
            raise DamagedStoreError(
                f"{self.path} is damaged: HDF5 cannot open it ({error}); {self.remedy}"
            ) from error
        self._local.h5 = h5
        try:
            yield h5
        finally:
            self._local.h5 = None
            h5.close()

    def read(self, name: str) -> NDArray[Any]:
        """Read a whole dataset of the index; text comes as an object array of bytes."""
        with self.h5() as h5:
            try:
                dataset = h5[name]
                text = h5py.check_string_dtype(dataset.dtype)
                if text is not None and text.length is None:
                    check_references(dataset, self.raw, self.path)
                values: NDArray[Any] = dataset[()]
            except (OSError, RuntimeError, ValueError, TypeError, MemoryError) as error:
                raise DamagedStoreError(
                    f"{self.path} is damaged: {name} cannot be read ({error}); {self.remedy}"
                ) from error
        return values

    def names_in(self, group: str) -> tuple[str, ...]:
        """List the datasets of a group, not the groups in it."""
        with self.h5() as h5:
            return tuple(name for name in h5[group] if h5[group].get(name, getclass=True) is h5py.Dataset)

    def read_text(self, name: str) -> NDArray[np.object_]:
        """Read a text dataset as an object array of str."""
        raw = self.read(name)
        texts = np.empty(len(raw), dtype=object)
        texts[:] = [decode_text(value) for value in raw]
        return texts

    def read_shapes(self, group: str) -> Shapes:
        """Read sizes and modes, in ``images`` or ``rows``; unknown if the file has none."""
        with self.h5():
            if SHAPE_FIELDS.keys() <= set(self.names_in(group)):
                return Shapes(*(self.read(f"{group}/{name}") for name in SHAPE_FIELDS))
        return Shapes.of(self.contents.rows)

    def blocks(self, region: Region) -> Iterator[NDArray[Any]]:
        """Read the rows of a layer in bounded blocks."""
        with disk_errors(self.path, "read"):
            yield from region.blocks(self.raw, self.path)


def count_bytes(total: int, on_progress: ProgressCallback | None) -> Callable[[int], None]:
    """Make progress of the bytes that are hashed; whatever hashes is the same stage."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if on_progress is not None:
            on_progress(Progress("verify", done, total, "bytes"))

    return count


def _open(path: Path) -> int:
    with disk_errors(path, "read"):
        try:
            mode = path.stat().st_mode
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise StoreError(
                    f"There is no store {path}; check the path, or make it with "
                    f"`featx extract SOURCE -o {path}`"
                ) from error
            raise
        if not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise NotAStoreError(f"{path} exists and is {what}, no featx store; choose another path")
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
