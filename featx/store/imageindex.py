"""The images of a store: names, labels, digests, columns; read when they are asked for."""

from __future__ import annotations

import os
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from featx.records import ImageRecord, SkippedImage
from featx.store.schema import column_of_dataset, decode_text
from featx.store.shapes import Shapes
from featx.store.storefile import StoreFile

__all__ = ["ImageIndex"]


class ImageIndex:
    """What a store knows of its images, one entry per row.

    Parameters
    ----------
    file : StoreFile
        The one file of a store, or the index of a directory.
    """

    def __init__(self, file: StoreFile) -> None:
        self._file = file

    def __len__(self) -> int:
        return self._file.contents.rows

    @cached_property
    def names(self) -> list[str]:
        """Name of each image, as :func:`os.fsdecode` gives it."""
        return [os.fsdecode(name) for name in self._file.read("images/name")]

    @cached_property
    def y(self) -> NDArray[np.object_]:
        """Label of each image, str, ``""`` for none; shape (n,)."""
        return self._file.read_text("images/label")

    @cached_property
    def splits(self) -> NDArray[np.object_]:
        """Split of each image, ``""`` for none; shape (n,)."""
        return self._file.read_text("images/split")

    @cached_property
    def groups(self) -> NDArray[np.object_]:
        """Group of each image, ``""`` for none; shape (n,)."""
        return self._file.read_text("images/group")

    @cached_property
    def digests(self) -> NDArray[np.uint8]:
        """SHA-256 of the encoded bytes of each image; shape (n, 32), uint8."""
        return self._file.read("images/digest")

    @cached_property
    def phashes(self) -> NDArray[np.uint64]:
        """Perceptual hash of each image; shape (n,), uint64."""
        return self._file.read("images/phash")

    @cached_property
    def shapes(self) -> Shapes:
        """Size and mode of each image as they stand in the file."""
        return self._file.read_shapes("images")

    @property
    def widths(self) -> NDArray[np.uint32]:
        """Width of each upright image in pixels, 0 if unknown; shape (n,)."""
        return self.shapes.widths

    @property
    def heights(self) -> NDArray[np.uint32]:
        """Height of each upright image in pixels, 0 if unknown; shape (n,)."""
        return self.shapes.heights

    @cached_property
    def modes(self) -> NDArray[np.object_]:
        """Pillow's name of what the file of each image holds, str, ``""`` if unknown; shape (n,)."""
        # As numbers, which sort faster than text.
        keys, codes = np.unique(self.shapes.modes.view(np.uint64), return_inverse=True)
        texts = np.empty(len(keys), dtype=object)
        texts[:] = [decode_text(mode) for mode in keys.view("S8").tolist()]
        return texts[codes]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Encoded size of each image in bytes, -1 if unknown; shape (n,)."""
        return self._file.read("images/size")

    @cached_property
    def mtimes_ns(self) -> NDArray[np.int64]:
        """Time of the last change of each image in nanoseconds, -1 if unknown; shape (n,)."""
        return self._file.read("images/mtime_ns")

    @cached_property
    def columns(self) -> dict[str, NDArray[np.object_]]:
        """Further columns of the source by name, each of shape (n,), str."""
        with self._file.h5() as h5:
            stored = list(h5["images/columns"])
        return {column_of_dataset(name): self._file.read_text(f"images/columns/{name}") for name in stored}

    @cached_property
    def records(self) -> list[ImageRecord]:
        """The images as their source gave them; a missing label, split or group is None."""
        columns = self.columns
        return [
            ImageRecord(
                name,
                label or None,
                split or None,
                group or None,
                size,
                mtime,
                {column: values[row] for column, values in columns.items()},
            )
            for row, (name, label, split, group, size, mtime) in enumerate(
                zip(
                    self.names,
                    self.y,
                    self.splits,
                    self.groups,
                    self.sizes.tolist(),
                    self.mtimes_ns.tolist(),
                    strict=True,
                )
            )
        ]

    @cached_property
    def skipped(self) -> list[SkippedImage]:
        """Images that could not be used, and why."""
        names = [os.fsdecode(name) for name in self._file.read("skipped/name")]
        digests = [row.tobytes() if row.any() else b"" for row in self._file.read("skipped/digest")]
        reasons = self._file.read_text("skipped/reason")
        return [SkippedImage(*item) for item in zip(names, digests, reasons, strict=True)]
