"""Small training sets out of a large one: every class in its share, groups whole, many times over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Order", "draw_order", "draw_shots"]

Indices = NDArray[np.intp]

_FRONT = 2
"""Images (or groups) of every class that lead an order, so that its smallest beginnings can be tuned."""


@dataclass(frozen=True, slots=True)
class Order:
    """Rows in an order whose beginnings are small training sets.

    Parameters
    ----------
    rows : ndarray of int, (n,)
        Every row once.
    ends : ndarray of int
        Lengths that a beginning can have without cutting a group, ascending; the last one is n.
    front : int
        The shortest beginning with two images, or two groups, of every class that has them.
    """

    rows: Indices
    ends: Indices
    front: int

    def take(self, n: int) -> Indices:
        """Return the beginning whose length is nearest to ``n``, rows ascending."""
        ends = self.ends[self.ends >= self.front]
        return np.sort(self.rows[: ends[np.abs(ends - n).argmin()]])


def draw_order(y: ArrayLike, groups: ArrayLike | None, seed: Sequence[int]) -> Order:
    """Put rows into a random order in which every beginning has each class in about its share.

    Parameters
    ----------
    y : array-like of shape (n,)
        Labels.
    groups : array-like of shape (n,) or None
        Rows of one group stand together; shares of classes are then kept as well as groups allow.
    seed : sequence of int
        The same seed gives the same order.

    Returns
    -------
    Order

    Examples
    --------
    >>> order = draw_order(["a"] * 6 + ["b"] * 3, None, [0])
    >>> order.front, [int((order.take(6) < 6).sum()), len(order.take(6))]
    (4, [4, 6])
    """
    codes = np.unique(np.asarray(y), return_inverse=True)[1]
    rng = np.random.default_rng([*seed])
    n, k = len(codes), int(codes.max()) + 1
    units = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    counts = np.zeros((int(units.max()) + 1, k), dtype=np.intp)
    np.add.at(counts, (units, codes), 1)
    sizes = counts.sum(axis=1)
    keys = np.empty(len(counts))
    # A unit of several classes stands where the class that it has most of puts it.
    kind = counts.argmax(axis=1)
    for code in range(k):
        members = rng.permutation(np.flatnonzero(kind == code))
        before = np.cumsum(sizes[members]) - sizes[members]
        keys[members] = (before + rng.random()) / max(1, sizes[members].sum())
    order = np.argsort(keys, kind="stable")
    front = _front(counts[order])
    order = np.concatenate([order[front], np.delete(order, front)])
    place = np.empty(len(order), dtype=np.intp)
    place[order] = np.arange(len(order))
    return Order(
        rows=np.argsort(place[units], kind="stable"),
        ends=np.cumsum(sizes[order]),
        front=int(sizes[order[: len(front)]].sum()),
    )


def _front(counts: NDArray[np.intp]) -> Indices:
    """Positions of the first units that together have each class twice, or as often as there is one."""
    chosen = np.zeros(len(counts), dtype=bool)
    has = counts > 0
    # The rarest first: what stands for it may stand for others too.
    for code in np.argsort(has.sum(axis=0), kind="stable"):
        missing = _FRONT - int((has[:, code] & chosen).sum())
        if missing > 0:
            chosen[np.flatnonzero(has[:, code] & ~chosen)[:missing]] = True
    return np.flatnonzero(chosen)


def draw_shots(y: ArrayLike, groups: ArrayLike | None, seed: Sequence[int]) -> list[Indices]:
    """Put the rows of each class into a random order; the first s of each are a draw of s shots.

    Parameters
    ----------
    y : array-like of shape (n,)
        Labels.
    groups : array-like of shape (n,) or None
        The images of a draw then come from as many groups as there are: each group of a class gives
        one image before any gives a second.
    seed : sequence of int
        The same seed gives the same orders.

    Returns
    -------
    list of ndarray of int
        Rows of each class, in the order of the sorted labels.

    Examples
    --------
    >>> [sorted(rows[:2].tolist()) for rows in draw_shots(["a", "a", "b", "b"], None, [0])]
    [[0, 1], [2, 3]]
    """
    labels = np.asarray(y)
    rng = np.random.default_rng([*seed])
    named: NDArray[Any] | None = None if groups is None else np.asarray(groups)
    drawn = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if named is not None:
            rows = rows[np.argsort(_turns(named[rows]), kind="stable")]
        drawn.append(rows)
    return drawn


def _turns(groups: NDArray[Any]) -> NDArray[np.intp]:
    """How many of the same group stand before each."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(groups)])
    turns = np.empty(len(groups), dtype=np.intp)
    turns[order] = np.arange(len(groups)) - np.repeat(starts, lengths)
    return turns
