"""Nested cross-validation: outer folds that score, inner folds that tune.

Every image is predicted once, by heads that were tuned and fitted without its outer fold, so that
no choice has seen what it is scored on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import DatasetError
from featx.evaluation.audit import SHOWN, Audit
from featx.evaluation.splits import Split
from featx.heads.folds import Folds, make_folds
from featx.heads.head import Head
from featx.heads.search import tune

__all__ = ["Nested", "OuterFold", "for_nesting", "make_outer_folds", "merge_audits", "predict_nested"]

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class OuterFold:
    """One outer fold, in positions of the development part.

    Parameters
    ----------
    train, valid : ndarray of int
        What is tuned and fitted on, and what is scored.
    inner : list of (train, valid) pairs
        Positions in ``train``: the folds that tune.
    """

    train: Indices
    valid: Indices
    inner: Folds

    def roles(self, n: int, development: Indices) -> NDArray[np.str_]:
        """Return the part of each of ``n`` rows of the data set, as :meth:`Split.roles` does."""
        parts = np.full(n, "", dtype="<U6")
        parts[development[self.train]] = "train"
        parts[development[self.valid]] = "test"
        return parts


@dataclass(frozen=True, slots=True)
class Nested:
    """What a head predicted in nested cross-validation.

    Parameters
    ----------
    probabilities : ndarray of float64, (n, k)
        Of every row of the development part, by the head of the outer fold that held it out.
    inner_means : ndarray of float64, (outer folds,)
        Mean inner score of the chosen parameters: what a choice among heads may look at.
    seconds : float
        Wall time of it all.
    """

    probabilities: NDArray[np.float64]
    inner_means: NDArray[np.float64]
    seconds: float


def for_nesting(split: Split, outer: int) -> Split:
    """Say in a split what nested cross-validation makes of it; see :func:`featx.protocol.make_plan`."""
    if split.is_whole:
        origin = f"nested cross-validation, {outer} outer folds of all {len(split.test):,} labelled images"
        return dataclasses.replace(split, origin=origin)
    if split.tuning is None:
        return split
    note = (
        f"the val split's {len(split.tuning):,} images count as training images, since nested "
        "cross-validation tunes by folds"
    )
    return dataclasses.replace(split, train=split.development, tuning=None, notes=(*split.notes, note))


def make_outer_folds(
    y: NDArray[Any], outer: int, inner: int, groups: NDArray[Any] | None, seed: int
) -> tuple[OuterFold, ...]:
    """Make outer folds and the inner folds of each, all stratified and with groups whole.

    Parameters
    ----------
    y : ndarray of shape (n,)
        Labels of the development part.
    outer, inner : int
        Numbers of folds.
    groups : ndarray of shape (n,) or None
    seed : int
        For the shuffling.

    Raises
    ------
    DatasetError
        If a class or the groups are too few, in the whole or in what an outer fold leaves.
    """
    folds = []
    for number, (train, valid) in enumerate(make_folds(y, outer, groups=groups, seed=seed), 1):
        inside = None if groups is None else groups[train]
        try:
            tuning = make_folds(y[train], inner, groups=inside, seed=seed)
        except DatasetError as error:
            raise DatasetError(
                f"In outer fold {number} of {outer} of the nested cross-validation: {error}"
            ) from error
        folds.append(OuterFold(train, valid, tuning))
    return tuple(folds)


def predict_nested(
    head: Head,
    X: NDArray[np.float32],
    y: NDArray[Any],
    outer: Sequence[OuterFold],
    *,
    groups: NDArray[Any] | None,
    seed: int,
    balanced: bool,
    jobs: int | None,
    on_fold: Callable[[], None] = lambda: None,
) -> Nested:
    """Tune, fit and predict in every outer fold.

    Parameters
    ----------
    head : Head
    X : ndarray of float32, (n, d)
        Embeddings of the development part.
    y : ndarray of shape (n,)
    outer : sequence of OuterFold
    groups : ndarray of shape (n,) or None
    seed, balanced, jobs
        As for :func:`featx.heads.tune`.
    on_fold : callable
        Called after each outer fold.

    Returns
    -------
    Nested

    Source
    ------
    Stone 1974, Cross-validatory choice and assessment of statistical predictions; Varma and Simon
    2006, Bias in error estimation when using cross-validation for model selection, BMC
    Bioinformatics 7:91.
    """
    started = time.perf_counter()
    probabilities = np.empty((len(y), len(np.unique(y))))
    means = np.empty(len(outer))
    for index, fold in enumerate(outer):
        found = tune(
            head,
            X[fold.train],
            y[fold.train],
            cv=fold.inner,
            groups=None if groups is None else groups[fold.train],
            seed=seed,
            balanced=balanced,
            jobs=jobs,
        )
        # Every class is in the training part of every fold: make_folds sees to that.
        probabilities[fold.valid] = found.best_estimator_.predict_proba(X[fold.valid])
        means[index] = found.mean_score_
        on_fold()
    return Nested(probabilities, means, time.perf_counter() - started)


def merge_audits(audits: Sequence[Audit]) -> Audit:
    """Make one audit of those of all outer folds; each has its own test images.

    What does not depend on the folds (contradictions) stands in each of them; a class is small if it
    is so in one of them; what the tuning folds share (``near_within``) stands in the first.
    """
    small: dict[str, int] = {}
    for one in audits:
        for label, count in one.small_classes:
            small[label] = min(count, small.get(label, count))
    shared = sorted({group for one in audits for group in one.shared_groups})
    return dataclasses.replace(
        audits[0],
        duplicates=[pair for one in audits for pair in one.duplicates][:SHOWN],
        n_duplicates=sum(one.n_duplicates for one in audits),
        near_duplicates=[found for one in audits for found in one.near_duplicates][:SHOWN],
        n_near_duplicates=sum(one.n_near_duplicates for one in audits),
        near_checked=all(one.near_checked for one in audits),
        near_complete=all(one.near_complete for one in audits),
        small_classes=sorted(small.items()),
        shared_groups=shared[:SHOWN],
        n_shared_groups=len(shared),
        leaked_test=np.any([one.leaked_test for one in audits], axis=0),
        alike_test=np.any([one.alike_test for one in audits], axis=0),
    )
