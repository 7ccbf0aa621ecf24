"""Contents and texts as numbers, by which millions of images are compared at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featx.errors import DatasetError

__all__ = ["SAYS_NOTHING", "Coded", "Contents", "Texts", "by_content", "check_lengths", "coded"]

Texts = Sequence[Any] | NDArray[Any]


SAYS_NOTHING = np.array([0, 2**64 - 1], np.uint64)
"""Perceptual hashes of images that are too small, or all of one grey."""


def check_lengths(*columns: Any) -> None:
    """Refuse columns that have not one entry for each image; None is no column.

    Raises
    ------
    DatasetError
        If the lengths differ.
    """
    lengths = {len(column) for column in columns if column is not None}
    if len(lengths) != 1:
        raise DatasetError(
            f"The audit got lists of {sorted(lengths)} entries: give one entry for each image."
        )


class Contents(NamedTuple):
    """Images by their bytes.

    Parameters
    ----------
    codes : ndarray of int64, (n,)
        The content of each image, a number from 0 to m - 1.
    order : ndarray of int64, (n,)
        Images by content, those of one content in their own order.
    starts, counts : ndarray of int64, (m,)
        Where the images of each content begin in ``order``, and how many they are.
    """

    codes: NDArray[np.int64]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def first(self) -> NDArray[np.int64]:
        """First image of each content; shape (m,)."""
        return self.order[self.starts]

    def members(self, content: int) -> NDArray[np.int64]:
        """Give the images of one content."""
        return self.order[self.starts[content] :][: self.counts[content]]


def by_content(digests: NDArray[np.uint8]) -> Contents:
    """Tell images apart by their bytes.

    Parameters
    ----------
    digests : ndarray of uint8, (n, 32)

    Examples
    --------
    >>> contents = by_content(np.repeat([[1], [0], [1]], 32, axis=1).astype(np.uint8))
    >>> contents.codes.tolist(), contents.first.tolist(), contents.members(1).tolist()
    ([1, 0, 1], [1, 0], [0, 2])
    """
    words = np.ascontiguousarray(digests, np.uint8).view(np.uint64)
    order = np.lexsort(words.T)
    there = words[order]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = (there[1:] != there[:-1]).any(axis=1)
    codes = np.empty(len(order), np.int64)
    codes[order] = np.cumsum(is_first) - 1
    starts = np.flatnonzero(is_first)
    return Contents(codes, order, starts, np.diff(starts, append=len(order)))


class Coded(NamedTuple):
    """Texts as numbers: ``codes`` (n,) are places in ``texts``, the first of which is ``""`` for none."""

    codes: NDArray[np.int64]
    texts: list[str]

    def text(self, row: int) -> str:
        """Give the text of a row."""
        return self.texts[int(self.codes[row])]

    def counts(self) -> Counter[str]:
        """Count the texts but for ``""``."""
        counts = np.bincount(self.codes, minlength=len(self.texts)).tolist()
        return Counter(dict(zip(self.texts[1:], counts[1:], strict=True)))


def coded(values: Texts | None, count: int) -> Coded:
    """Give each of ``count`` texts its number; None, of one or of all, is ``""``.

    Examples
    --------
    >>> coded(["b", None, "a", "b"], 4)
    Coded(codes=array([1, 0, 2, 1]), texts=['', 'b', 'a'])
    """
    if values is None:
        return Coded(np.zeros(count, np.int64), [""])
    numbers = {"": 0}
    texts = ("" if value is None else str(value) for value in values)
    codes = np.fromiter((numbers.setdefault(text, len(numbers)) for text in texts), np.int64, count)
    return Coded(codes, list(numbers))
