"""Stores × heads × splits → results and a run folder.

:func:`fit` needs neither the images nor torch: everything it looks at lies in the stores. Only the
last step, writing ``model.featx``, loads skops (and with it torch, where torch is installed); by then
the caller has the results and ``results.json`` is on the disk.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from featx.dataset import LabelledSet, open_dataset
from featx.environment import environment, peak_memory_bytes
from featx.errors import DatasetError
from featx.evaluation.metrics import Evaluation
from featx.files import disk_errors
from featx.heads.catalog import DEFAULT_HEADS, find_head
from featx.heads.head import Head
from featx.heads.search import Tuned, tune
from featx.protocol import Plan, describe_dataset, make_plan
from featx.records import Layer, Progress, ProgressCallback, ResultRow, escape_name
from featx.report import write_report
from featx.results import (
    MODEL_FILE,
    REPORT_FILES,
    Results,
    RowPredictions,
    check_run_folder,
    most_probable,
)
from featx.store.reader import FeatureStore

StoreLike = str | os.PathLike[str] | FeatureStore


def fit(
    stores: StoreLike | Sequence[StoreLike],
    *,
    heads: str | Head | Sequence[str | Head] = DEFAULT_HEADS,
    layers: str | Sequence[str] = (),
    labels: str | os.PathLike[str] | Mapping[str, object] | None = None,
    label: str | None = None,
    group: str | None = None,
    cv: int = 5,
    test_size: float | None = None,
    balanced: bool = False,
    seed: int = 0,
    jobs: int | None = -1,
    output: str | os.PathLike[str] | None = None,
    command: str = "",
    on_progress: ProgressCallback | None = None,
    on_results: Callable[[Results], None] | None = None,
) -> Results:
    """Tune, fit and compare heads on every layer of every store.

    Parameters
    ----------
    stores : path, FeatureStore, or a sequence of them
        Several stores must hold the same images.
    heads : str, Head, or a sequence of them
        See :func:`featx.heads.list_heads`.
    layers : str or sequence of str
        ``NODE`` or ``NODE:POOL``; empty for all.
    labels, label, group
        Other labels and groups on the same embeddings; see :func:`featx.dataset.open_dataset`.
    cv : int, default=5
        Folds inside the training part.
    test_size : float, optional
        Share of a hold-out, for sources without a test split of their own; 0.25 by default.
    balanced : bool, default=False
        Weigh classes by the inverse of their frequency.
    seed : int, default=0
        From 0 to 2³² - 1.
    jobs : int, default=-1
        Threads; -1 for all processors.
    output : path, optional
        The run folder: ``results.json``, ``predictions.npz``, ``report.md``, ``report.html`` and
        ``model.featx``. Nothing is written without it.
    command : str
        Kept in the results.
    on_progress : callable, optional
        Called after each row.
    on_results : callable, optional
        Called with the results as soon as ``results.json`` is written.

    Returns
    -------
    Results

    Raises
    ------
    StoreError, DatasetError, UnknownNameError
        If stores, labels or options do not allow it.
    FeatxError
        If the run folder cannot be one.

    Examples
    --------
    See :class:`featx.results.Results`.
    """
    if isinstance(stores, str | os.PathLike | FeatureStore):
        stores = [stores]
    heads = [heads] if isinstance(heads, str | Head) else heads
    layers = [layers] if isinstance(layers, str) else layers
    chosen = [find_head(head) if isinstance(head, str) else head for head in heads]
    if not chosen:
        raise DatasetError("No head was given; expected at least one, such as logreg.")
    if not 0 <= seed < 2**32:
        raise DatasetError(f"Got the seed {seed}, expected a number from 0 to {2**32 - 1}.")
    if jobs == 0:
        raise DatasetError("Got 0 jobs, expected a number of threads, or -1 for all processors.")
    folder = check_run_folder(output, of=MODEL_FILE) if output is not None else None
    data = open_dataset(stores, labels=labels, label=label, group=group, on_progress=on_progress)
    pairs = data.layers(layers)
    plan = make_plan(data, cv=cv, test_size=test_size, seed=seed)

    names = _distinct_names(data.stores)
    tuned: list[Tuned] = []
    rows: list[ResultRow] = []
    predictions: list[RowPredictions] = []
    for store, layer in pairs:
        X = data.matrix(store, layer, plan.development)
        X_test = data.matrix(store, layer, plan.split.test)
        for head in chosen:
            if on_progress is not None:
                on_progress(Progress("fit", len(rows), len(pairs) * len(chosen), "heads"))
            found = tune(
                head, X, plan.y, cv=plan.folds, groups=plan.groups, seed=seed, balanced=balanced, jobs=jobs
            )
            started = time.perf_counter()
            probabilities = found.best_estimator_.predict_proba(X_test)
            seconds = time.perf_counter() - started
            tuned.append(found)
            predictions.append(RowPredictions(probabilities, most_probable(found.oof_)))
            test = plan.evaluation(probabilities, seed)
            rows.append(_row(data.stores[store], layer, found, test, seconds, names[store]))
    if on_progress is not None:
        on_progress(Progress("fit", len(rows), len(rows), "heads"))

    # The first of equals: stores, layers and heads come in the order given.
    best = max(range(len(rows)), key=lambda index: (rows[index].cv["mean"], -index))
    described = describe_dataset(
        data,
        plan,
        name=data.stores[0].path.stem,
        sources=[str(store.meta["source"]) for store in data.stores],
        skipped=[item for store in data.stores for item in store.skipped],
        stores=[str(store.path) for store in data.stores],
        space_keys=[store.space.key for store in data.stores],
    )
    winner = pairs[best // len(chosen)]
    findings = plan.audit_of_winner(data, tuned[best].oof_, lambda rows: data.matrix(*winner, rows), seed)
    results = Results(
        dataset=described | {"notes": [*data.notes, *described["notes"]], "audit": findings},
        settings={
            "heads": [head.name for head in chosen],
            "layers": [layer.name for _, layer in pairs],
            "folds": len(plan.folds),
            "test_size": test_size,
            "balanced": balanced,
            "seed": seed,
            "labels": os.fspath(labels) if isinstance(labels, str | os.PathLike) else None,
            "label": label,
            "group": group,
        },
        rows=tuple(rows),
        comparisons=plan.comparisons([row.probabilities for row in predictions], best, seed),
        best=best,
        environment=environment(),
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        test_names=tuple(data.names[index] for index in plan.split.test),
        truth=plan.truth,
        predictions=tuple(predictions),
        suspects=plan.suspects(data.names, tuned[best].oof_, predictions[best].probabilities),
        oof_probabilities=tuned[best].oof_,
        estimator=tuned[best].best_estimator_,
    )
    if folder is not None:
        # Before the results, so that an earlier run's files never stand beside them.
        with disk_errors(folder):
            for name in (MODEL_FILE, *REPORT_FILES):
                (folder / name).unlink(missing_ok=True)
        results.save(folder)
    try:
        if on_results is not None:
            on_results(results)
    except (Exception, SystemExit):
        # A closed pipe (rich exits there), or a terminal that cannot print ±, must not cost the model.
        _finish(folder, results, data, winner, plan)
        raise
    _finish(folder, results, data, winner, plan)
    return results


def _distinct_names(stores: Sequence[FeatureStore]) -> list[str]:
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
    layer: Layer,
    found: Tuned,
    test: Evaluation,
    predict_seconds: float,
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
        layer=layer.name,
        head=found.head,
        params=found.best_params_,
        cv={
            "mean": found.mean_score_,
            "sd": found.sd_,
            "folds": [float(score) for score in found.cv_scores_[found.best_index_]],
        },
        test=test.scores,
        per_class=test.per_class,
        confusion=test.confusion,
        seconds={
            "extract": float(store.meta.get("seconds", 0.0)),
            "fit": sum(found.seconds_.values()),
            "predict": predict_seconds,
        },
        peak_memory_bytes=peak_memory_bytes(),
        n_parameters_trained=found.n_parameters_,
        dim=layer.dim,
        store=str(store.path),
        warnings=found.warnings_,
        label=label,
    )


def _finish(
    folder: Path | None, results: Results, data: LabelledSet, winner: tuple[int, Layer], plan: Plan
) -> None:
    if folder is None:
        return
    # The report comes last: it can be drawn again from the folder, the model cannot.
    _write_model(folder, results, data, winner, plan)
    write_report(folder)


def _write_model(
    folder: Path, results: Results, data: LabelledSet, winner: tuple[int, Layer], plan: Plan
) -> None:
    # Late: skops loads torch where torch is installed.
    from featx.modelfile import save_model

    store, layer = data.stores[winner[0]], winner[1]
    row = results.best_row
    limits = [
        f"Trained on {len(plan.y)} images of {len(plan.classes)} classes; anything else is given one of them."
    ]
    if not plan.split.test.size:
        limits.append("No test images: how well it does on new ones is not known.")
    save_model(
        folder / MODEL_FILE,
        results.estimator,
        classes=plan.classes,
        space=store.space,
        layer=layer,
        weights=store.meta.get("request", {}).get("weights", {"spec": "default"}),
        card={
            "head": row.head,
            "params": dict(row.params),
            "n_images": len(plan.y),
            "source": escape_name(str(store.meta["source"])),
            "cv": dict(row.cv),
            "test": {name: dataclasses.asdict(score) for name, score in row.test.items()},
            "n_test": len(plan.truth),
            "test_origin": plan.split.origin,
            "limits": limits,
            "created": results.created,
            "versions": dict(results.environment["versions"]),
        },
        examples=data.matrix(winner[0], layer, plan.development[:32]),
    )
