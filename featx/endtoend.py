"""An end-to-end training from its options, for whoever has images and a plan.

:func:`featx.finetune` makes its plan from the images; :func:`featx.fit` brings that of its heads.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featx.errors import TrainingError
from featx.finetuned import FineTuned, fine_tune_plan
from featx.protocol import Plan
from featx.records import LayerSpec, Preprocess, ProgressCallback
from featx.tuningoptions import TuningOptions

if TYPE_CHECKING:
    from featx.backbones.trainable import TrainableNetwork
    from featx.training.checkpoint import Checkpoint
    from featx.training.pixels import ImageSet

__all__ = [
    "Trained",
    "load_for_training",
    "place_above",
    "train_on_plan",
    "weights_words",
]

LARGE = 2000
"""From so many training images on, ``batch_size="auto"`` is 32 and not 16: there are steps enough."""

WORTH_COMPILING = 50_000
"""Images a GPU must be given in one training before compiling, which takes a minute, pays."""


def load_for_training(
    options: TuningOptions,
    backbone: str,
    *,
    weights: str | os.PathLike[str],
    layer: LayerSpec | None,
    preprocess: Preprocess | None,
    seed: int,
) -> TrainableNetwork:
    """Load the network that is trained; everything as for :func:`featx.finetune`."""
    # Late, because it loads torch.
    from featx.backbones.trainable import load_trainable

    return load_trainable(
        backbone,
        weights=weights,
        layer=layer,
        unfreeze=options.unfreeze,
        train_batchnorm=options.train_batchnorm,
        precision=options.precision,
        device=options.device,
        seed=seed,
        preprocess=preprocess,
    )


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training gave, with its settings in plain types and its checkpoint, which is still there."""

    tuned: FineTuned
    settings: dict[str, Any]
    checkpoint: Checkpoint | None


def train_on_plan(
    network: TrainableNetwork,
    images: ImageSet,
    plan: Plan,
    options: TuningOptions,
    *,
    backbone: str,
    weights: str,
    test_size: float | None,
    seed: int,
    folder: Path | None = None,
    checkpoints: Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> Trained:
    """Train a network on the images of a plan, or go on where a checkpoint stands.

    Parameters
    ----------
    network : TrainableNetwork
        Of :func:`load_for_training`, with the same options and seed.
    images : ImageSet
        In the order that the plan's rows count.
    plan : Plan
    options : TuningOptions
    backbone, weights : str
        The network in words, for the row.
    test_size : float or None
        With which the plan was made.
    seed : int
    folder : Path, optional
        The run folder, for the sheet of augmented images and the last good weights.
    checkpoints : Path, optional
        The folder for checkpoints; none are kept without it.
    on_progress : callable, optional

    Raises
    ------
    TrainingError
        If the loss becomes NaN or infinite; the checkpoint is removed then.
    FeatxError
        If the checkpoint there is of another training.
    """
    from featx.training.checkpoint import Checkpoint
    from featx.training.recipe import RATES, Recipe

    size = options.batch_size
    if size == "auto":
        size = 16 if len(plan.y) < LARGE else 32
    rates = RATES[options.optimizer] if options.lr == "auto" else (options.lr,)
    if options.compile == "on" or (
        options.compile == "auto"
        and network.device.type == "cuda"
        and options.epochs * len(plan.y) >= WORTH_COMPILING
    ):
        network.compile()
    recipe = Recipe(
        options.epochs,
        rates[0],
        size,
        options.augment,
        seed,
        options.optimizer,
        options.layer_decay,
        options.label_smoothing,
        options.balanced,
        options.patience,
    )
    settings: dict[str, Any] = {
        "heads": ["finetune"],
        "layers": [network.layer.name],
        "folds": len(plan.folds),
        "test_size": test_size,
        "seed": seed,
        "epochs": options.epochs,
        "patience": options.patience,
        "rates": list(rates),
        "batch_size": size,
        "train_batchnorm": options.train_batchnorm,
        "precision": network.precision,
        "device": str(network.device),
        "weights_digest": network.weights.digest,
        "preprocess": network.preprocess.to_json(),
    }
    how: dict[str, Any] = {
        "init": options.init,
        "unfreeze": options.unfreeze,
        "head_epochs": options.head_epochs,
        "hidden": list(options.hidden),
        "dropout": options.dropout,
        "repeats": options.repeats,
    }
    checkpoint = None
    if checkpoints is not None:
        fixed: dict[str, Any] = {
            "optimizer": options.optimizer,
            "layer_decay": options.layer_decay,
            "label_smoothing": options.label_smoothing,
        }
        fixed |= {"balanced": options.balanced, "augment": options.augment, "backbone": backbone}
        identity = settings | how | fixed | {"images": _data_digest(images, plan)}
        checkpoint = Checkpoint(checkpoints, identity)
    try:
        tuned = fine_tune_plan(
            network,
            images.pixels,
            plan,
            recipe,
            rates,
            backbone=backbone,
            weights=weights,
            folder=folder,
            checkpoint=checkpoint,
            on_progress=on_progress,
            **how,
        )
    except TrainingError:
        # To go on from there would only lead there again.
        if checkpoint is not None:
            checkpoint.remove()
        raise
    if options.repeats > 1:
        settings["repeats"] = tuned.repeats
    return Trained(tuned, settings, checkpoint)


def place_above(folder: Path | None) -> Path | None:
    """Give the folder, or the first above it that is there, for images that do not fit into memory."""
    if folder is None:
        return None
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())


def weights_words(spec: str | os.PathLike[str], seed: int) -> str:
    """Say where the weights come from, as :func:`featx.fit` does.

    Examples
    --------
    >>> weights_words("none", 3), weights_words("default", 3), weights_words("/a/b.pth", 3)
    ('random, seed 3', 'default', 'b.pth')
    """
    if spec == "none":
        return f"random, seed {seed}"
    return "default" if spec == "default" else Path(spec).name


def _data_digest(images: ImageSet, plan: Plan) -> str:
    """SHA-256 of the images and of who learns, tunes and is scored."""
    digest = hashlib.sha256(images.digests.tobytes())
    parts = [images.labels.tolist(), plan.development.tolist(), plan.split.test.tolist()]
    digest.update(json.dumps([*parts, [[part.tolist() for part in fold] for fold in plan.folds]]).encode())
    return digest.hexdigest()
