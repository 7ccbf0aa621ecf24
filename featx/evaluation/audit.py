"""What is wrong with the data, found before anything is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.collection.coding import SAYS_NOTHING, check_lengths
from featx.collection.lookalikes import NEAR_BITS

__all__ = ["Audit", "audit"]

MOST_PAIRS = 2 * 10**9
"""Beyond so many (test, training) pairs, near-duplicates are not looked for (some seconds)."""

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
        Whether near-duplicates were looked for; not beyond 2·10⁹ pairs, nor without hashes.
    conflicts, n_conflicts : list of (names, labels), int
        One image, the same bytes, under several labels.
    small_classes : list of (label, count)
        Classes with fewer images to learn from than the folds.
    shared_groups, n_shared_groups : list of str, int
        Groups that stand both in training and in the test.
    leaked_test : ndarray of bool, shape (n,)
        Rows of the test whose bytes occur in training.
    """

    duplicates: list[tuple[str, str]]
    n_duplicates: int
    near_duplicates: list[tuple[str, str, int]]
    n_near_duplicates: int
    near_checked: bool
    conflicts: list[tuple[list[str], list[str]]]
    n_conflicts: int
    small_classes: list[tuple[str, int]]
    shared_groups: list[str]
    n_shared_groups: int
    leaked_test: NDArray[np.bool_] = field(repr=False)

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not (
            self.n_duplicates
            or self.n_near_duplicates
            or self.n_conflicts
            or self.small_classes
            or self.n_shared_groups
        )

    def to_json(self) -> dict[str, Any]:
        """Plain types; the mask stands as the number of rows."""
        return {
            "duplicates": {"count": self.n_duplicates, "examples": [list(pair) for pair in self.duplicates]},
            "near_duplicates": {
                "checked": self.near_checked,
                "count": self.n_near_duplicates,
                "examples": [list(found) for found in self.near_duplicates],
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
    near_bits: int = NEAR_BITS,
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
    near_bits : int, default=3
        Hashes that differ in at most so many bits are near; 0 to 64.

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
    near, n_near, checked = _near(names, phashes, np.flatnonzero(tested & ~leaked), learned, near_bits)
    conflicts, n_conflicts = _conflicts(names, codes, known)
    shared = _shared_groups(groups, learned, tested)
    values, counts = np.unique(known[learned & (known != "")], return_counts=True)
    return Audit(
        duplicates=duplicates,
        n_duplicates=int(leaked.sum()),
        near_duplicates=near,
        n_near_duplicates=n_near,
        near_checked=checked,
        conflicts=conflicts,
        n_conflicts=n_conflicts,
        small_classes=[(str(v), int(c)) for v, c in zip(values, counts, strict=True) if c < folds],
        shared_groups=shared[:SHOWN],
        n_shared_groups=len(shared),
        leaked_test=leaked,
    )


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


def _near(
    names: Sequence[str],
    phashes: ArrayLike | None,
    candidates: NDArray[np.intp],
    learned: NDArray[np.bool_],
    near_bits: int,
) -> tuple[list[tuple[str, str, int]], int, bool]:
    if phashes is None:
        return [], 0, False
    hashes = np.asarray(phashes, dtype=np.uint64)
    telling = ~np.isin(hashes, SAYS_NOTHING)
    tests = candidates[telling[candidates]]
    # One of each hash: sets of rendered or empty images hold the same one many times.
    kept, where = np.unique(hashes[learned & telling], return_index=True)
    rows = np.flatnonzero(learned & telling)[where]
    if len(tests) * len(kept) > MOST_PAIRS:
        return [], 0, False
    if not len(tests) or not len(kept):
        return [], 0, True
    found: list[tuple[str, str, int]] = []
    count = 0
    step = max(1, 2**22 // len(kept))
    for start in range(0, len(tests), step):
        block = tests[start : start + step]
        bits = np.bitwise_count(hashes[block][:, None] ^ kept[None])
        nearest = bits.argmin(axis=1)
        distance = bits[np.arange(len(block)), nearest]
        for at in np.flatnonzero(distance <= near_bits):
            count += 1
            if len(found) < SHOWN:
                found.append((names[block[at]], names[rows[nearest[at]]], int(distance[at])))
    return found, count, True


def _shared_groups(
    groups: Sequence[Any] | NDArray[Any] | None, learned: NDArray[np.bool_], tested: NDArray[np.bool_]
) -> list[str]:
    if groups is None:
        return []
    named = np.array(["" if group is None else str(group) for group in groups], dtype=np.str_)
    both = np.intersect1d(named[learned], named[tested])
    return [str(group) for group in both if group]
