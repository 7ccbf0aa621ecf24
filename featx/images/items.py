"""Images that the caller holds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featx.errors import SourceError
from featx.images.reading import read_file
from featx.records import ImageRecord

__all__ = ["ImageLike", "ItemsSource", "RawImage"]

RawImage: TypeAlias = "bytes | NDArray[Any] | Image.Image"
ImageLike: TypeAlias = "str | os.PathLike[str] | NDArray[Any] | Image.Image"


class ItemsSource:
    """Images that the caller holds: paths, arrays or PIL images, in the order given.

    Parameters
    ----------
    items : iterable of path, ndarray or PIL.Image.Image
        Arrays are (H, W) or (H, W, 3). A path is named by itself, the others by their position.
    """

    kind = "items"
    location = "<memory>"

    def __init__(self, items: Iterable[ImageLike]) -> None:
        self.items = list(items)
        for position, item in enumerate(self.items):
            if not isinstance(item, str | os.PathLike | np.ndarray | Image.Image):
                raise SourceError(
                    f"item {position} is a {type(item).__name__}; expected a path, an array or a PIL image"
                )

    def __iter__(self) -> Iterator[ImageRecord]:
        for position, item in enumerate(self.items):
            name = str(position)
            if isinstance(item, str | os.PathLike):
                name = f"{position}:{os.fspath(item)}"
            yield ImageRecord(name=name, columns={"item": str(position)})

    def read(self, record: ImageRecord) -> RawImage:
        """Give the bytes, the array or the PIL image of one record."""
        item = self.items[int(record.columns["item"])]
        return item if isinstance(item, np.ndarray | Image.Image) else read_file(item)
