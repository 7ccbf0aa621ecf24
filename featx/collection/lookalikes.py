"""Perceptual hashes that differ in few bits, found among millions without comparing all with all."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEAR_BITS", "NearPairs", "Nearness", "near_any", "near_pairs"]

NEAR_BITS = 3
"""Hashes of 64 bits that differ in at most so many are of nearly the same image."""

BANDS = 5
"""Bands of bits; near hashes agree in at least ``BANDS - NEAR_BITS`` of them."""

MOST_COMPARED = 10**8
"""Comparisons after which no more are made (some 2 s)."""

MOST_FOUND = 200_000
"""Pairs after which no more are looked for."""

MOST_STEPS = 10**9
"""Comparisons after which :func:`near_any` makes no more (some 20 s)."""


class NearPairs(NamedTuple):
    """Pairs of hashes that are near.

    Parameters
    ----------
    left, right : ndarray of int64, (k,)
        Places of the hashes, ``left < right``; in the order of left, then right.
    bits : ndarray of int64, (k,)
        How many bits differ, at least 1.
    complete : bool
        Whether these are all: False where so many hashes are alike that the search was ended.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    bits: NDArray[np.int64]
    complete: bool


def near_pairs(
    hashes: NDArray[np.uint64], *, most_compared: int = MOST_COMPARED, most_found: int = MOST_FOUND
) -> NearPairs:
    """Find all pairs of hashes that differ in at most :data:`NEAR_BITS` bits.

    Three bits that differ lie in at most three of five bands, so that near hashes agree in at least two. For
    each two bands the hashes are sorted by these, and compared with those behind them that agree in both.

    Source: G. S. Manku, A. Jain, A. Das Sarma, "Detecting Near-Duplicates for Web Crawling", WWW 2007.

    Parameters
    ----------
    hashes : ndarray of uint64, (n,)
        All different.
    most_compared, most_found : int
        Where the search ends.

    Returns
    -------
    NearPairs

    Examples
    --------
    >>> found = near_pairs(np.array([0b0111, 0b1000_0000_0000, 0b1111], np.uint64))
    >>> list(zip(found.left.tolist(), found.right.tolist(), found.bits.tolist()))
    [(0, 2, 1)]
    """
    masks = _masks()
    found = [np.empty((3, 0), np.int64)]
    compared = n_found = 0
    complete = True
    for number, mask in enumerate(masks):
        order = np.argsort(hashes & mask)
        there = hashes[order]
        behind = _equal_behind(there & mask)
        active, step = np.flatnonzero(behind), 1
        while len(active):
            compared += len(active)
            if compared > most_compared or n_found > most_found:
                complete = False
                break
            differing = there[active] ^ there[active + step]
            bits = np.bitwise_count(differing)
            near = np.flatnonzero(bits <= NEAR_BITS)
            for earlier in masks[:number]:  # what agrees there too was found there
                near = near[differing[near] & earlier != 0]
            if len(near):
                one, other = order[active[near]], order[active[near] + step]
                found.append(np.stack([np.minimum(one, other), np.maximum(one, other), bits[near]]))
                n_found += len(near)
            step += 1
            active = active[behind[active] >= step]
    left, right, bits_of_all = np.concatenate(found, axis=1)
    by_place = np.lexsort((right, left))
    return NearPairs(left[by_place], right[by_place], bits_of_all[by_place], complete)


class Nearness(NamedTuple):
    """Whether hashes are near to any of some others.

    Parameters
    ----------
    near : ndarray of bool, (n,)
    complete : bool
        Whether these are all: False where so many hashes are alike that the search was ended.
    """

    near: NDArray[np.bool_]
    complete: bool


def near_any(
    hashes: NDArray[np.uint64], others: NDArray[np.uint64], *, most_compared: int = MOST_STEPS
) -> Nearness:
    """Find the hashes that differ from any of ``others`` in at most :data:`NEAR_BITS` bits.

    The same bands as in :func:`near_pairs`. A hash that is found is looked at no more, so that series of
    like images, which have pairs without number, cost little.

    Parameters
    ----------
    hashes : ndarray of uint64, (n,)
    others : ndarray of uint64, (m,)
    most_compared : int
        Where the search ends.

    Returns
    -------
    Nearness

    Examples
    --------
    >>> near_any(np.array([0b0111, 0b1111_1000], np.uint64), np.array([0], np.uint64)).near.tolist()
    [True, False]
    """
    near = np.isin(hashes, others)
    others = np.unique(others)
    compared = 0
    for mask in _masks():
        there = others[np.argsort(others & mask)]
        keys = there & mask
        left = np.flatnonzero(~near)
        at = np.searchsorted(keys, hashes[left] & mask, side="left")
        stop = np.searchsorted(keys, hashes[left] & mask, side="right")
        going = at < stop
        while going.any():
            left, at, stop = left[going], at[going], stop[going]
            compared += len(left)
            if compared > most_compared:
                return Nearness(near, complete=False)
            is_near = np.bitwise_count(hashes[left] ^ there[at]) <= NEAR_BITS
            near[left[is_near]] = True
            at = at + 1
            going = ~is_near & (at < stop)
    return Nearness(near, complete=True)


def _masks() -> list[np.uint64]:
    """Give the bits of every choice of bands in which near hashes may agree."""
    edges = [64 * band // BANDS for band in range(BANDS + 1)]
    bands = [(1 << stop) - (1 << start) for start, stop in pairwise(edges)]
    return [np.uint64(sum(chosen)) for chosen in combinations(bands, BANDS - NEAR_BITS)]


def _equal_behind(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Count, for each of some sorted keys, the equal ones behind it.

    Examples
    --------
    >>> _equal_behind(np.array([3, 3, 3, 5, 7, 7], np.uint64)).tolist()
    [2, 1, 0, 0, 1, 0]
    """
    ends = np.append(np.flatnonzero(keys[1:] != keys[:-1]) + 1, len(keys))
    return np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(1, len(keys) + 1)
