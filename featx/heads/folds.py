"""Folds for the search: stratified, whole groups, or the caller's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from featx.errors import DatasetError

__all__ = ["Folds", "make_folds", "smallest_class"]

Indices = NDArray[np.intp]
Folds = list[tuple[Indices, Indices]]
"""Pairs of row indices: what a fold is fitted on, and what it is scored on."""


def make_folds(
    y: ArrayLike,
    cv: int | Iterable[tuple[ArrayLike, ArrayLike]] = 5,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Folds:
    """Make folds that keep the share of every class, and groups whole; or check given ones.

    Parameters
    ----------
    y : array-like of shape (n,)
        Labels.
    cv : int or iterable of (train, valid) index pairs, default=5
        The number of folds, or the folds themselves. One pair is a tuning split.
    groups : array-like of shape (n,), optional
        Images of one group never stand on both sides of a fold.
    seed : int, default=0
        For the shuffling.

    Returns
    -------
    list of (train, valid) pairs of index arrays

    Raises
    ------
    DatasetError
        If a class or the groups are too few for the folds, a fold's training part lacks a class,
        or given folds overlap, split a group or point outside of ``y``.

    Examples
    --------
    >>> folds = make_folds(["a", "b"] * 4, cv=2)
    >>> [len(valid) for _, valid in folds]
    [4, 4]
    """
    labels = np.asarray(y)
    group = None if groups is None else np.asarray(groups)
    if group is not None and group.shape != labels.shape:
        raise DatasetError(
            f"groups has shape {group.shape} and y {labels.shape}: give one group for each image."
        )
    folds = (
        _make(labels, int(cv), group, seed) if isinstance(cv, int | np.integer) else _take(labels, cv, group)
    )
    _check_classes(labels, folds, group)
    return folds


def smallest_class(y: NDArray[Any], groups: NDArray[Any] | None = None) -> int:
    """How many images (or groups) the class with the fewest has: the most folds that are possible."""
    if groups is None:
        return int(np.unique(y, return_counts=True)[1].min())
    return min(len(np.unique(groups[y == label])) for label in np.unique(y))


def _make(labels: NDArray[Any], k: int, group: NDArray[Any] | None, seed: int) -> Folds:
    if k < 2:
        raise DatasetError(f"Cross-validation with {k} folds is not possible: give --cv 2 or more.")
    names, counts = np.unique(labels, return_counts=True)
    if counts.min() < k:
        name, count = names[counts.argmin()], int(counts.min())
        remedy = f"or choose --cv {count}" if count > 1 else "or leave the class out"
        raise DatasetError(
            f"Class {str(name)!r} has {_count(count, 'training image')}, fewer than the {k} folds of the "
            f"cross-validation: add images of it, {remedy}."
        )
    if group is None:
        splitter: Any = StratifiedKFold(k, shuffle=True, random_state=seed)
    else:
        n_groups = len(np.unique(group))
        if n_groups < k:
            remedy = f"choose --cv {n_groups}" if n_groups > 1 else "leave out --group"
            raise DatasetError(
                f"There are {_count(n_groups, 'group')} for {k} folds, and groups are kept whole: {remedy}."
            )
        splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    blank = np.zeros((len(labels), 1), dtype=np.uint8)
    return [(train, valid) for train, valid in splitter.split(blank, labels, group)]


def _take(
    labels: NDArray[Any], pairs: Iterable[tuple[ArrayLike, ArrayLike]], group: NDArray[Any] | None
) -> Folds:
    folds: Folds = []
    n = len(labels)
    for number, (first, second) in enumerate(pairs, 1):
        train, valid = (np.asarray(part) for part in (first, second))
        for part, name in ((train, "training"), (valid, "validation")):
            if part.ndim != 1 or not len(part) or part.dtype.kind not in "iu":
                raise DatasetError(
                    f"The {name} part of fold {number} is no list of row indices (dtype {part.dtype}, shape "
                    f"{part.shape}): give two non-empty integer arrays for each fold."
                )
            if part.min() < 0 or part.max() >= n:
                raise DatasetError(
                    f"The {name} part of fold {number} points at row {int(part.max())}, outside of the {n} "
                    f"rows "
                    "of y: give indices from 0 on."
                )
        train, valid = train.astype(np.intp), valid.astype(np.intp)
        if len(shared := np.intersect1d(train, valid)):
            raise DatasetError(
                f"Fold {number} is scored on {_count(len(shared), 'row')} that it is fitted on (the first is "
                f"row "
                f"{int(shared[0])}): give parts that do not overlap."
            )
        if group is not None and len(both := np.intersect1d(group[train], group[valid])):
            raise DatasetError(
                f"Fold {number} has {_count(len(both), 'group')} on both sides (the first is "
                f"{str(both[0])!r}): "
                "keep groups whole."
            )
        folds.append((train, valid))
    if not folds:
        raise DatasetError("cv holds no folds: give a number, or at least one (train, valid) pair.")
    return folds


def _check_classes(labels: NDArray[Any], folds: Folds, group: NDArray[Any] | None) -> None:
    names = np.unique(labels)
    for number, (train, _) in enumerate(folds, 1):
        missing = np.setdiff1d(names, labels[train])
        if not len(missing):
            continue
        name = missing[0]
        if group is not None:
            n_groups = len(np.unique(group[labels == name]))
            raise DatasetError(
                f"Class {str(name)!r} occurs in {_count(n_groups, 'group')} only, so the training part of "
                f"fold "
                f"{number} has none of it: add groups with it, or choose fewer folds with --cv."
            )
        raise DatasetError(
            f"Class {str(name)!r} is missing in the training part of fold {number}: add training images of "
            f"it, "
            "or leave the class out."
        )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
