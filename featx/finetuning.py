"""The end-to-end baseline: the same images, splits and metrics as the heads, but the network is trained too.

LP-FT (Kumar et al. 2022, arXiv:2202.10054) by default: the classifier starts as the logistic regression
that :func:`featx.fit` would fit, then the network below is trained with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from featx.embedding import choose_preprocess, parse_layer
from featx.endtoend import load_for_training, place_above, train_on_plan, weights_words
from featx.environment import environment
from featx.errors import FeatxError
from featx.files import disk_errors
from featx.images.loading import default_workers
from featx.images.sources import SourceLike, list_images, open_source
from featx.protocol import describe_dataset, make_plan
from featx.records import LayerSpec, Precision, Preprocess, ProgressCallback, Resize
from featx.report import write_report
from featx.results import (
    CURVES_FILE,
    CURVES_SCHEMA,
    LAST_GOOD_FILE,
    MODEL_FILE,
    NETWORK_FILE,
    SHEET_FILE,
    Results,
    check_run_folder,
    save_curves,
)
from featx.tuningoptions import DEFAULT_EPOCHS, DEFAULT_PATIENCE, Init, TuningOptions

__all__ = ["NETWORK_FILE", "finetune"]


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
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    head_epochs: int = 0,
    epochs: int = DEFAULT_EPOCHS,
    patience: int = DEFAULT_PATIENCE,
    lr: float | Literal["auto"] = "auto",
    optimizer: Literal["adamw", "sgd"] = "adamw",
    layer_decay: float = 1.0,
    label_smoothing: float = 0.0,
    balanced: bool = False,
    augment: Literal["none", "crop", "light", "strong"] = "none",
    train_batchnorm: bool = False,
    cv: int = 5,
    test_size: float | None = None,
    seed: int = 0,
    repeats: int = 1,
    batch_size: int | Literal["auto"] = "auto",
    precision: Precision | Literal["auto"] = "auto",
    compile: Literal["auto", "on", "off"] = "auto",
    device: str = "auto",
    workers: int | Literal["auto"] = "auto",
    max_skip: float = 0.1,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    command: str = "",
    on_progress: ProgressCallback | None = None,
) -> Results:
    """Fine-tune a network end to end and score it as :func:`featx.fit` scores heads.

    Learning rate and number of epochs are chosen on the tuning images: the source's own tuning split, else
    the first of the folds that heads would be tuned on. Then the network is trained again, from the
    start, on all images that are not test, for that number of epochs of the same schedule (a linear rise
    over a tenth of the steps, half a cosine). The test images take no part in any of this.

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
        Where the classifier starts: at the logistic regression on the frozen embeddings, with hidden
        layers at scikit-learn's perceptron on them, or at random.
    unfreeze : str, default="all"
        ``all``; ``last:K`` for the last K modules that own parameters; or a node or module, from which
        on everything is trained. What comes before is computed once, if images are not augmented.
    hidden : sequence of int, default=()
        Widths of hidden layers of the classifier, as (512, 512).
    dropout : float, default=0
        Before each linear layer of the classifier but the first, or before the only one.
    head_epochs : int, default=0
        Epochs in which the classifier is trained alone, before the network is trained with it: the two
        phases of the tutorials, with ``init="random"``.
    epochs : int, default=10
        The most epochs, and the length of the schedule.
    patience : int, default=4
        Epochs no better than one before, after which a rate is given up; 0 for never.
    lr : float or "auto"
        The highest learning rate; ``auto`` tries 1e-5, 1e-4 and 1e-3, and ten times those for ``sgd``.
    optimizer : {"adamw", "sgd"}, default="adamw"
        ``sgd`` has Nesterov momentum 0.9.
    layer_decay : float, default=1
        Factor of the learning rate from each block of the network to the one before it, in (0, 1].
    label_smoothing : float, default=0
        Share of the target that is spread over all classes.
    balanced : bool, default=False
        Weigh classes by the inverse of their frequency.
    augment : {"none", "crop", "light", "strong"}
        See :class:`featx.training.augmentation.Augmenter`; the run folder gets a picture of it.
    train_batchnorm : bool, default=False
        Use and learn the statistics of batches in the unfrozen part.
    cv : int, default=5
        Folds inside the training part, of which the first tunes, where the source has no tuning split.
    test_size : float, optional
        Share of a hold-out, for sources without a test split of their own; 0.25 by default.
    seed : int, default=0
        On a CPU the same seed gives the same numbers.
    repeats : int, default=1
        How often the final training is done, each with the next seed; the row is that of ``seed``, and
        says how far the others are from it.
    batch_size : int or "auto"
        Images a step; ``auto`` is 16, and 32 from 2,000 training images on.
    precision : {"auto", "fp32", "bf16"}
        Of the forward pass; parameters are fp32.
    compile : {"auto", "on", "off"}
        ``auto`` compiles for a GPU that is given many images.
    device : str, default="auto"
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    workers : int or "auto"
        Threads that decode. Every image is decoded once and kept as uint8, image_size² × 3 bytes each, in
        memory or, where that is too small, in a mapped file.
    max_skip : float, default=0.1
        Share of the images that may be skipped.
    output : path, optional
        The run folder: ``results.json``, ``predictions.npz``, ``curves.json``, ``report.md``,
        ``report.html``, ``network.safetensors``, which :func:`featx.extract` takes as ``weights``, and
        ``model.featx``, which :class:`featx.Model` reads. Nothing is written without it.
    resume : bool, default=False
        Go on with a training that was interrupted: after each epoch, and when a signal ends it, it is
        saved in the run folder.
    command : str
        Kept in the results.
    on_progress : callable, optional
        Called with a :class:`featx.records.Progress`, while decoding and after each step.

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
    options = TuningOptions(
        init=init,
        unfreeze=unfreeze,
        hidden=tuple(hidden),
        dropout=dropout,
        head_epochs=head_epochs,
        epochs=epochs,
        patience=patience,
        lr=lr,
        optimizer=optimizer,
        layer_decay=layer_decay,
        label_smoothing=label_smoothing,
        balanced=balanced,
        augment=augment,
        train_batchnorm=train_batchnorm,
        repeats=repeats,
        batch_size=batch_size,
        precision=precision,
        compile=compile,
        device=device,
        workers=workers,
    )
    folder = check_run_folder(output, of=NETWORK_FILE) if output is not None else None
    if resume and folder is None:
        raise FeatxError("Got resume without a run folder; give the folder of the training with -o.")
    opened = open_source(source)
    records = list_images(opened)

    # Late, because they load torch.
    from featx.training.checkpoint import refuse_unfinished
    from featx.training.pixels import load_images

    if folder is not None and not resume:
        refuse_unfinished(folder)
    network = load_for_training(
        options,
        backbone,
        weights=weights,
        layer=parse_layer(layer) if layer is not None else None,
        preprocess=choose_preprocess(backbone, weights, preprocess, resize, image_size),
        seed=seed,
    )
    data = load_images(
        opened,
        records,
        network.preprocess,
        workers=default_workers() if workers == "auto" else workers,
        max_skip=max_skip,
        scratch=place_above(folder),
        on_progress=on_progress,
    )
    plan = make_plan(data, cv=cv, test_size=test_size, seed=seed)
    trained = train_on_plan(
        network,
        data,
        plan,
        options,
        backbone=backbone,
        weights=weights_words(weights, seed),
        test_size=test_size,
        seed=seed,
        folder=folder,
        checkpoints=folder,
        on_progress=on_progress,
    )
    tuned = trained.tuned
    created = datetime.now(UTC).isoformat(timespec="seconds")
    results = Results(
        dataset=describe_dataset(
            data, plan, name=Path(opened.location).name, sources=[opened.location], skipped=data.skipped
        ),
        settings=trained.settings,
        rows=(tuned.row,),
        comparisons=(),
        best=0,
        environment=environment(),
        command=command,
        created=created,
        test_names=tuple(data.names[index] for index in plan.split.test),
        truth=plan.truth,
        predictions=(tuned.predictions,),
        suspects=plan.suspects(data.names, tuned.out_of_fold, tuned.predictions.probabilities),
        oof_probabilities=tuned.out_of_fold,
        estimator=tuned.estimator,
        curves={"schema": CURVES_SCHEMA, "training": tuned.curves},
    )
    if folder is not None:
        # Before the results, so that an earlier run's files never stand beside them.
        with disk_errors(folder):
            for name in (MODEL_FILE, NETWORK_FILE, CURVES_FILE, LAST_GOOD_FILE):
                (folder / name).unlink(missing_ok=True)
            if augment == "none":
                (folder / SHEET_FILE).unlink(missing_ok=True)
        results.save(folder)
        # A model without its network is what `featx fit` leaves.
        tuned.save_network(folder / NETWORK_FILE)
        save_curves(folder, {"schema": CURVES_SCHEMA, "training": tuned.curves})
        tuned.save_model(folder / MODEL_FILE, plan, source=opened.location, created=created)
        write_report(folder)
        if trained.checkpoint is not None:
            trained.checkpoint.remove()
    return results
