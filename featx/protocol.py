"""How every model of a dataset is judged: the same split, folds, audit and metrics for heads and baseline."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featx.errors import DatasetError
from featx.evaluation.audit import Audit, audit
from featx.evaluation.comparison import compare
from featx.evaluation.intervals import wilson
from featx.evaluation.label_errors import is_guessing, suspect_labels
from featx.evaluation.metrics import Evaluation, assess
from featx.evaluation.shift import Shift, draw_parts, measure_shift
from featx.evaluation.splits import Split, group_codes, make_split
from featx.heads.folds import Folds, make_folds
from featx.nesting import OuterFold, for_nesting, make_outer_folds, merge_audits
from featx.outcomes import Comparison, Score
from featx.records import SkippedImage, escape_name

__all__ = ["LabelledImages", "Plan", "describe_dataset", "make_plan"]

MOST_SUSPECTS = 50
"""Suspected labels that are listed; their count is of all."""

Matrix = NDArray[np.floating[Any]]


class LabelledImages(Protocol):
    """What a plan needs to know of the images; empty strings where there is no label, split or group."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names, n of them."""

    @property
    def labels(self) -> NDArray[np.str_]:
        """Classes, (n,)."""

    @property
    def splits(self) -> NDArray[np.str_]:
        """One of :data:`featx.records.SPLITS`, (n,)."""

    @property
    def groups(self) -> NDArray[np.str_]:
        """What must stay together, (n,)."""

    @property
    def digests(self) -> NDArray[np.uint8]:
        """SHA-256 of the bytes, (n, 32)."""

    @property
    def phashes(self) -> NDArray[np.uint64]:
        """Perceptual hashes, (n,)."""


@dataclass(frozen=True)
class Plan:
    """Who is learned from, who tunes, who is only ever scored.

    Parameters
    ----------
    split : Split
    folds : list of (train, valid) pairs
        Positions in :attr:`development`; a single pair where the source has a tuning split.
    classes : ndarray of str, (k,)
        Sorted.
    y : ndarray of str, (n_development,)
        Labels of :attr:`development`.
    groups : ndarray of int, (n_development,), or None
    truth : ndarray of int, (n_test,)
        Index of the class of each test image.
    test_groups : ndarray of int, (n_test,), or None
    audit : Audit
    outer : tuple of OuterFold
        Of nested cross-validation inside :attr:`development`; empty without it.
    """

    split: Split
    folds: Folds
    classes: NDArray[np.str_]
    y: NDArray[np.str_]
    groups: NDArray[np.intp] | None
    truth: NDArray[np.intp]
    test_groups: NDArray[np.intp] | None
    audit: Audit
    outer: tuple[OuterFold, ...] = ()

    @property
    def development(self) -> NDArray[np.intp]:
        """All rows that are learned from in the end, ascending: those that are not test."""
        return self.split.development

    @property
    def rounds(self) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Rows to learn from and rows to score, as the test has it: one pair, or one for each outer fold."""
        if not self.split.is_whole:
            return [(self.development, self.split.test)]
        return [(self.development[fold.train], self.development[fold.valid]) for fold in self.outer]

    def evaluation(self, probabilities: NDArray[np.floating[Any]], seed: int) -> Evaluation:
        """Score the test images, and again without those that are also in training.

        ``accuracy_without_leaks`` and ``balanced_accuracy_without_leaks`` leave out the test images whose
        bytes are in training, ``…_without_lookalikes`` those that look nearly like one of training too.
        Each pair is there if that leaves out some images, but not all.
        """
        codes = np.arange(len(self.classes))
        found = assess(self.truth, probabilities, self.classes, groups=self.test_groups, seed=seed)
        scores = dict(found.scores)
        leaked, alike = (mask[self.split.test] for mask in (self.audit.leaked_test, self.audit.alike_test))
        for name, left_out in (("leaks", leaked), ("lookalikes", leaked | alike if alike.any() else alike)):
            kept = ~left_out
            if kept.all() or not kept.any():
                continue
            groups = self.test_groups[kept] if self.test_groups is not None else None
            clean = assess(self.truth[kept], probabilities[kept], codes, groups=groups, seed=seed)
            for metric in ("accuracy", "balanced_accuracy"):
                scores[f"{metric}_without_{name}"] = clean.scores[metric]
        return replace(found, scores=scores)

    def nested_accuracy(self, probabilities: NDArray[np.floating[Any]], seed: int) -> Score:
        """Score predictions of the development part by nested cross-validation."""
        truth, codes = np.searchsorted(self.classes, self.y), np.arange(len(self.classes))
        return assess(truth, probabilities, codes, groups=self.groups, seed=seed).scores["accuracy"]

    def comparisons(
        self, probabilities: Sequence[NDArray[np.floating[Any]]], best: int, seed: int
    ) -> tuple[Comparison, ...]:
        """Compare the winner with every other row on the test images."""
        predicted = [row.argmax(axis=1) for row in probabilities]
        return compare(predicted, self.truth, best, groups=self.test_groups, seed=seed)

    def suspects(self, names: Sequence[str], out_of_fold: Matrix, probabilities: Matrix) -> dict[str, Any]:
        """Give the ``suspects`` of ``results.json``: labels that the winner contradicts with confidence.

        Parameters
        ----------
        names : sequence of str
            Of all rows.
        out_of_fold : ndarray of float, (n_development, k)
            NaN for rows that no fold held out.
        probabilities : ndarray of float, (n_test, k)

        Returns
        -------
        dict
            ``method``, how many labels were ``checked``, how many have another class as the most probable
            one (``contradicted``), the ``count`` of suspects among these, and the first 50 of them as
            ``images``, the most suspect first. A model that is ``guessing`` has no suspects.
        """
        rows, codes, p = self.split.test, self.truth, probabilities
        # Where all images are tested, they stand there once already.
        if not self.split.is_whole:
            rows = np.concatenate([self.development, rows])
            codes = np.concatenate([np.searchsorted(self.classes, self.y), codes])
            p = np.concatenate([out_of_fold, p])
        found = suspect_labels(codes, p)
        guessing = is_guessing(codes, p)
        suspects = found.rows[:0] if guessing else found.rows
        roles = self.split.roles(len(names))
        return {
            "method": found.method,
            "checked": found.checked,
            "contradicted": found.contradicted,
            "guessing": guessing,
            "count": len(suspects),
            "images": [
                {
                    "name": escape_name(names[rows[at]]),
                    "split": str(roles[rows[at]]),
                    "label": str(self.classes[codes[at]]),
                    "predicted": str(self.classes[p[at].argmax()]),
                    "probability": float(p[at].max()),
                    "label_probability": float(p[at, codes[at]]),
                }
                for at in suspects[:MOST_SUSPECTS]
            ],
        }

    def without_lookalikes(self, out_of_fold: Matrix) -> Score | None:
        """Score the winner out of fold on images without a copy or lookalike in what the fold learned from.

        None if there are no such images, or no others.
        """
        scored = ~np.isnan(out_of_fold).any(axis=1)
        kept = scored & ~self.audit.alike_within[self.development]
        if not kept.any() or kept.sum() == scored.sum():
            return None
        right = self.classes[out_of_fold[kept].argmax(axis=1)] == self.y[kept]
        return wilson(int(right.sum()), len(right))

    def shift(
        self, data: LabelledImages, read: Callable[[NDArray[np.intp]], Matrix], seed: int
    ) -> Shift | None:
        """Measure whether the source's own test images can be told from the others.

        Parameters
        ----------
        data : LabelledImages
        read : callable
            From row numbers to embeddings.
        seed : int

        Returns
        -------
        Shift or None
            None for a hold-out, which is drawn from the same images, and where there are too few.
        """
        test = self.split.test
        if self.split.is_whole or not (data.splits[test] != "").all():
            return None
        first, second = draw_parts(self.y, data.labels[test], seed=seed)
        one, other = self.development[first], test[second]
        groups = None
        if self.groups is not None and self.test_groups is not None:
            groups = np.concatenate([self.groups[first], self.test_groups[second]])
        return measure_shift(
            read(one), read(other), data.labels[one], data.labels[other], groups=groups, seed=seed
        )

    def audit_of_winner(
        self, data: LabelledImages, out_of_fold: Matrix, read: Callable[[NDArray[np.intp]], Matrix], seed: int
    ) -> dict[str, Any]:
        """Give the audit's findings, with those that need the winner's embeddings and predictions."""
        findings = self.audit.to_json()
        if (rest := self.without_lookalikes(out_of_fold)) is not None:
            findings["near_within_training"]["accuracy_without"] = asdict(rest)
        if (shift := self.shift(data, read, seed)) is not None:
            findings["shift"] = shift.to_json()
        return findings


def make_plan(
    data: LabelledImages, *, cv: int, test_size: float | None, seed: int, nested: int | None = None
) -> Plan:
    """Split a dataset and look for what is wrong with it.

    Parameters
    ----------
    data : LabelledImages
    cv : int
        Folds inside the training part, where the source has no tuning split.
    test_size : float or None
        Share of a hold-out; see :func:`featx.evaluation.splits.make_split`.
    seed : int
        For hold-out and folds.
    nested : int, optional
        Outer folds of nested cross-validation. Where the source has no test split of its own they take
        the place of the hold-out; else they lie inside the development part. A tuning split is not
        used as such then: its images join the training part.

    Raises
    ------
    DatasetError
        If labels, classes or splits do not allow it.
    """
    if nested is not None and test_size is not None:
        raise DatasetError(
            f"A test size of {test_size:g} was given with nested cross-validation, which holds nothing out: "
            "leave out --test-size or --nested."
        )
    groups = group_codes(data.groups) if (data.groups != "").any() else None
    split = make_split(
        data.splits.tolist(),
        data.labels,
        data.groups if groups is not None else None,
        test_size=test_size,
        whole=nested is not None,
        seed=seed,
    )
    if nested is not None:
        split = for_nesting(split, nested)
    y = data.labels[split.development]
    inside = groups[split.development] if groups is not None else None
    pair = split.tuning_pair
    folds = make_folds(y, [pair] if pair is not None else cv, groups=inside, seed=seed)
    outer = make_outer_folds(y, nested, cv, inside, seed) if nested is not None else ()
    classes = np.unique(y)
    return Plan(
        split=split,
        folds=folds,
        classes=classes,
        y=y,
        groups=inside,
        truth=np.searchsorted(classes, data.labels[split.test]),
        test_groups=groups[split.test] if groups is not None else None,
        audit=_audit(data, split, outer, folds),
        outer=outer,
    )


def _audit(data: LabelledImages, split: Split, outer: Sequence[OuterFold], folds: Folds) -> Audit:
    rows = split.development
    pairs = [(rows[train], rows[valid]) for train, valid in folds]
    names = [escape_name(name) for name in data.names]

    def look(roles: NDArray[np.str_], pairs: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]]) -> Audit:
        return audit(
            names,
            data.digests,
            data.phashes,
            data.labels,
            roles,
            data.groups,
            folds=len(folds),
            pairs=pairs,
        )

    if not split.is_whole:
        return look(split.roles(len(names)), pairs)
    # What the tuning folds share is the same whichever outer fold is scored.
    return merge_audits(
        [look(fold.roles(len(names), rows), () if number else pairs) for number, fold in enumerate(outer)]
    )


def describe_dataset(
    data: LabelledImages,
    plan: Plan,
    *,
    name: str,
    sources: Iterable[str],
    skipped: Iterable[SkippedImage],
    stores: Sequence[str] = (),
    space_keys: Sequence[str] = (),
) -> dict[str, Any]:
    """Give the ``dataset`` of ``results.json``.

    Parameters
    ----------
    data, plan
    name : str
        What people call it.
    sources : iterable of str
        Where the images lie.
    skipped : iterable of SkippedImage
        Each name counts once.
    stores, space_keys : sequence of str
        Where the embeddings lie, if there are any, and their spaces.

    Returns
    -------
    dict
        Plain types.
    """
    parts = {"train": plan.split.train, "test": plan.split.test}
    if plan.split.tuning is not None:
        parts["tuning"] = plan.split.tuning
    # Once each, where every image is in both.
    counted = {"train and test": plan.split.test} if plan.split.is_whole else parts
    return {
        "name": name,
        "source": sorted({escape_name(source) for source in sources}),
        "stores": list(stores),
        "space_keys": list(space_keys),
        "digest": _digest(data),
        "n_images": len(data.names),
        "classes": [str(label) for label in plan.classes],
        "counts": {
            part: {str(label): int((data.labels[rows] == label).sum()) for label in plan.classes}
            for part, rows in counted.items()
        },
        "splits": {part: len(rows) for part, rows in parts.items()}
        | {
            "origin": plan.split.origin,
            "test_groups": len(np.unique(plan.test_groups)) if plan.test_groups is not None else None,
        },
        "unlabelled": plan.split.unlabelled,
        "notes": list(plan.split.notes),
        "skipped": [
            {"name": item.name, "digest": item.digest.hex(), "reason": item.reason}
            for item in {item.name: item for item in skipped}.values()
        ],
        "audit": plan.audit.to_json(),
    }


def _digest(data: LabelledImages) -> str:
    """Tell two sets apart: SHA-256 of names, bytes and labels, whatever the order of the images."""
    whole = hashlib.sha256()
    rows = zip(data.names, data.digests, data.labels, strict=True)
    for name, digest, label in sorted(rows, key=lambda row: row[0]):
        for part in (os.fsencode(name), bytes(digest), str(label).encode("utf-8", "surrogateescape")):
            whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()
