"""What is wrong with the data, found before anything is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.collection.coding import check_lengths
from featx.evaluation.lookalikes import Hashes, alike_between, alike_within

__all__ = ["Audit", "audit"]

SHOWN = 50
"""How many examples of each finding are kept; counts are of all."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Findings; lists are capped at 50 examples, counts are not.

    Parameters
    ----------
    duplicates, n_duplicates : list of (test name, training name), int
        Test images whose bytes occur in training, each with one of its copies.
    near_duplicates, n_near_duplicates : list of (test name, training name, bits), int
        Test images that look like a training image without being the same bytes, each with the
        nearest one and the number of hash bits that differ.
    near_checked : bool
        Whether near-duplicates were looked for; not without hashes.
    near_complete : bool
        Whether these are all: False where so many images are alike that a search was ended.
    without_hash : int
        Images of training and test whose looks are not known: too small, of one grey, or imported.
    near_within, n_near_within : list of (name, name of the other, bits), int
        Images that a fold scores and that have a copy or a lookalike among those it is fitted on, which
        makes the cross-validation optimistic.
    n_scored : int
        Images that a fold scores.
    conflicts, n_conflicts : list of (names, labels), int
        One image, the same bytes, under several labels.
    small_classes : list of (label, count)
        Classes with fewer images to learn from than the folds.
    shared_groups, n_shared_groups : list of str, int
        Groups that stand both in training and in the test.
    leaked_test : ndarray of bool, shape (n,)
        Rows of the test whose bytes occur in training.
    alike_test : ndarray of bool, shape (n,)
        Rows of the test that look nearly like one of training, without being the same bytes.
    alike_within : ndarray of bool, shape (n,)
        Rows of ``near_within``.
    """

    duplicates: list[tuple[str, str]]
    n_duplicates: int
    near_duplicates: list[tuple[str, str, int]]
    n_near_duplicates: int
    near_checked: bool
    near_complete: bool
    without_hash: int
    near_within: list[tuple[str, str, int]]
    n_near_within: int
    n_scored: int
    conflicts: list[tuple[list[str], list[str]]]
    n_conflicts: int
    small_classes: list[tuple[str, int]]
    shared_groups: list[str]
    n_shared_groups: int
    leaked_test: NDArray[np.bool_] = field(repr=False)
    alike_test: NDArray[np.bool_] = field(repr=False)
    alike_within: NDArray[np.bool_] = field(repr=False)

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not (
            self.n_duplicates
            or self.n_near_duplicates
            or self.n_near_within
            or self.n_conflicts
            or self.small_classes
            or self.n_shared_groups
        )

    def to_json(self) -> dict[str, Any]:
        """Plain types; of the masks, the first stands as its number of rows."""
        return {
            "duplicates": {"count": self.n_duplicates, "examples": [list(pair) for pair in self.duplicates]},
            "near_duplicates": {
                "checked": self.near_checked,
                "complete": self.near_complete,
                "without_hash": self.without_hash,
                "count": self.n_near_duplicates,
                "examples": [list(found) for found in self.near_duplicates],
            },
            "near_within_training": {
                "count": self.n_near_within,
                "of": self.n_scored,
                "examples": [list(found) for found in self.near_within],
            },
            "conflicts": {
                "count": self.n_conflicts,
                "examples": [{"names": names, "labels": labels} for names, labels in self.conflicts],
            },
            "small_classes": [{"label": label, "count": count} for label, count in self.small_classes],
            "shared_groups": {"count": self.n_shared_groups, "examples": list(self.shared_groups)},
            "leaked_test": int(self.leaked_test.sum()),
        }


def audit(
    names: Sequence[str],
    digests: ArrayLike | Sequence[bytes],
    phashes: ArrayLike | None,
    labels: Sequence[Any] | NDArray[Any],
    roles: Sequence[str] | NDArray[Any],
    groups: Sequence[Any] | NDArray[Any] | None = None,
    *,
    folds: int = 5,
    pairs: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]] = (),
) -> Audit:
    """Look for leaks between training and test, for contradictions, and for classes too small.

    Parameters
    ----------
    names : sequence of str, length n
        Names of the images.
    digests : array of uint8, shape (n, 32), or sequence of bytes
        SHA-256 of each image's bytes.
    phashes : array-like of uint64, shape (n,), or None
        Perceptual hashes; 0 and all ones say nothing and are passed over.
    labels : sequence, length n
        Labels; None or ``""`` where there is none.
    roles : sequence of str, length n
        ``train``, ``tuning``, ``test`` or ``""``, see :meth:`~featx.evaluation.Split.roles`. Tuning
        images count as training, since the final fit learns from them.
    groups : sequence, length n, optional
        What should stay together; None or ``""`` for images without.
    folds : int, default=5
        A class needs at least so many images to learn from.
    pairs : sequence of (fitted on, scored on)
        The folds, as row numbers; without them, alike images are not looked for between folds.

    Returns
    -------
    Audit

    Raises
    ------
    DatasetError
        If the lengths differ.

    Examples
    --------
    >>> found = audit(["a/1", "b/1"], [b"x" * 32, b"x" * 32], None, ["a", "b"], ["train", "test"])
    >>> found.duplicates, found.n_conflicts, found.leaked_test
    ([('b/1', 'a/1')], 1, array([False,  True]))
    """
    parts = np.asarray(roles, dtype=np.str_)
    known = np.array(["" if label is None else str(label) for label in labels], dtype=np.str_)
    codes = _codes(digests)
    check_lengths(names, codes, known, parts, phashes, groups)
    learned, tested = np.isin(parts, ("train", "tuning")), parts == "test"
    leaked = tested & np.isin(codes, codes[learned])
    first = {
        int(code): row for row, code in zip(np.flatnonzero(learned)[::-1], codes[learned][::-1], strict=True)
    }
    duplicates = [(names[row], names[first[int(codes[row])]]) for row in np.flatnonzero(leaked)[:SHOWN]]
    hashes = _hashes(codes, phashes, digests)
    used = learned | tested
    near = alike_between(hashes, np.flatnonzero(tested & ~leaked), np.flatnonzero(learned), SHOWN)
    within = alike_within(hashes, pairs, SHOWN)
    scored = np.unique(np.concatenate([valid for _, valid in pairs])) if pairs else np.empty(0, np.intp)
    conflicts, n_conflicts = _conflicts(names, codes, known)
    shared = _shared_groups(groups, learned, tested)
    values, counts = np.unique(known[learned & (known != "")], return_counts=True)
    return Audit(
        duplicates=duplicates,
        n_duplicates=int(leaked.sum()),
        near_duplicates=_named(names, near.examples),
        n_near_duplicates=int(near.found.sum()),
        near_checked=bool(hashes.telling[used].any()),
        near_complete=near.complete and within.complete,
        without_hash=int((used & ~hashes.telling).sum()),
        near_within=_named(names, within.examples),
        n_near_within=int(within.found.sum()),
        n_scored=len(scored),
        conflicts=conflicts,
        n_conflicts=n_conflicts,
        small_classes=[(str(v), int(c)) for v, c in zip(values, counts, strict=True) if c < folds],
        shared_groups=shared[:SHOWN],
        n_shared_groups=len(shared),
        leaked_test=leaked,
        alike_test=near.found,
        alike_within=within.found,
    )


def _hashes(codes: NDArray[np.intp], phashes: ArrayLike | None, digests: Any) -> Hashes:
    known = None if phashes is None else np.asarray(phashes, dtype=np.uint64)
    rows = digests if isinstance(digests, np.ndarray) and digests.ndim == 2 else None
    return Hashes.of(codes, known, rows)


def _named(names: Sequence[str], found: Sequence[tuple[int, int, int]]) -> list[tuple[str, str, int]]:
    return [(names[row], names[other], bits) for row, other, bits in found]


def _codes(digests: ArrayLike | Sequence[bytes]) -> NDArray[np.intp]:
    """Give every distinct digest a number."""
    if isinstance(digests, np.ndarray) and digests.dtype == np.uint8 and digests.ndim == 2:
        rows = np.ascontiguousarray(digests)
        keys = rows.view(np.dtype((np.void, rows.shape[1]))).ravel()
        return np.unique(keys, return_inverse=True)[1].ravel()
    numbers: dict[bytes, int] = {}
    listed: Any = digests
    return np.array([numbers.setdefault(bytes(one), len(numbers)) for one in listed], dtype=np.intp)


def _conflicts(
    names: Sequence[str], codes: NDArray[np.intp], labels: NDArray[np.str_]
) -> tuple[list[tuple[list[str], list[str]]], int]:
    labelled = np.flatnonzero(labels != "")
    pairs = np.unique(
        np.column_stack([codes[labelled], np.unique(labels[labelled], return_inverse=True)[1]]), axis=0
    )
    images, n_labels = np.unique(pairs[:, 0], return_counts=True)
    contradicted = images[n_labels > 1]
    found = []
    for code in contradicted[:SHOWN]:
        rows = labelled[codes[labelled] == code]
        found.append(([names[row] for row in rows[:SHOWN]], sorted({str(labels[row]) for row in rows})))
    return found, len(contradicted)


def _shared_groups(
    groups: Sequence[Any] | NDArray[Any] | None, learned: NDArray[np.bool_], tested: NDArray[np.bool_]
) -> list[str]:
    if groups is None:
        return []
    named = np.array(["" if group is None else str(group) for group in groups], dtype=np.str_)
    both = np.intersect1d(named[learned], named[tested])
    return [str(group) for group in both if group]
