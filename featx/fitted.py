"""Every head on every layer, under one plan: the rows of a run and what they predict."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.dataset import LabelledSet
from featx.environment import peak_memory_bytes
from featx.errors import DatasetError
from featx.evaluation.metrics import Evaluation
from featx.heads.head import Head
from featx.heads.search import Tuned, tune
from featx.nesting import Nested, predict_nested
from featx.outcomes import ResultRow
from featx.protocol import Plan
from featx.records import Layer, Progress, ProgressCallback, escape_name
from featx.results import RowPredictions, most_probable
from featx.store.reader import FeatureStore

__all__ = ["FittedRow", "Task", "best_of", "distinct_names", "fit_rows", "list_tasks"]

Fold = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Task:
    """What one row is fitted from: a layer of a store, and a head."""

    store: int
    layer: Layer
    head: Head


@dataclass(frozen=True, slots=True)
class FittedRow:
    """A row, what it predicts, its fitted estimator and, of nested cross-validation, the outer folds.

    ``out_of_fold`` holds the probabilities of the development part, (n, k); NaN where no fold held a row
    out.
    """

    row: ResultRow
    predictions: RowPredictions
    estimator: Any
    out_of_fold: NDArray[np.float64]
    nested: Nested | None


def list_tasks(pairs: Sequence[tuple[int, Layer]], heads: Sequence[Head]) -> list[Task]:
    """List all rows: stores and layers in the order given, each with every head."""
    return [Task(store, layer, head) for store, layer in pairs for head in heads]


def fit_rows(
    data: LabelledSet,
    tasks: Sequence[Task],
    plan: Plan,
    *,
    seed: int,
    balanced: bool,
    jobs: int | None,
    stage: str = "fit",
    on_progress: ProgressCallback | None = None,
) -> list[FittedRow]:
    """Tune, fit and score every row.

    Parameters
    ----------
    data : LabelledSet
    tasks : sequence of Task
        Those of one layer stand together, so that it is read once.
    plan : Plan
        Of the same images.
    seed, balanced, jobs
        As for :func:`featx.heads.tune`.
    stage : str
        What the progress is called.
    on_progress : callable, optional
        Called after each fit, with outer folds as fits of their own.

    Returns
    -------
    list of FittedRow
        In the order of the tasks.

    Raises
    ------
    DatasetError
        If the labels do not allow a fit.
    """
    names = distinct_names(data.stores)
    rows: list[FittedRow] = []
    steps, total = 0, len(tasks) * (1 + len(plan.outer))

    def step(by: int = 1) -> None:
        nonlocal steps
        steps += by
        if on_progress is not None:
            on_progress(Progress(stage, steps, total, "fits" if plan.outer else "heads"))

    step(0)
    read: tuple[int, Layer] | None = None
    for task in tasks:
        if read != (task.store, task.layer):
            read = (task.store, task.layer)
            X = data.matrix(*read, plan.development)
            X_test = X[:0] if plan.split.is_whole else data.matrix(*read, plan.split.test)
        rows.append(
            _fit_row(
                data.stores[task.store], task, X, X_test, plan, names[task.store], seed, balanced, jobs, step
            )
        )
    return rows


def _fit_row(
    store: FeatureStore,
    task: Task,
    X: NDArray[np.float32],
    X_test: NDArray[np.float32],
    plan: Plan,
    label: str,
    seed: int,
    balanced: bool,
    jobs: int | None,
    on_fit: Fold,
) -> FittedRow:
    found = tune(
        task.head, X, plan.y, cv=plan.folds, groups=plan.groups, seed=seed, balanced=balanced, jobs=jobs
    )
    on_fit()
    nested = None
    if plan.outer:
        nested = predict_nested(
            task.head,
            X,
            plan.y,
            plan.outer,
            groups=plan.groups,
            seed=seed,
            balanced=balanced,
            jobs=jobs,
            on_fold=on_fit,
        )
    started = time.perf_counter()
    if nested is not None and plan.split.is_whole:
        probabilities = nested.probabilities
    else:
        probabilities = found.best_estimator_.predict_proba(X_test)
    seconds = {"predict": time.perf_counter() - started}
    cv: dict[str, Any] = {
        "mean": found.mean_score_,
        "sd": found.sd_,
        "folds": [float(score) for score in found.cv_scores_[found.best_index_]],
        "metric": found.scoring_,
    }
    if nested is not None:
        seconds["nested"] = nested.seconds
        if not plan.split.is_whole:
            cv["nested"] = dataclasses.asdict(plan.nested_accuracy(nested.probabilities, seed))
    row = _row(store, task, found, cv, plan.evaluation(probabilities, seed), seconds, label)
    predictions = RowPredictions(probabilities, most_probable(found.oof_))
    return FittedRow(row, predictions, found.best_estimator_, found.oof_, nested)


def best_of(rows: Sequence[ResultRow]) -> int:
    """Index of the row with the best tuning score; the first of equals, as stores, layers and heads came."""
    return max(range(len(rows)), key=lambda index: (rows[index].cv["mean"], -index))


def distinct_names(stores: Sequence[FeatureStore]) -> list[str]:
    """Name each store's network where another store has one of the same name; else ``""``."""
    networks = [(store.space.backbone, store.space.is_reference) for store in stores]
    names = [
        f"{store.space.backbone} [{escape_name(store.path.stem)}]" if networks.count(network) > 1 else ""
        for store, network in zip(stores, networks, strict=True)
    ]
    if len({store.path.resolve() for store in stores}) < len(stores):
        raise DatasetError("The same store was given twice; give each one once.")
    return names


def _row(
    store: FeatureStore,
    task: Task,
    found: Tuned,
    cv: dict[str, Any],
    test: Evaluation,
    seconds: dict[str, float],
    label: str,
) -> ResultRow:
    spec = store.meta.get("request", {}).get("weights", {}).get("spec", "")
    weights = store.space.weights
    if "seed" in weights:
        words = f"random, seed {weights['seed']}"
    else:
        words = spec if spec in ("", "default") else Path(spec).name
    return ResultRow(
        kind="reference" if store.space.is_reference else "head",
        backbone=store.space.backbone,
        weights=words,
        layer=task.layer.name,
        head=found.head,
        params=found.best_params_,
        cv=cv,
        test=test.scores,
        per_class=test.per_class,
        confusion=test.confusion,
        seconds={
            "extract": float(store.meta.get("seconds", 0.0)),
            "fit": sum(found.seconds_.values()),
            **seconds,
        },
        peak_memory_bytes=peak_memory_bytes(),
        n_parameters_trained=found.n_parameters_,
        dim=task.layer.dim,
        store=str(store.path),
        warnings=found.warnings_,
        label=label,
    )
