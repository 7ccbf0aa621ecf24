"""What an audit of a collection finds: counts of all, and examples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Classes", "Collection", "Copies", "Lookalikes", "Near", "Range", "Same", "Several", "Sizes"]


@dataclass(frozen=True, slots=True)
class Copies:
    """Images of the same bytes: ``groups`` of them, and ``images`` beyond the first of each group."""

    groups: int
    images: int
    examples: list[list[str]]


@dataclass(frozen=True, slots=True)
class Same:
    """Images of the same bytes, and the labels or splits that they have."""

    names: list[str]
    values: list[str]


@dataclass(frozen=True, slots=True)
class Several:
    """Contents, each the same bytes, that have several labels or splits."""

    count: int
    examples: list[Same]


@dataclass(frozen=True, slots=True)
class Lookalikes:
    """Two images of different bytes that look nearly alike; ``bits`` of their hashes differ."""

    names: tuple[str, str]
    bits: int
    labels: tuple[str, str]
    splits: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Near:
    """Images of different bytes that look nearly alike.

    Parameters
    ----------
    count : int
        Pairs of hashes that are near, and hashes that images of different bytes share; each counts once,
        however many images have them.
    across_splits, across_labels : int
        Those with images of several splits, of several labels.
    images : int
        Images that look nearly like another.
    complete : bool
        Whether these are all; if not, there are at least so many.
    examples : list of Lookalikes
        Those across splits first, then those across labels.
    """

    count: int
    across_splits: int
    across_labels: int
    images: int
    complete: bool
    examples: list[Lookalikes]


@dataclass(frozen=True, slots=True)
class Range:
    """Least, median and greatest."""

    min: int
    median: float
    max: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes in pixels: ``different`` ones, images with a side below 32, images of ``unknown`` size."""

    width: Range
    height: Range
    different: int
    small: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Classes:
    """Images by label; ``imbalance`` is the count of the largest class over that of the smallest."""

    counts: dict[str, int]
    unlabelled: int
    smallest: str | None
    largest: str | None
    imbalance: float | None


@dataclass(frozen=True, slots=True)
class Collection:
    """Findings; there are at most 50 examples of each, with at most 50 names; counts are of all.

    Parameters
    ----------
    images : int
        Of the collection, without those that were skipped.
    duplicates : Copies
    conflicts : Several
        The same bytes under several labels.
    across_splits : Several
        The same bytes in several splits.
    near_duplicates : Near
    sizes : Sizes or None
        None if none is known.
    modes : dict of str to int
        Images by Pillow's name of what their file holds, the most frequent first.
    classes : Classes
    skipped : dict of str to int
        Images that could not be used by reason, with N for the numbers in it, the most frequent first.
    """

    images: int
    duplicates: Copies
    conflicts: Several
    across_splits: Several
    near_duplicates: Near
    sizes: Sizes | None
    modes: dict[str, int]
    classes: Classes
    skipped: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)
