"""Looking over a collection: what it holds twice, or nearly, and what its images are like."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.collection.coding import Coded, Contents, Texts, by_content, check_lengths, coded
from featx.collection.findings import Classes, Collection, Copies, Near, Range, Same, Several, Sizes
from featx.collection.near import find_near

__all__ = ["SMALL_SIDE", "audit_collection"]

SMALL_SIDE = 32
"""Images with a side of fewer pixels are small; they have no perceptual hash."""

SHOWN = 50
"""How many examples of each finding are kept, and names in each."""

_LONGEST_REASON = 120


def audit_collection(
    names: Sequence[str],
    digests: NDArray[np.uint8],
    phashes: ArrayLike | None = None,
    labels: Texts | None = None,
    splits: Texts | None = None,
    *,
    widths: ArrayLike | None = None,
    heights: ArrayLike | None = None,
    modes: Texts | None = None,
    skipped: Iterable[str] = (),
) -> Collection:
    """Look over a whole collection; a million images take some seconds.

    Parameters
    ----------
    names : sequence of str, length n
        Names of the images.
    digests : ndarray of uint8, (n, 32)
        SHA-256 of each image's bytes.
    phashes : array-like of uint64, (n,), optional
        Perceptual hashes; 0 and all ones say nothing and are passed over.
    labels, splits : sequence of length n, optional
        None or ``""`` for images without.
    widths, heights : array-like of int, (n,), optional
        In pixels; 0 where unknown.
    modes : sequence of length n, optional
        Pillow's names of what the files hold; ``""`` where unknown.
    skipped : iterable of str
        For each image that could not be used, why.

    Returns
    -------
    Collection

    Raises
    ------
    DatasetError
        If the lengths differ.

    Examples
    --------
    >>> digests = np.repeat([[1], [1], [2]], 32, axis=1).astype(np.uint8)
    >>> found = audit_collection(["a/1", "b/1", "b/2"], digests, [7, 7, 15], ["a", "b", "b"])
    >>> found.duplicates.examples, found.conflicts.count, found.near_duplicates.count
    ([['a/1', 'b/1']], 1, 1)
    """
    check_lengths(names, digests, phashes, labels, splits, widths, heights, modes)
    contents = by_content(digests)
    classes, parts = coded(labels, len(names)), coded(splits, len(names))
    near = Near(0, 0, 0, 0, complete=True, examples=[])
    if phashes is not None:
        near = find_near(names, contents, np.asarray(phashes, np.uint64), classes, parts, SHOWN)
    return Collection(
        images=len(names),
        duplicates=_copies(names, contents),
        conflicts=_several(names, contents, classes),
        across_splits=_several(names, contents, parts),
        near_duplicates=near,
        sizes=_sizes(widths, heights),
        modes=dict(coded(modes, len(names)).counts().most_common()),
        classes=_classes(classes),
        skipped=dict(Counter(map(_kind_of_reason, skipped)).most_common()),
    )


def _copies(names: Sequence[str], contents: Contents) -> Copies:
    repeated = np.flatnonzero(contents.counts > 1)
    by_place = repeated[np.argsort(contents.first[repeated])]
    examples = [_names(names, contents.members(content)) for content in by_place[:SHOWN]]
    return Copies(len(repeated), len(names) - len(contents.counts), examples)


def _several(names: Sequence[str], contents: Contents, values: Coded) -> Several:
    rows = np.flatnonzero((values.codes > 0) & (contents.counts[contents.codes] > 1))
    pairs = np.unique(contents.codes[rows] * len(values.texts) + values.codes[rows])
    found, n_values = np.unique(pairs // len(values.texts), return_counts=True)
    found = found[n_values > 1]
    examples = []
    for content in found[np.argsort(contents.first[found])][:SHOWN]:
        members = contents.members(content)
        members = members[values.codes[members] > 0]
        # The first of each value, then the others: what contradicts is to be seen.
        firsts = np.sort(np.unique(values.codes[members], return_index=True)[1])
        members = np.append(members[firsts], np.delete(members, firsts))[:SHOWN]
        examples.append(Same(_names(names, members), [values.text(row) for row in members]))
    return Several(len(found), examples)


def _sizes(widths: ArrayLike | None, heights: ArrayLike | None) -> Sizes | None:
    if widths is None or heights is None:
        return None
    width, height = np.asarray(widths, np.int64), np.asarray(heights, np.int64)
    known = (width > 0) & (height > 0)
    if not known.any():
        return None
    width, height = width[known], height[known]
    return Sizes(
        width=_range(width),
        height=_range(height),
        different=len(np.unique(width << 32 | height)),
        small=int((np.minimum(width, height) < SMALL_SIDE).sum()),
        unknown=int((~known).sum()),
    )


def _range(values: NDArray[np.int64]) -> Range:
    return Range(int(values.min()), float(np.median(values)), int(values.max()))


def _classes(labels: Coded) -> Classes:
    counts = dict(sorted(labels.counts().items()))
    unlabelled = len(labels.codes) - sum(counts.values())
    if not counts:
        return Classes(counts, unlabelled, None, None, None)
    smallest, largest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    return Classes(counts, unlabelled, smallest, largest, counts[largest] / counts[smallest])


def _kind_of_reason(reason: str) -> str:
    """Give a reason without its numbers, which differ from image to image.

    Examples
    --------
    >>> _kind_of_reason("12,000×9000 pixels are more than 89478485 allowed")
    'N×N pixels are more than N allowed'
    """
    return re.sub(r"\d+(?:[.,]\d+)*", "N", reason)[:_LONGEST_REASON]


def _names(names: Sequence[str], rows: NDArray[np.int64]) -> list[str]:
    return [names[row] for row in rows[:SHOWN]]
