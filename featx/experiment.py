"""Stores × heads × splits → results and a run folder.

:func:`fit` needs neither the images nor torch: everything it looks at lies in the stores. Writing
``model.featx`` alone loads skops (and with it torch, where torch is installed); by then the caller has
the results and ``results.json`` is on the disk. Curves come after everything else but the fine-tuned
baseline, which alone needs images and torch.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featx.baseline import add_baseline, choose_options
from featx.curves import CurveOptions, draw_curves
from featx.dataset import LabelledSet, open_dataset
from featx.environment import environment
from featx.errors import DatasetError
from featx.files import disk_errors
from featx.fitted import FittedRow, Task, best_of, fit_rows, list_tasks
from featx.heads.catalog import DEFAULT_HEADS, find_head
from featx.heads.head import Head
from featx.images.sources import SourceLike
from featx.originals import find_originals
from featx.procedure import score_procedure
from featx.protocol import Plan, describe_dataset, make_plan
from featx.records import ProgressCallback
from featx.repeats import describe_repeats, repeat
from featx.report import write_report
from featx.results import (
    BASELINE_FILES,
    CURVES_FILE,
    MODEL_FILE,
    REPORT_FILES,
    Results,
    check_run_folder,
    save_curves,
)
from featx.shots import read_shots
from featx.store.reader import FeatureStore
from featx.winner import map_test, write_model

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
    nested: bool = False,
    outer_folds: int | None = None,
    repeats: int = 1,
    shots: str | int | Sequence[int] | None = None,
    draws: int = 10,
    learning_curve: bool = True,
    finetune: bool | Mapping[str, Any] = False,
    source: SourceLike | None = None,
    balanced: bool = False,
    l2: bool | Sequence[bool] = False,
    pca: float | Sequence[float | None] | None = None,
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
    nested : bool, default=False
        Nested cross-validation, for sets too small for a hold-out: without a test split of its own in
        the source, every labelled image is tested once, by a head that was tuned and fitted without
        its outer fold, and the final heads learn from all. Beside a test split it is made inside the
        training part, and stands in ``cv["nested"]`` of each row; a ``val`` split joins the training
        part then.
    outer_folds : int, optional
        Of the nested cross-validation; as many as ``cv`` by default.
    repeats : int, default=1
        Run the whole protocol with so many seeds, ``seed`` and those after it: hold-out, folds, outer
        folds, the solver's draws. Results, comparisons, curves and model are those of the first;
        ``repeats`` of each row says what all of them gave.
    shots : str, int, or sequence of int, optional
        Images per class, ``"1,5,10,20,50"``, for few-shot curves of every row. A draw with one image
        (or group) of a class cannot be tuned and takes the classifier alone, least regularised.
    draws : int, default=10
        Of each point of a curve.
    learning_curve : bool, default=True
        Fit the winner on growing parts of its labels, and say what twice as many would bring.
    finetune : bool or mapping, default=False
        Fine-tune the network of the best head that is no reference as well, on the same images, split
        and folds, when all else is done. A mapping holds options of :func:`featx.finetune`, as
        ``{"epochs": 5, "unfreeze": "last:10", "augment": "light"}``. Its row takes part in the table and
        in the comparisons; ``best`` stays the best head. Not with ``nested`` or ``repeats``. An
        interrupted training goes on when the same call is made again.
    source : path or Source, optional
        Where the images lie that ``finetune`` needs, if they are not where the store says. By their
        SHA-256 they must be those that were embedded.
    balanced : bool, default=False
        Weigh classes by the inverse of their frequency, and choose by balanced accuracy.
    l2 : bool or sequence of bool, default=False
        Divide each row by its length before the scaling; ``(False, True)`` lets each head's search
        choose.
    pca : int, float, None, or a sequence of them, default=None
        Keep so many principal components, or so much of the variance, of the scaled rows; several
        values are searched.
    seed : int, default=0
        From 0 to 2³² - 1.
    jobs : int, default=-1
        Threads; -1 for all processors.
    output : path, optional
        The run folder: ``results.json``, ``predictions.npz``, ``report.md``, ``report.html``,
        ``model.featx`` and then ``curves.json``; with ``finetune`` also ``finetuned.featx`` and
        ``network.safetensors``. Nothing is written without it.
    command : str
        Kept in the results.
    on_progress : callable, optional
        Called after each row, and each fit of a curve.
    on_results : callable, optional
        Called with the results as soon as ``results.json`` is written, before any curve, and again with
        the row of ``finetune``.

    Returns
    -------
    Results

    Raises
    ------
    StoreError, DatasetError, UnknownNameError
        If stores, labels or options do not allow it.
    SourceError, WeightsError
        If images or weights that ``finetune`` needs are gone or changed; before any fit.
    TrainingError
        If the loss of ``finetune`` becomes NaN or infinite; the run of the heads is whole by then.
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
    if l2 or pca is not None:
        lengths = (l2,) if isinstance(l2, bool) else tuple(l2)
        components = (pca,) if pca is None or isinstance(pca, float | int) else tuple(pca)
        chosen = [head.searching(lengths, components) for head in chosen]
    if not chosen:
        raise DatasetError("No head was given; expected at least one, such as logreg.")
    if jobs == 0:
        raise DatasetError("Got 0 jobs, expected a number of threads, or -1 for all processors.")
    outer = _check_protocol(nested, outer_folds, cv, repeats, draws, seed)
    tuning = choose_options(finetune, source, balanced=balanced, nested=nested, repeats=repeats)
    wanted = CurveOptions(read_shots(shots), learning_curve, draws, cv, seed, balanced, jobs)
    folder = check_run_folder(output, of=MODEL_FILE) if output is not None else None
    data = open_dataset(stores, labels=labels, label=label, group=group, on_progress=on_progress)
    pairs = data.layers(layers)
    # All of them before any fit: a later seed may leave a part without a class.
    plans = [
        make_plan(data, cv=cv, test_size=test_size, seed=seed + number, nested=outer)
        for number in range(repeats)
    ]
    plan = plans[0]
    # The same form for outer folds and curves, which have fewer images.
    tasks = list_tasks(pairs, [head.of_rows(len(plan.y), len(plan.classes)) for head in chosen])
    images = None
    if tuning is not None:
        images = find_originals(data, (task.store for task in tasks), source, on_progress)

    def run(number: int) -> list[FittedRow]:
        return fit_rows(
            data,
            tasks,
            plans[number],
            seed=seed + number,
            balanced=balanced,
            jobs=jobs,
            stage=f"repeat {number + 1} of {repeats}" if number else "fit",
            on_progress=on_progress,
        )

    fitted = run(0)
    said = repeat(fitted, run, seed, repeats)
    rows = [dataclasses.replace(one.row, repeats=words) for one, words in zip(fitted, said, strict=True)]
    best = best_of(rows)
    described = describe_dataset(
        data,
        plan,
        name=data.stores[0].path.stem,
        sources=[str(store.meta["source"]) for store in data.stores],
        skipped=[item for store in data.stores for item in store.skipped],
        stores=[str(store.path) for store in data.stores],
        space_keys=[store.space.key for store in data.stores],
    )
    winner = fitted[best]
    layer = (tasks[best].store, tasks[best].layer)
    findings = plan.audit_of_winner(data, winner.out_of_fold, lambda rows: data.matrix(*layer, rows), seed)
    notes = [*data.notes, *described["notes"], *describe_repeats(rows[best], plan)]
    if (procedure := score_procedure([one.nested for one in fitted], plan, seed)) is not None:
        described["splits"] = described["splits"] | {"nested": procedure.to_json()}
        notes += procedure.notes(rows, best, plan)
    results = Results(
        dataset=described | {"notes": notes, "audit": findings},
        settings={
            "heads": [head.name for head in chosen],
            "layers": [layer.name for _, layer in pairs],
            "folds": len(plan.folds),
            "test_size": test_size,
            "balanced": balanced,
            "l2": l2 if isinstance(l2, bool) else list(l2),
            "pca": pca if pca is None or isinstance(pca, float | int) else list(pca),
            "seed": seed,
            "labels": os.fspath(labels) if isinstance(labels, str | os.PathLike) else None,
            "label": label,
            "group": group,
            "outer_folds": outer,
            "repeats": repeats,
            "shots": list(wanted.shots),
            "draws": draws,
            "learning_curve": learning_curve,
            "finetune": dataclasses.asdict(tuning) if tuning is not None else None,
        },
        rows=tuple(rows),
        comparisons=plan.comparisons([one.predictions.probabilities for one in fitted], best, seed),
        best=best,
        environment=environment(),
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        test_names=tuple(data.names[index] for index in plan.split.test),
        truth=plan.truth,
        predictions=tuple(one.predictions for one in fitted),
        suspects=plan.suspects(data.names, winner.out_of_fold, winner.predictions.probabilities),
        oof_probabilities=winner.out_of_fold,
        map=map_test(data, tasks[best], plan),
        estimator=winner.estimator,
    )
    if folder is not None:
        # Before the results, so that an earlier run's files never stand beside them.
        with disk_errors(folder):
            for name in (MODEL_FILE, CURVES_FILE, *REPORT_FILES, *BASELINE_FILES):
                (folder / name).unlink(missing_ok=True)
        results.save(folder)
    try:
        if on_results is not None:
            on_results(results)
    except (Exception, SystemExit):
        # A closed pipe (rich exits there), or a terminal that cannot print ±, must not cost the model.
        _finish(folder, results, data, tasks[best], plan)
        raise
    _finish(folder, results, data, tasks[best], plan)
    if wanted.any:
        # After the model, since they take longer: whoever stops here has all else, whole.
        curves = draw_curves(results, data, tasks, plan, wanted, on_progress)
        results = dataclasses.replace(results, curves=curves)
        if folder is not None:
            save_curves(folder, curves)
            write_report(folder)
    if tuning is not None and images is not None:
        results = add_baseline(
            results, images, tuning, data, tasks, plan, seed=seed, folder=folder, on_progress=on_progress
        )
        if on_results is not None:
            on_results(results)
    return results


def _check_protocol(
    nested: bool, outer_folds: int | None, cv: int, repeats: int, draws: int, seed: int
) -> int | None:
    """Refuse what no protocol can be made of, before any work; return the number of outer folds."""
    if not 0 <= seed < 2**32:
        raise DatasetError(f"Got the seed {seed}, expected a number from 0 to {2**32 - 1}.")
    if repeats < 1 or seed + repeats > 2**32:
        raise DatasetError(
            f"Got {repeats} repeats from the seed {seed} on, expected at least 1, and no seed above "
            f"{2**32 - 1}."
        )
    if draws < 2:
        raise DatasetError(f"Got {draws} draws, expected at least 2: an interval needs a spread.")
    if outer_folds is not None and not nested:
        raise DatasetError(f"Got {outer_folds} outer folds without nested cross-validation; add --nested.")
    if outer_folds is not None and outer_folds < 2:
        raise DatasetError(f"Got {outer_folds} outer folds, expected at least 2.")
    return (outer_folds or cv) if nested else None


def _finish(folder: Path | None, results: Results, data: LabelledSet, winner: Task, plan: Plan) -> None:
    if folder is None:
        return
    # The report comes last: it can be drawn again from the folder, the model cannot.
    write_model(folder, results, data, winner, plan)
    write_report(folder)
