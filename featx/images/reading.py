"""Reading one encoded image, and not more of it than is allowed."""

from __future__ import annotations

import os
import stat

from featx.errors import ImageError

__all__ = ["MAX_IMAGE_BYTES", "read_file", "require_allowed", "too_large"]

MAX_IMAGE_BYTES = 512 * 2**20
"""Encoded bytes that one image may have: the largest that is decoded, uncompressed with 16 bits."""


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


def require_allowed(size: int) -> None:
    """Refuse an image of too many encoded bytes.

    Raises
    ------
    ImageError
        If they are more than :data:`MAX_IMAGE_BYTES`.
    """
    if size > MAX_IMAGE_BYTES:
        raise ImageError(too_large(size))


def too_large(size: int) -> str:
    """Say why an image of so many encoded bytes is not read."""
    return f"{size:,} bytes: an image may have {MAX_IMAGE_BYTES:,} at most"
