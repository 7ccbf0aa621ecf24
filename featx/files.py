"""Writing files that are whole or not there, and disk errors that people understand.

A file is written under a unique temporary name in its own directory, fsynced, renamed to its final
name, and the directory is fsynced. uuid4 makes the name unique among processes, threads and hosts
that share the directory. A failing fsync aborts and is never retried: after one failure the kernel
may have dropped the dirty pages, and a second fsync would report success for data that is lost.

Source: Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from featx.errors import StoreError

__all__ = [
    "TEMPORARY_SUFFIX",
    "PlainFile",
    "disk_errors",
    "make_directories",
    "publish",
    "remove_temporaries",
    "sync_directory",
    "temporary_path",
]

TEMPORARY_SUFFIX = ".tmp"

_NAME_BYTES = 143
"""A file name may have 255 bytes almost everywhere, and 143 on eCryptfs, the shortest in use."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_MISLED = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP)
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def disk_errors(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn every :class:`OSError` of the block into a :class:`StoreError` that names the path.

    Examples
    --------
    >>> with disk_errors(Path("a.h5")):  # doctest: +IGNORE_EXCEPTION_DETAIL
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    StoreError: Cannot write a.h5: No space left on device; free space or choose another output ...
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            remedy = "free space or choose another output, then run the same command again"
        elif error.errno in _FORBIDDEN:
            remedy = f"choose a path where you may {doing}"
        elif error.errno == errno.ENAMETOOLONG:
            remedy = "choose a shorter name"
        elif error.errno in _MISLED:
            remedy = "check the path"
        else:
            remedy = "check the disk, then run the same command again"
        reason = error.strerror or str(error)
        raise StoreError(f"Cannot {doing} {path}: {reason}; {remedy}") from error


class PlainFile:
    """A file under construction, written by plain sequential writes.

    Parameters
    ----------
    descriptor : int
        An open file descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.position = 0

    def reserve(self, size: int) -> None:
        """Ask the disk for ``size`` bytes now, so that a full disk is known before any work."""
        if not hasattr(os, "posix_fallocate") or size <= 0:
            return
        try:
            os.posix_fallocate(self._descriptor, 0, size)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of ``data``."""
        view = memoryview(data).cast("B")
        while view:
            count = os.write(self._descriptor, view)
            self.position += count
            view = view[count:]

    def patch(self, offset: int, data: bytes) -> None:
        """Overwrite what stands at ``offset``; the position for :meth:`write` is lost."""
        os.lseek(self._descriptor, offset, os.SEEK_SET)
        self.write(data)


@contextmanager
def publish(path: Path) -> Iterator[PlainFile]:
    """Write a file that appears under ``path`` whole, or not at all.

    Parameters
    ----------
    path : Path
        The final name; a file that is there is replaced.

    Yields
    ------
    PlainFile
        To be written by the block.

    Raises
    ------
    StoreError
        For every disk error; nothing is left behind. Only where the directory cannot be synced at the
        very end is the file there, and whole, but may be gone after a power cut.
    """
    temporary = temporary_path(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    with disk_errors(path):
        try:
            # Inside: a signal may come between the file and its descriptor.
            descriptor = os.open(temporary, flags, 0o666)
            try:
                yield PlainFile(descriptor)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)  # noqa: PTH105 - the name that fault injection knows
        except BaseException:
            with suppress(OSError):  # the first error is the one to report
                temporary.unlink()
            raise
        sync_directory(path.parent)


def temporary_path(path: Path) -> Path:
    """Give a unique name beside ``path`` that :func:`remove_temporaries` knows, however long its own is.

    Examples
    --------
    >>> temporary_path(Path("a/photos.h5")).name.removeprefix("photos.h5.")[32:]
    '.tmp'
    """
    return path.with_name(f"{_stem(path.name)}.{uuid4().hex}{TEMPORARY_SUFFIX}")


def make_directories(directory: Path) -> None:
    """Make a directory and what is missing above it, so that none of them is gone after a power cut."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable; does nothing where directories cannot be synced."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def remove_temporaries(path: Path) -> None:
    """Remove what a killed writer of ``path`` left under temporary names (only under its lock).

    Raises
    ------
    StoreError
        Naming what cannot be removed.
    """
    # uuid4().hex and nothing else: a file of the user's may end in .tmp as well.
    ours = re.compile(rf"{re.escape(_stem(path.name))}\.[0-9a-f]{{32}}{re.escape(TEMPORARY_SUFFIX)}")
    with disk_errors(path.parent, "list"):
        entries = list(path.parent.iterdir())
    for entry in entries:
        if ours.fullmatch(entry.name):
            with disk_errors(entry, "remove"):
                entry.unlink(missing_ok=True)


def _stem(name: str) -> str:
    """Begin a temporary name: with the final name, or its beginning and digest where that is too long.

    Examples
    --------
    >>> _stem("photos.h5")
    'photos.h5'
    >>> len(_stem("x" * 250))
    106
    """
    room = _NAME_BYTES - len(f".{uuid4().hex}{TEMPORARY_SUFFIX}")
    encoded = os.fsencode(name)
    if len(encoded) <= room:
        return name
    mark = f"~{hashlib.sha256(encoded).hexdigest()[:16]}"
    while len(os.fsencode(name)) > room - len(mark):
        name = name[:-1]
    return name + mark
