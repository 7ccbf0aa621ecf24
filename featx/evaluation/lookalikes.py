"""Rows that look nearly like others, told from perceptual hashes: between parts, and between folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featx.collection.coding import SAYS_NOTHING
from featx.collection.lookalikes import near_any

__all__ = ["Alike", "Hashes", "alike_between", "alike_within"]

Rows = NDArray[np.intp]


class Alike(NamedTuple):
    """Rows that look nearly like others: a mask (n,), examples, and whether the search went to its end.

    Examples are ``(row, nearest other row, bits)``.
    """

    found: NDArray[np.bool_]
    examples: list[tuple[int, int, int]]
    complete: bool


class Hashes(NamedTuple):
    """What is known of each row's looks.

    Parameters
    ----------
    codes : ndarray of int, (n,)
        A number for each content, the same for the same bytes.
    phashes : ndarray of uint64, (n,)
    telling : ndarray of bool, (n,)
        Whether the perceptual hash says anything.
    """

    codes: Rows
    phashes: NDArray[np.uint64]
    telling: NDArray[np.bool_]

    @classmethod
    def of(cls, codes: Rows, phashes: NDArray[np.uint64] | None, digests: NDArray[np.uint8] | None) -> Hashes:
        """Take hashes; those of images too small or of one grey say nothing.

        Nor do those that are the start of the digest, which an import without hashes has in their place.
        """
        if phashes is None:
            return cls(codes, np.zeros(len(codes), np.uint64), np.zeros(len(codes), np.bool_))
        telling = ~np.isin(phashes, SAYS_NOTHING)
        if digests is not None:
            starts = np.ascontiguousarray(digests[:, :8]).view("<u8").ravel()
            telling &= phashes != starts
        return cls(codes, phashes, telling)

    def nearest(self, row: int, others: Rows) -> tuple[int, int]:
        """Find the nearest of other rows, and how many bits differ; 0 for the same bytes."""
        same = others[self.codes[others] == self.codes[row]]
        if len(same):
            return int(same[0]), 0
        others = others[self.telling[others]]
        bits = np.bitwise_count(self.phashes[others] ^ self.phashes[row])
        at = int(bits.argmin())
        return int(others[at]), int(bits[at])


def alike_between(hashes: Hashes, rows: Rows, others: Rows, shown: int) -> Alike:
    """Find those of some rows that look nearly like any of other rows.

    Parameters
    ----------
    hashes : Hashes
    rows, others : ndarray of int
    shown : int
        Examples to give, at most.

    Examples
    --------
    >>> looks = np.array([0b1000, 0b1111_0000, 0b1001], np.uint64)
    >>> hashes = Hashes.of(np.arange(3), looks, None)
    >>> alike_between(hashes, np.array([2]), np.array([0, 1]), 5).examples
    [(2, 0, 1)]
    """
    looked_at = rows[hashes.telling[rows]]
    kept = np.unique(hashes.phashes[others[hashes.telling[others]]])
    # One of each hash: sets of rendered images hold the same one many times.
    different, where = np.unique(hashes.phashes[looked_at], return_inverse=True)
    result = near_any(different, kept)
    found = np.zeros(len(hashes.codes), np.bool_)
    found[looked_at[result.near[where]]] = True
    examples = [(int(row), *hashes.nearest(int(row), others)) for row in np.flatnonzero(found)[:shown]]
    return Alike(found, examples, result.complete)


def alike_within(hashes: Hashes, folds: Sequence[tuple[Rows, Rows]], shown: int) -> Alike:
    """Find rows that a fold scores and that have a copy or a lookalike among those it is fitted on.

    Parameters
    ----------
    hashes : Hashes
    folds : sequence of (fitted on, scored on)
        Row numbers.
    shown : int
        Examples to give, at most.

    Examples
    --------
    >>> hashes = Hashes.of(np.array([0, 1, 0]), None, None)
    >>> folds = [(np.array([1, 2]), np.array([0])), (np.array([0, 2]), np.array([1]))]
    >>> alike_within(hashes, folds, 5).examples
    [(0, 2, 0)]
    """
    found = np.zeros(len(hashes.codes), np.bool_)
    examples: list[tuple[int, int, int]] = []
    complete = True
    for fitted, scored in folds:
        copies = np.isin(hashes.codes[scored], hashes.codes[fitted])
        alike = alike_between(hashes, scored[~copies], fitted, shown)
        alike.found[scored[copies]] = True
        new = np.flatnonzero(alike.found & ~found)[: shown - len(examples)]
        examples += [(int(row), *hashes.nearest(int(row), fitted)) for row in new]
        found |= alike.found
        complete &= alike.complete
    return Alike(found, examples, complete)
