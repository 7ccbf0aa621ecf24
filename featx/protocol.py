"""How every model of a dataset is judged: the same split, folds, audit and metrics for heads and baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featx.errors import DatasetError
from featx.evaluation.audit import Audit, audit
from featx.evaluation.comparison import compare
from featx.evaluation.metrics import evaluate
from featx.evaluation.splits import Split, group_codes, make_split
from featx.heads.folds import Folds, make_folds
from featx.nesting import OuterFold, for_nesting, make_outer_folds, merge_audits
from featx.records import Comparison, Score, SkippedImage, escape_name

__all__ = ["LabelledImages", "Plan", "describe_dataset", "make_plan"]


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

    def scores(self, probabilities: NDArray[np.floating[Any]], seed: int) -> dict[str, Score]:
        """Score the test images, and again without those that are also in training."""
        codes = np.arange(len(self.classes))
        scores = evaluate(self.truth, probabilities, codes, groups=self.test_groups, seed=seed)
        leaked = self.audit.leaked_test[self.split.test]
        if leaked.any() and not leaked.all():
            kept = ~leaked
            groups = self.test_groups[kept] if self.test_groups is not None else None
            clean = evaluate(self.truth[kept], probabilities[kept], codes, groups=groups, seed=seed)
            scores["accuracy_without_leaks"] = clean["accuracy"]
        return scores

    def nested_accuracy(self, probabilities: NDArray[np.floating[Any]], seed: int) -> Score:
        """Score predictions of the development part by nested cross-validation."""
        truth, codes = np.searchsorted(self.classes, self.y), np.arange(len(self.classes))
        return evaluate(truth, probabilities, codes, groups=self.groups, seed=seed)["accuracy"]

    def comparisons(
        self, probabilities: Sequence[NDArray[np.floating[Any]]], best: int, seed: int
    ) -> tuple[Comparison, ...]:
        """Compare the winner with every other row on the test images."""
        predicted = [row.argmax(axis=1) for row in probabilities]
        return compare(predicted, self.truth, best, groups=self.test_groups, seed=seed)


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
        audit=_audit(data, split, outer, len(folds)),
        outer=outer,
    )


def _audit(data: LabelledImages, split: Split, outer: Sequence[OuterFold], folds: int) -> Audit:
    def look(roles: NDArray[np.str_]) -> Audit:
        names = [escape_name(name) for name in data.names]
        return audit(names, data.digests, data.phashes, data.labels, roles, data.groups, folds=folds)

    if not split.is_whole:
        return look(split.roles(len(data.names)))
    rows = split.development
    return merge_audits([look(fold.roles(len(data.names), rows)) for fold in outer])


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
