"""Images in an ``.npy`` or ``.npz`` file, and what is said of them there."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from numpy.typing import NDArray

from featx.errors import ImageError, SourceError
from featx.images.contents import Part, find_parts
from featx.images.labels import read_labels, read_texts
from featx.images.layout import SPLIT_FOLDERS
from featx.images.reading import changed_ns
from featx.images.stored import open_arrays
from featx.records import ImageRecord, escape_name

__all__ = ["ArraySource"]


class ArraySource:
    """Images of arrays, which stay in the file until one is read.

    An ``.npy`` holds images alone. Of an ``.npz`` the images are the only array of 3 or 4 dimensions, or the
    one called ``images``, ``x``, ``data`` or so (:data:`featx.images.contents.IMAGES`); shapes and dtypes are
    those of :mod:`featx.images.stacks`. Beside them may stand, for each image, a label
    (:func:`featx.images.labels.read_labels`), a group, a split (train, val, test), a name, and columns of any
    other name; and a list of class names for labels that are integers. All of this may be there once for
    each split, as ``x_train`` and ``y_train``, or ``train_images`` and ``train_labels``. Upper and lower case
    do not matter. An image without a name is called by its position, ``"0"`` or ``"train/0"``.

    Parameters
    ----------
    path : path
        ``.npy`` or ``.npz``.
    location : str, optional
        What to call it, if this is a copy of something elsewhere.
    mtime_ns : int, optional
        A number that changes when that does; the time of change of ``path`` if left out.

    Raises
    ------
    SourceError
        If it is damaged, holds no images, or not one label, group and split for each.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> path = pathlib.Path(tempfile.mkdtemp(), "photos.npz")
    >>> np.savez(path, images=np.zeros((2, 8, 8), np.uint8), labels=[1, 0], classes=["ants", "bees"])
    >>> source = ArraySource(path)
    >>> [(record.name, record.label) for record in source]
    [('0', 'bees'), ('1', 'ants')]
    >>> source.read(next(iter(source))).shape
    (8, 8)
    """

    kind = "arrays"

    def __init__(
        self, path: str | os.PathLike[str], *, location: str | None = None, mtime_ns: int | None = None
    ) -> None:
        self.path = Path(path)
        self.location = location or str(self.path.resolve())
        self._where = escape_name(location or os.fspath(path))
        try:
            self._mtime_ns = changed_ns(self.path.stat()) if mtime_ns is None else mtime_ns
        except OSError as error:
            raise SourceError(f"{self._where} cannot be read: {error.strerror or error}") from error
        self._parts, self._classes = find_parts(open_arrays(self.path, self._where), self._where)
        self._named: dict[str, tuple[Part, int]] | None = None
        self._lock = Lock()

    def __iter__(self) -> Iterator[ImageRecord]:
        self._find_named()
        for part in self._parts:
            yield from self._records(part)

    def read(self, record: ImageRecord) -> NDArray[Any]:
        """Give the pixels of one image, uint8 or uint16; see :meth:`featx.images.stacks.Stack.image`."""
        part, position = self._find_named().get(record.name) or self._find_numbered(record.name)
        return part.stack.image(position)

    def _records(self, part: Part) -> Iterator[ImageRecord]:
        count = len(part.stack)
        columns = {name: read_texts(array) for name, array in (part.columns or {}).items()}
        said = zip(
            _names(part),
            read_labels(part.labels, self._classes) if part.labels else itertools.repeat("", count),
            _splits(part),
            read_texts(part.groups) if part.groups else itertools.repeat("", count),
            *columns.values(),
            strict=True,
        )
        for name, label, split, group, *values in said:
            yield ImageRecord(
                name,
                label or None,
                split or None,
                group or None,
                part.stack.image_bytes,
                self._mtime_ns,
                {column: text for column, text in zip(columns, values, strict=True) if text},
            )

    def _find_named(self) -> dict[str, tuple[Part, int]]:
        """Place of each image that has a name of its own."""
        with self._lock:
            if self._named is None:
                named: dict[str, tuple[Part, int]] = {}
                for part in self._parts:
                    for position, name in enumerate(_names(part) if part.names else ()):
                        if name == _prefix(part):
                            raise SourceError(
                                f"{self._where} has no name for the image at {position}; add it"
                            )
                        before = named.setdefault(name, (part, position))[1]
                        if before != position:
                            raise SourceError(
                                f"{self._where} names {escape_name(name)} at {before} and at {position}; "
                                "make the names differ, or leave them out: images are counted then"
                            )
                self._named = named
            return self._named

    def _find_numbered(self, name: str) -> tuple[Part, int]:
        for part in self._parts:
            prefix = _prefix(part)
            number = name.removeprefix(prefix)
            if part.names is None and name == prefix + number and number.isdecimal():
                position = int(number)
                if position < len(part.stack):
                    return part, position
        raise ImageError("is no image of these arrays")


def _prefix(part: Part) -> str:
    return f"{part.split}/" if part.split else ""


def _names(part: Part) -> Iterator[str]:
    prefix = _prefix(part)
    texts = read_texts(part.names) if part.names else map(str, range(len(part.stack)))
    return (prefix + text for text in texts)


def _splits(part: Part) -> Iterator[str]:
    if part.splits is None:
        yield from itertools.repeat(part.split, len(part.stack))
        return
    for position, text in enumerate(read_texts(part.splits)):
        if text and text.lower() not in SPLIT_FOLDERS:
            raise SourceError(
                f"{part.splits.called} holds {escape_name(text)} at {position}; expected train, val or "
                "test, or nothing"
            )
        yield SPLIT_FOLDERS[text.lower()] if text else ""
