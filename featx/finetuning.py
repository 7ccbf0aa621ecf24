"""The end-to-end baseline: the same images, splits and metrics as the heads, but the network is trained too.

LP-FT (Kumar et al. 2022, arXiv:2202.10054) by default: the classifier starts as the logistic regression
that :func:`featx.fit` would fit, then the network below is trained with it.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from featx.embedding import choose_preprocess, parse_layer
from featx.environment import environment, peak_memory_bytes
from featx.errors import FeatxError, UnknownNameError
from featx.files import publish
from featx.images.loading import default_workers
from featx.images.sources import SourceLike, list_images, open_source
from featx.protocol import Plan, describe_dataset, make_plan
from featx.records import (
    LayerSpec,
    Precision,
    Preprocess,
    ProgressCallback,
    Resize,
    ResultRow,
)
from featx.report import write_report
from featx.results import NETWORK_FILE, Results, RowPredictions, check_run_folder, most_probable

if TYPE_CHECKING:
    from featx.training.search import Trial

__all__ = ["NETWORK_FILE", "finetune"]

DEFAULT_EPOCHS = 10

LARGE = 2000
"""From so many training images on, ``batch_size="auto"`` is 32 and not 16: there are steps enough."""

Init = Literal["head", "random"]


def finetune(
    source: SourceLike,
    *,
    backbone: str = "resnet50",
    weights: str | os.PathLike[str] = "default",
    layer: str | LayerSpec | None = None,
    preprocess: str | Preprocess | None = None,
    resize: Resize | None = None,
    image_size: int | None = None,
    init: Init = "head",
    unfreeze: str = "all",
    epochs: int = DEFAULT_EPOCHS,
    lr: float | Literal["auto"] = "auto",
    augment: Literal["none", "light"] = "none",
    train_batchnorm: bool = False,
    cv: int = 5,
    test_size: float | None = None,
    seed: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    precision: Precision | Literal["auto"] = "auto",
    device: str = "auto",
    workers: int | Literal["auto"] = "auto",
    max_skip: float = 0.1,
    output: str | os.PathLike[str] | None = None,
    command: str = "",
    on_progress: ProgressCallback | None = None,
) -> Results:
    """Fine-tune a network end to end and score it as :func:`featx.fit` scores heads.

    Learning rate and number of epochs are chosen on the tuning images: the source's own tuning split, else
    the first of the folds that heads would be tuned on. Then the network is trained again, from the
    start, on all images that are not test, for that number of epochs of the same schedule (AdamW, a
    linear rise over a tenth of the steps, half a cosine). The test images take no part in any of this.

    Parameters
    ----------
    source : path or Source
        A folder with a folder of images per class, or with train, val and test above those.
    backbone : str, default="resnet50"
        One of :func:`featx.list_backbones`.
    weights : {"default", "none"} or path
        The network's own best weights, seeded random ones, or a ``.pth`` or ``.safetensors`` file.
    layer : str or LayerSpec, optional
        ``NODE`` or ``NODE:POOL`` under the new classifier; the penultimate one by default.
    preprocess, resize, image_size
        As for :func:`featx.extract`.
    init : {"head", "random"}, default="head"
        Where the classifier starts: at the logistic regression on the frozen embeddings, or at random.
    unfreeze : str, default="all"
        ``all``; ``last:K`` for the last K modules that own parameters; or a node or module, from which
        on everything is trained.
    epochs : int, default=10
        The most epochs, and the length of the schedule.
    lr : float or "auto"
        The highest learning rate; ``auto`` tries 1e-5, 1e-4 and 1e-3.
    augment : {"none", "light"}
        See :func:`featx.training.augmentation.augmenter`.
    train_batchnorm : bool, default=False
        Use and learn the statistics of batches in the unfrozen part.
    cv : int, default=5
        Folds inside the training part, of which the first tunes, where the source has no tuning split.
    test_size : float, optional
        Share of a hold-out, for sources without a test split of their own; 0.25 by default.
    seed : int, default=0
        On a CPU the same seed gives the same numbers.
    batch_size : int or "auto"
        Images a step; ``auto`` is 16, and 32 from 2,000 training images on.
    precision : {"auto", "fp32", "bf16"}
        Of the forward pass; parameters are fp32.
    device : str, default="auto"
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    workers : int or "auto"
        Threads that decode. Every image is decoded once and kept as uint8, image_size² × 3 bytes each.
    max_skip : float, default=0.1
        Share of the images that may be skipped.
    output : path, optional
        The run folder: ``results.json``, ``predictions.npz``, ``report.md``, ``report.html`` and
        ``network.safetensors``, which :func:`featx.extract` takes as ``weights``. Nothing is written
        without it.
    command : str
        Kept in the results.
    on_progress : callable, optional
        Called with a :class:`featx.records.Progress`, while decoding and after each epoch.

    Returns
    -------
    Results
        With one row of kind ``finetune``; its ``cv`` holds the accuracy on the tuning images.

    Raises
    ------
    SourceError, BackboneError, WeightsError, DatasetError, TooManySkippedError, UnknownNameError
    TrainingError
        If the loss becomes NaN or infinite.

    Source
    ------
    Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution
    (LP-FT, arXiv:2202.10054).

    Examples
    --------
    >>> import featx, numpy as np, pathlib, tempfile
    >>> from PIL import Image
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for label, grey in (("dark", 60), ("light", 190)):
    ...     (root / label).mkdir()
    ...     for number in range(8):
    ...         Image.new("RGB", (16, 16), (grey + number,) * 3).save(root / label / f"{number}.png")
    >>> results = featx.finetune(root, backbone="featx-tiny", epochs=1, lr=1e-4, cv=2)
    >>> results.best_row.kind, results.best_row.test["accuracy"].value
    ('finetune', 1.0)
    """
    started = time.perf_counter()
    _check(init, epochs, lr, batch_size)
    folder = check_run_folder(output, of=NETWORK_FILE) if output is not None else None
    opened = open_source(source)
    records = list_images(opened)

    # Late, because they load torch.
    from featx.backbones.trainable import load_trainable
    from featx.training.augmentation import augmenter
    from featx.training.baseline import train_baseline
    from featx.training.classifier import Classifier
    from featx.training.loop import Recipe, predict_proba
    from featx.training.pixels import load_images
    from featx.training.search import RATES

    network = load_trainable(
        backbone,
        weights=weights,
        layer=parse_layer(layer) if layer is not None else None,
        unfreeze=unfreeze,
        train_batchnorm=train_batchnorm,
        precision=precision,
        device=device,
        seed=seed,
        preprocess=choose_preprocess(backbone, weights, preprocess, resize, image_size),
    )
    augmenter(augment, network.preprocess)  # a wrong name is an error before the work
    threads = default_workers() if workers == "auto" else workers
    data = load_images(
        opened, records, network.preprocess, workers=threads, max_skip=max_skip, on_progress=on_progress
    )
    plan = make_plan(data, cv=cv, test_size=test_size, seed=seed)
    size = (16 if len(plan.y) < LARGE else 32) if batch_size == "auto" else batch_size
    rates = RATES if lr == "auto" else (lr,)

    model = Classifier(network, len(plan.classes), seed)
    recipe = Recipe(epochs, rates[0], size, augment, seed)
    trial = train_baseline(
        model, data.pixels, plan, recipe, rates, warm_start=init == "head", on_progress=on_progress
    )
    trained = time.perf_counter()
    probabilities = predict_proba(model, data.pixels, plan.split.test, size)
    predicted = time.perf_counter()
    out_of_fold = _out_of_fold(plan, trial)

    test = plan.evaluation(probabilities, seed)
    row = ResultRow(
        kind="finetune",
        backbone=backbone,
        weights=_weights_words(weights, seed),
        layer=network.layer.name,
        head="finetune",
        params={
            "epochs": trial.epochs,
            "lr": trial.recipe.lr,
            "unfreeze": unfreeze,
            "init": init,
            "augment": augment,
        },
        cv={"mean": trial.accuracy, "sd": None, "folds": [trial.accuracy]},
        test=test.scores,
        per_class=test.per_class,
        confusion=test.confusion,
        seconds={"extract": 0.0, "fit": trained - started, "predict": predicted - trained},
        peak_memory_bytes=peak_memory_bytes(),
        n_parameters_trained=model.n_trained,
        dim=network.layer.dim,
        store="",
        warnings=(*trial.warnings, *network.notes),
    )
    results = Results(
        dataset=describe_dataset(
            data, plan, name=Path(opened.location).name, sources=[opened.location], skipped=data.skipped
        ),
        settings={
            "heads": ["finetune"],
            "layers": [network.layer.name],
            "folds": len(plan.folds),
            "test_size": test_size,
            "seed": seed,
            "epochs": epochs,
            "rates": list(rates),
            "batch_size": size,
            "train_batchnorm": train_batchnorm,
            "precision": network.precision,
            "device": str(network.device),
            "weights_digest": network.weights.digest,
            "preprocess": network.preprocess.to_json(),
        },
        rows=(row,),
        comparisons=(),
        best=0,
        environment=environment(),
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        test_names=tuple(data.names[index] for index in plan.split.test),
        truth=plan.truth,
        predictions=(RowPredictions(probabilities, most_probable(out_of_fold)),),
        suspects=plan.suspects(data.names, out_of_fold, probabilities),
        oof_probabilities=out_of_fold,
    )
    if folder is not None:
        # Before the results, so that an earlier run's network never stands beside them.
        (folder / NETWORK_FILE).unlink(missing_ok=True)
        results.save(folder)
        with publish(folder / NETWORK_FILE) as file:
            file.write(network.to_safetensors())
        write_report(folder)
    return results


def _check(init: str, epochs: int, lr: float | str, batch_size: int | str) -> None:
    """Refuse what cannot be trained with, before any work."""
    if init not in get_args(Init):
        raise UnknownNameError("start of the classifier", init, get_args(Init))
    if epochs < 1:
        raise FeatxError(f"Got {epochs} epochs, expected at least 1.")
    if lr != "auto" and not (isinstance(lr, float | int) and 0 < lr < float("inf")):
        raise FeatxError(f"Got the learning rate {lr!r}, expected a number above 0, or auto.")
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size >= 1):
        raise FeatxError(f"Got a batch size of {batch_size!r}, expected at least 1, or auto.")


def _weights_words(spec: str | os.PathLike[str], seed: int) -> str:
    """Say where the weights come from, as :func:`featx.fit` does."""
    if spec == "none":
        return f"random, seed {seed}"
    return "default" if spec == "default" else Path(spec).name


def _out_of_fold(plan: Plan, trial: Trial) -> NDArray[np.float64]:
    """Probabilities of each tuning image; NaN for the others."""
    probabilities = np.full((len(plan.y), len(plan.classes)), np.nan)
    probabilities[plan.folds[0][1]] = trial.probabilities
    return probabilities
