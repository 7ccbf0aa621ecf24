"""Images that look nearly alike: which, and whether they stand in several splits or under several labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featx.collection.coding import SAYS_NOTHING, Coded, Contents
from featx.collection.findings import Lookalikes, Near
from featx.collection.lookalikes import near_pairs

__all__ = ["find_near"]


def find_near(
    names: Sequence[str],
    contents: Contents,
    phashes: NDArray[np.uint64],
    labels: Coded,
    splits: Coded,
    shown: int,
) -> Near:
    """Find images of different bytes whose hashes are near.

    Parameters
    ----------
    names : sequence of str, length n
    contents : Contents
    phashes : ndarray of uint64, (n,)
        Perceptual hashes; 0 and all ones say nothing and are passed over.
    labels, splits : Coded
    shown : int
        Examples to give, at most.
    """
    hashes = phashes[contents.first]
    telling = np.flatnonzero(~np.isin(hashes, SAYS_NOTHING))
    different, look_of_content = np.unique(hashes[telling], return_inverse=True)
    shared = np.flatnonzero(np.bincount(look_of_content, minlength=len(different)) > 1)
    pairs = near_pairs(different)
    left, right = np.append(shared, pairs.left), np.append(shared, pairs.right)
    bits = np.append(np.zeros(len(shared), np.int64), pairs.bits)
    look = np.full(len(hashes), -1, np.int64)
    look[telling] = look_of_content
    looks = _Looks(look[contents.codes], len(different), contents.codes)
    in_splits, in_labels = (looks.differ(values.codes, left, right) for values in (splits, labels))
    is_near = np.zeros(len(different), np.bool_)
    is_near[left] = is_near[right] = True
    first = np.full(len(different), len(names), np.int64)
    np.minimum.at(first, look_of_content, contents.first[telling])
    one, other = np.minimum(first[left], first[right]), np.maximum(first[left], first[right])
    examples = []
    for place in np.lexsort((other, one, ~in_labels, ~in_splits))[:shown].tolist():
        values = splits if in_splits[place] else labels if in_labels[place] else None
        a, b = looks.example(int(left[place]), int(right[place]), values)
        examples.append(
            Lookalikes(
                names=(names[a], names[b]),
                bits=int(bits[place]),
                labels=(labels.text(a), labels.text(b)),
                splits=(splits.text(a), splits.text(b)),
            )
        )
    return Near(
        count=len(left),
        across_splits=int(in_splits.sum()),
        across_labels=int(in_labels.sum()),
        images=int(is_near[looks.of[looks.of >= 0]].sum()),
        complete=pairs.complete,
        examples=examples,
    )


class _Looks(NamedTuple):
    """Images by their perceptual hash: which look each is ``of``, -1 for none, and which content."""

    of: NDArray[np.int64]
    different: int
    contents: NDArray[np.int64]

    def differ(
        self, codes: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether two images of different bytes, one of each look, have different codes other than 0."""
        rows = np.flatnonzero((self.of >= 0) & (codes > 0))
        low, high = self._extremes(rows, codes)
        least, most = self._extremes(rows, self.contents)
        are_coded = (low[left] <= high[left]) & (low[right] <= high[right])
        are_different = np.minimum(low[left], low[right]) < np.maximum(high[left], high[right])
        # Two codes of one look may be those of one content, which is an exact duplicate.
        are_of_two: NDArray[np.bool_] = (left != right) | (least[left] < most[left])
        return are_of_two & are_coded & are_different

    def _extremes(
        self, rows: NDArray[np.int64], values: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give the least and the greatest value of each look; the least is greater where there is none."""
        low, high = np.full(self.different, np.iinfo(np.int64).max), np.full(self.different, -1)
        np.minimum.at(low, self.of[rows], values[rows])
        np.maximum.at(high, self.of[rows], values[rows])
        return low, high

    def example(self, left: int, right: int, values: Coded | None) -> tuple[int, int]:
        """Find two images of different bytes, one of each look, that differ in ``values`` if given."""
        rows = np.flatnonzero((self.of == left) | (self.of == right))
        sides = self.contents[rows] if left == right else self.of[rows]
        codes = np.zeros(len(rows), np.int64) if values is None else values.codes[rows]
        # If any two images differ in both, the first one of some value has a counterpart too.
        for at in np.sort(np.unique(codes, return_index=True)[1]):
            others = sides != sides[at]
            if values is not None:
                others &= (codes != codes[at]) & (codes > 0) & (codes[at] > 0)
            if others.any():
                pair = rows[at], rows[others.argmax()]
                return int(min(pair)), int(max(pair))
        raise AssertionError("near looks are of two images")
