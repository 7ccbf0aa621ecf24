"""Reading one encoded image, and not more of it than is allowed."""

from __future__ import annotations

import os
import stat
import weakref
from threading import Lock
from typing import IO

from featx.errors import ImageError

__all__ = ["MAX_IMAGE_BYTES", "SharedFile", "changed_ns", "read_file", "require_allowed", "too_large"]

MAX_IMAGE_BYTES = 512 * 2**20
"""Encoded bytes that one image may have: the largest that is decoded, uncompressed with 16 bits."""


class SharedFile:
    """An open file that several threads read; closed when nobody has it any more.

    Parameters
    ----------
    raw : binary file
        With a descriptor.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw = raw
        self.lock = Lock()
        weakref.finalize(self, raw.close)

    def read_at(self, offset: int, size: int) -> bytes:
        """Read so many bytes from a place on, fewer at the end of the file."""
        if hasattr(os, "pread"):
            return os.pread(self.raw.fileno(), size, offset)
        with self.lock:
            self.raw.seek(offset)
            return self.raw.read(size)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Read a file that is one image.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    ImageError
        If it is a folder, a device or a pipe, or larger than :data:`MAX_IMAGE_BYTES`.

    Examples
    --------
    >>> read_file(os.devnull)
    Traceback (most recent call last):
        ...
    featx.errors.ImageError: is no file
    """
    status = os.stat(path)  # noqa: PTH116 - a million of them; before it is opened: a pipe would block
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("is no file")
    require_allowed(status.st_size)
    with open(path, "rb") as file:  # noqa: PTH123 - a million of them
        return file.read()


def changed_ns(status: os.stat_result) -> int:
    """Give the time of the last change of a file that holds many images, in nanoseconds.

    That of its contents or, where it is later, of its being put there: arrays of one shape have one size, and
    some tools set the times of all that they write to one moment.
    """
    return max(status.st_mtime_ns, status.st_ctime_ns)


def require_allowed(size: int) -> None:
    """Refuse an image of too many encoded bytes.

    Raises
    ------
    ImageError
        If they are more than :data:`MAX_IMAGE_BYTES`.
    """
    if size > MAX_IMAGE_BYTES:
        raise ImageError(too_large(size))


def too_large(size: int, limit: int | None = None) -> str:
    """Say why an image of so many encoded bytes is not read; the limit is :data:`MAX_IMAGE_BYTES` if None."""
    return f"{size:,} bytes: an image may have {MAX_IMAGE_BYTES if limit is None else limit:,} at most"
