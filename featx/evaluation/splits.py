"""Which images are learned from, which tune, and which are only ever scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit

from featx.errors import DatasetError

__all__ = ["Split", "group_codes", "make_split"]

DEFAULT_TEST_SIZE = 0.25
"""Share of the labelled images that a hold-out sets aside for the test."""

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of a labelled set by the part they play; no row stands in two parts, unless it is whole.

    Parameters
    ----------
    train, test : ndarray of int
        Row numbers, ascending.
    tuning : ndarray of int or None
        The source's own tuning split, ascending; None: tune by folds inside ``train``.
    origin : str
        Where the test split comes from, for people.
    unlabelled : int
        Images that were left out because they have no label.
    notes : tuple of str
        What else the reader must know.
    """

    train: Indices
    tuning: Indices | None
    test: Indices
    origin: str
    unlabelled: int = 0
    notes: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is held out: each row is learned from and, by nested folds, tested."""
        return np.array_equal(self.train, self.test)

    @property
    def development(self) -> Indices:
        """All rows that are not test, or all if it is whole, ascending: what the final fit learns from."""
        return self.train if self.tuning is None else np.union1d(self.train, self.tuning)

    @property
    def tuning_pair(self) -> tuple[Indices, Indices] | None:
        """The tuning split as one (train, valid) fold: positions in :attr:`development`."""
        if self.tuning is None:
            return None
        rows = self.development
        return np.searchsorted(rows, self.train), np.searchsorted(rows, self.tuning)

    def roles(self, n: int) -> NDArray[np.str_]:
        """Return the part of each of ``n`` rows: ``train``, ``tuning``, ``test`` or ``""`` (left out)."""
        parts = np.full(n, "", dtype="<U6")
        parts[self.train] = "train"
        if self.tuning is not None:
            parts[self.tuning] = "tuning"
        parts[self.test] = "test"
        return parts


def make_split(
    splits: Sequence[str | None],
    y: Sequence[Any] | NDArray[Any],
    groups: Sequence[Any] | NDArray[Any] | None = None,
    *,
    test_size: float | None = None,
    whole: bool = False,
    seed: int = 0,
) -> Split:
    """Take the source's own test split, or hold one out.

    The source's ``test`` is the test, and ``val`` beside it tunes. A source with ``val`` but no
    ``test`` has it as its test. Otherwise a hold-out that keeps the share of every class, and groups
    whole. Images without a label are left out.

    Parameters
    ----------
    splits : sequence of str, length n
        ``train``, ``val``, ``test``, or ``""`` where the source names none.
    y : sequence, length n
        Labels; None or ``""`` where there is none.
    groups : sequence, length n, optional
        What must stay together; see :func:`group_codes`.
    test_size : float, optional
        Share of a hold-out, between 0 and 1; default 0.25.
    whole : bool, default=False
        Hold nothing out: for nested cross-validation, whose outer folds take the place of a hold-out.
        Without effect where the source has a test split.
    seed : int, default=0
        For the hold-out.

    Returns
    -------
    Split

    Raises
    ------
    DatasetError
        If a part would be empty, hold one class only, or lack a class that another one has; if
        ``test_size`` is given for a source with a test of its own.

    Examples
    --------
    >>> split = make_split(["train"] * 4 + ["val"] * 2, ["a", "b"] * 3)
    >>> split.test, split.tuning, split.origin
    (array([4, 5]), None, "the source's val split, since it has no test split")
    """
    labels = _labels(y)
    names = np.array([split or "" for split in splits])
    if names.shape != labels.shape:
        raise DatasetError(
            f"There are {len(names)} splits for {len(labels)} labels: give one for each image."
        )
    if test_size is not None and not 0 < test_size < 1:
        raise DatasetError(f"The test size is {test_size:g}: give a share between 0 and 1, such as 0.25.")
    if unknown := sorted(set(names.tolist()) - {"", "train", "val", "test"}):
        raise DatasetError(f"There is a split named {unknown[0]!r}: expected train, val or test.")
    labelled = labels != ""
    if not labelled.any():
        raise DatasetError(
            f"None of the {len(labels)} images has a label: put them into class folders, or give --labels "
            f"CSV."
        )
    if len(classes := np.unique(labels[labelled])) < 2:
        raise DatasetError(
            f"All {int(labelled.sum())} labelled images are of class {str(classes[0])!r}: a classifier needs "
            "at least two classes: put images of another into a folder beside it, or give --labels CSV."
        )
    notes = [
        f"the {name} split has no labels and is left out ({int((names == name).sum())} images)"
        for name in ("test", "val")
        if (names == name).any() and not (labelled & (names == name)).any()
    ]
    notes += [
        f"{missing} of {int((names == name).sum())} {name} images have no label and are left out: label them"
        for name in ("train", "test", "val")
        if (missing := int((~labelled & (names == name)).sum())) and (labelled & (names == name)).any()
    ]
    own = "test" if (labelled & (names == "test")).any() else "val"
    test = labelled & (names == own)
    tuning = labelled & (names == "val") if own == "test" else np.zeros_like(test)
    if test.any():
        if test_size is not None:
            raise DatasetError(
                f"A test size of {test_size:g} was given, but the source has a {own} split of "
                f"{int(test.sum())} "
                "labelled images, which is the test: leave out --test-size, or give a source without splits."
            )
        train = labelled & ~test & ~tuning
        origin = "the source's test split"
        if own == "val":
            unlabelled_test = "labelled " if (names == "test").any() else ""
            origin = f"the source's val split, since it has no {unlabelled_test}test split"
        if (unnamed := int((train & (names == "")).sum())) and not (names[train] == "").all():
            notes.append(f"{unnamed} images name no split and count as training images")
    elif whole:
        train, test, origin = labelled, labelled, "nothing is held out"
    else:
        rows = np.flatnonzero(labelled)
        codes = None if groups is None else group_codes(groups)
        held, origin = _hold_out(
            labels[rows], None if codes is None else codes[rows], test_size or DEFAULT_TEST_SIZE, seed
        )
        test[rows[held]] = True
        train = labelled & ~test
    notes += _check(labels, train, tuning, test)
    return Split(
        train=np.flatnonzero(train),
        tuning=np.flatnonzero(tuning) if tuning.any() else None,
        test=np.flatnonzero(test),
        origin=origin,
        unlabelled=int((~labelled).sum()),
        notes=tuple(notes),
    )


def group_codes(groups: Sequence[Any] | NDArray[Any]) -> Indices:
    """Give every group a number; an image without one (None or ``""``) is a group of its own.

    Examples
    --------
    >>> group_codes(["ann", "", "ann", None])
    array([0, 1, 0, 2])
    """
    codes: dict[str, int] = {}
    numbered = [
        codes.setdefault(f"{position}" if group is None or group == "" else f"={group}", len(codes))
        for position, group in enumerate(groups)
    ]
    return np.array(numbered, dtype=np.intp)


def _labels(y: Sequence[Any] | NDArray[Any]) -> NDArray[np.str_]:
    # NaN, by which tables say that there is nothing, is the one thing that is not itself.
    return np.array(["" if label is None or label != label else str(label) for label in y], dtype=np.str_)


def _hold_out(
    labels: NDArray[np.str_], groups: Indices | None, size: float, seed: int
) -> tuple[Indices, str]:
    """Positions of the test images, and where they come from in words."""
    names, counts = np.unique(labels, return_counts=True)
    name, count = names[counts.argmin()], int(counts.min())
    blank = np.zeros((len(labels), 1), dtype=np.uint8)
    if count < 2:
        raise DatasetError(
            f"Class {str(name)!r} has 1 image, which cannot be both in training and in the test: add images "
            f"of it, or "
            "leave the class out."
        )
    if groups is None:
        n_test = round(size * len(labels))
        if not len(names) <= n_test <= len(labels) - len(names):
            raise DatasetError(
                f"A test size of {size:g} of {len(labels)} images is {n_test}, too few or too many for "
                f"{len(names)} "
                "classes in training and test: choose another --test-size, or add images."
            )
        splitter = StratifiedShuffleSplit(1, test_size=n_test, random_state=seed)
        ((_, test),) = splitter.split(blank, labels)
        return np.sort(test), f"a stratified hold-out of {size:.0%} (seed {seed})"
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise DatasetError(
            "All images are of one group, which cannot be both in training and in the test: leave out "
            "--group."
        )
    # scikit-learn has no stratified and grouped hold-out; some of the folds of a cross-validation are one.
    most = max(2, min(20, n_groups, count))
    share = Fraction(size).limit_denominator(most)
    share = min(max(share, Fraction(1, most)), 1 - Fraction(1, most))
    folds = StratifiedGroupKFold(share.denominator, shuffle=True, random_state=seed)
    parts = [valid for _, valid in folds.split(blank, labels, groups)]
    choices = [
        np.concatenate([parts[(start + i) % len(parts)] for i in range(share.numerator)])
        for start in range(len(parts))
    ]

    def coverage(chosen: Indices) -> tuple[int, int]:
        """Classes left to learn from, then classes in the test: both can lack what few groups have."""
        return len(np.unique(np.delete(labels, chosen))), len(np.unique(labels[chosen]))

    test = np.sort(max(choices, key=coverage))
    kept = f"{len(np.unique(groups[test]))} of {n_groups} groups, kept whole"
    return test, f"a stratified hold-out of {len(test) / len(labels):.0%} ({kept}; seed {seed})"


def _check(
    labels: NDArray[np.str_], train: NDArray[np.bool_], tuning: NDArray[np.bool_], test: NDArray[np.bool_]
) -> list[str]:
    if not train.any():
        raise DatasetError(
            f"All {int(test.sum() + tuning.sum())} labelled images are in the test or val split, none is "
            f"left for "
            "training: label training images, or give a source without splits."
        )
    learned = np.unique(labels[train])
    if len(learned) < 2:
        raise DatasetError(
            f"All {int(train.sum())} training images are of class {str(learned[0])!r}: add training images "
            f"of other "
            "classes."
        )
    for part, name in ((test, "test"), (tuning, "val")):
        if len(strange := np.setdiff1d(labels[part], learned)):
            count = int((labels[part] == strange[0]).sum())
            raise DatasetError(
                f"Class {str(strange[0])!r} has {count} {name} image{'s' * (count > 1)} and no training "
                f"image: add "
                f"training images of it, or leave it out of the {name} split."
            )
    notes = []
    remedies = {
        "test": "how well they are told is not known: add test images of them",
        "val": "the choice does not look at them: add val images of them",
    }
    for part, name in ((test, "test"), (tuning, "val")):
        if part.any() and len(absent := np.setdiff1d(learned, labels[part])):
            shown = ", ".join(repr(str(one)) for one in absent[:5]) + (", …" if len(absent) > 5 else "")
            notes.append(
                f"no {name} image of {len(absent)} of {len(learned)} classes ({shown}), so that "
                f"{remedies[name]}"
            )
    return notes
