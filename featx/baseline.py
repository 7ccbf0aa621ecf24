"""The fine-tuned baseline of an experiment: the images of its stores, its plan, one more row."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featx.dataset import LabelledSet
from featx.endtoend import Trained, load_for_training, place_above, train_on_plan
from featx.errors import DatasetError, SourceError, TrainingError, WeightsError
from featx.files import disk_errors
from featx.fitted import Task, best_of
from featx.images.loading import default_workers
from featx.images.sources import SourceLike
from featx.originals import Originals, counted, refuse_changed
from featx.protocol import Plan
from featx.records import (
    LayerInfo,
    LayerSpec,
    Preprocess,
    ProgressCallback,
    escape_name,
)
from featx.report import write_report
from featx.results import (
    CHECKPOINT_FILE,
    CURVES_SCHEMA,
    NETWORK_FILE,
    TUNED_MODEL_FILE,
    UNFINISHED_FOLDER,
    Results,
    save_curves,
)
from featx.tuningoptions import TuningOptions

__all__ = ["add_baseline", "choose_options"]


def choose_options(
    finetune: bool | Mapping[str, Any],
    source: SourceLike | None,
    *,
    balanced: bool,
    nested: bool,
    repeats: int,
) -> TuningOptions | None:
    """Read what was asked of the baseline; None if none was.

    Raises
    ------
    UnknownNameError, FeatxError
        If an option does not exist, or has no such value.
    DatasetError
        If the protocol has no baseline.
    """
    if finetune is False:
        if source is not None:
            raise DatasetError(
                "A source of images was given without fine-tuning, which alone needs them; add --finetune "
                "or leave out --source."
            )
        return None
    if nested:
        raise DatasetError(
            "Fine-tuning was asked for with nested cross-validation, which would train a network anew in "
            "every outer fold; leave out --nested or --finetune."
        )
    if repeats > 1:
        raise DatasetError(
            f"Fine-tuning was asked for with {repeats} repeats, and is compared on one split only; leave out "
            "--repeats or --finetune (--finetune-option repeats=R repeats the final training alone)."
        )
    options = {} if finetune is True else dict(finetune)
    return TuningOptions.from_mapping({"balanced": balanced} | options)


def add_baseline(
    results: Results,
    images: Originals,
    options: TuningOptions,
    data: LabelledSet,
    tasks: Sequence[Task],
    plan: Plan,
    *,
    seed: int,
    folder: Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> Results:
    """Fine-tune the network of the best head that is no reference, and write results and report again.

    Parameters
    ----------
    results : Results
        Of the heads; those in the run folder, if there is one.
    images : Originals
    options : TuningOptions
    data, tasks, plan
        Of which the results are.
    seed : int
    folder : Path, optional
        The run folder. It gets ``network.safetensors`` and ``finetuned.featx``, and checkpoints while
        the training runs, from which the next call goes on.
    on_progress : callable, optional

    Returns
    -------
    Results
        With one more row, the last. The best row stays the best head: the baseline's tuning score is of
        one fold, and of the best of several epochs.

    Raises
    ------
    SourceError
        If an image is another than that of the store, or cannot be decoded any more.
    BackboneError, WeightsError, UnknownNameError
        If the network cannot be had, or trained in this way.
    TrainingError
        If the loss becomes NaN or infinite.
    """
    learned = [index for index, row in enumerate(results.rows) if row.kind == "head"]
    head = learned[best_of([results.rows[index] for index in learned])]
    task, row = tasks[head], results.rows[head]
    checkpoints = folder / UNFINISHED_FOLDER if folder is not None else None
    resumed = checkpoints is not None and (checkpoints / CHECKPOINT_FILE).exists()
    try:
        trained, loading = _train(
            images, options, data, task, plan, row.weights, results, seed, folder, checkpoints, on_progress
        )
    except TrainingError:
        # There is nothing to go on from.
        if checkpoints is not None:
            _remove_empty(checkpoints)
        raise
    tuned = trained.tuned
    warnings = tuned.row.warnings
    if resumed:
        warnings = ("the training was interrupted: its time is that since it went on", *warnings)
    added = dataclasses.replace(
        tuned.row,
        # Extraction loads network and images too, and its time counts for the heads.
        seconds={"load": loading, **tuned.row.seconds},
        label=row.label,
        warnings=warnings,
    )
    predictions = (*results.predictions, tuned.predictions)
    complete = dataclasses.replace(
        results,
        settings={**results.settings, "finetune": results.settings["finetune"] | trained.settings},
        rows=(*results.rows, added),
        predictions=predictions,
        comparisons=plan.comparisons([one.probabilities for one in predictions], results.best, seed),
        curves={"schema": CURVES_SCHEMA, **(results.curves or {}), "training": tuned.curves},
    )
    if folder is not None:
        # The model first: a network without it is what `featx finetune` leaves.
        tuned.save_model(
            folder / TUNED_MODEL_FILE, plan, source=images.source.location, created=results.created
        )
        tuned.save_network(folder / NETWORK_FILE)
        save_curves(folder, complete.curves or {})
        complete.save(folder)
        write_report(folder)
        if trained.checkpoint is not None:
            trained.checkpoint.remove()
            _remove_empty(trained.checkpoint.folder)
    return complete


def _train(
    images: Originals,
    options: TuningOptions,
    data: LabelledSet,
    task: Task,
    plan: Plan,
    weights: str,
    results: Results,
    seed: int,
    folder: Path | None,
    checkpoints: Path | None,
    on_progress: ProgressCallback | None,
) -> tuple[Trained, float]:
    """Load network and images, and train; with the seconds that loading took."""
    # Late, because it loads torch.
    from featx.training.pixels import load_images

    started = time.perf_counter()
    store = data.stores[task.store]
    space = store.space
    network = load_for_training(
        options,
        space.backbone,
        weights=store.meta["request"]["weights"]["spec"],
        layer=_single(task),
        preprocess=Preprocess.from_json(space.preprocess),
        seed=seed,
    )
    if network.weights.identity != dict(space.weights):
        raise WeightsError(
            f"The weights of {space.backbone} are not those that {escape_name(str(store.path))} was made "
            f"with (SHA-256 {network.weights.digest[:12]}… now, {str(space.weights['digest'])[:12]}… then); "
            "put those back, or extract again."
        )
    loaded = load_images(
        images.source,
        images.records,
        network.preprocess,
        workers=default_workers() if options.workers == "auto" else options.workers,
        max_skip=1.0,
        scratch=place_above(folder),
        on_progress=on_progress,
    )
    loading = time.perf_counter() - started
    if loaded.skipped:
        first = loaded.skipped[0]
        raise SourceError(
            f"{counted([item.name for item in loaded.skipped])} not usable any more, such as "
            f"{escape_name(first.name)}: {first.reason}. Mend them, or extract again."
        )
    differs = np.flatnonzero((loaded.digests != data.digests).any(axis=1))
    refuse_changed([data.names[index] for index in differs], data.stores[0], images.source)
    trained = train_on_plan(
        network,
        # Labels, splits and groups may come from elsewhere than the source.
        dataclasses.replace(loaded, labels=data.labels, splits=data.splits, groups=data.groups),
        plan,
        options,
        backbone=space.backbone,
        weights=weights,
        test_size=results.settings["test_size"],
        seed=seed,
        folder=folder,
        checkpoints=checkpoints,
        on_progress=on_progress,
    )
    return trained, loading


def _single(task: Task) -> LayerSpec | None:
    """Give the layer to cut at: that of the head, or the penultimate one for a head on several."""
    if not isinstance(task.layer, LayerInfo):
        return None
    return LayerSpec(task.layer.node, task.layer.pool)


def _remove_empty(folder: Path) -> None:
    """Remove the folder of checkpoints, unless something is in it."""
    with disk_errors(folder, "remove"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
