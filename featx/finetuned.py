"""The baseline of a plan: from decoded images and a network to its row, its network and its model file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.environment import environment, peak_memory_bytes
from featx.errors import TrainingError
from featx.files import make_directories, publish
from featx.images.decoding import POLICY
from featx.outcomes import ResultRow
from featx.protocol import Plan
from featx.records import LayerInfo, Pixels, ProgressCallback, Space
from featx.results import LAST_GOOD_FILE, SHEET_FILE, RowPredictions, most_probable

if TYPE_CHECKING:
    from featx.backbones.trainable import TrainableNetwork
    from featx.training.checkpoint import Checkpoint
    from featx.training.recipe import Recipe
    from featx.training.search import Trial

__all__ = ["FineTuned", "fine_tune_plan"]

_EXAMPLES = 32


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned network with all that is to be known of it.

    Parameters
    ----------
    row : ResultRow
        Of kind ``finetune``.
    predictions : RowPredictions
        Of the test images, and of the tuning images.
    out_of_fold : ndarray of float64, (n_development, k)
        Probabilities of the tuning images; NaN for the others.
    curves : mapping of str to list of dict
        Of every training, by name.
    repeats : list of dict
        ``seed`` and test ``accuracy`` of each final training; the row's own comes last.
    network : bytes
        A safetensors file.
    estimator : LogisticRegression or MLPClassifier
        The classifier on top, on embeddings of ``space``.
    space, layer : Space, LayerInfo
        What the fine-tuned network makes of images.
    examples : ndarray of float32, (k, dim)
        Embeddings of some training images.
    """

    row: ResultRow
    predictions: RowPredictions = field(repr=False)
    out_of_fold: NDArray[np.float64] = field(repr=False)
    curves: Mapping[str, Any] = field(repr=False)
    repeats: Sequence[Mapping[str, Any]] = field(repr=False)
    network: bytes = field(repr=False)
    estimator: Any = field(repr=False)
    space: Space = field(repr=False)
    layer: LayerInfo
    examples: NDArray[np.float32] = field(repr=False)

    def save_network(self, path: Path) -> None:
        """Write the network as a safetensors file, to be used as ``weights``.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        with publish(path) as file:
            file.write(self.network)

    def save_model(self, path: Path, plan: Plan, *, source: str, created: str) -> None:
        """Write network and classifier as a model file, for :class:`featx.Model`.

        Parameters
        ----------
        path : Path
        plan : Plan
            On which it was trained.
        source, created : str
            Where the images lie, and when; for the model's card.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        # Late: skops loads slowly.
        from featx.modelfile import make_card, save_model

        save_model(
            path,
            self.estimator,
            classes=plan.classes,
            space=self.space,
            layer=self.layer,
            weights={"spec": f"a network fine-tuned from {self.row.weights} weights"},
            card=make_card(
                self.row, plan, source=source, created=created, versions=environment()["versions"]
            ),
            examples=self.examples,
            network=self.network,
        )


def fine_tune_plan(
    network: TrainableNetwork,
    pixels: Pixels,
    plan: Plan,
    recipe: Recipe,
    rates: Sequence[float],
    *,
    backbone: str,
    weights: str = "default",
    unfreeze: str = "all",
    init: str = "head",
    head_epochs: int = 0,
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    repeats: int = 1,
    folder: Path | None = None,
    checkpoint: Checkpoint | None = None,
    on_progress: ProgressCallback | None = None,
) -> FineTuned:
    """Fine-tune a network on the images of a plan and score it on the plan's test images.

    The same function for :func:`featx.finetune` and for whoever has a plan already, so that heads and
    baseline see the very same splits.

    Parameters
    ----------
    network : TrainableNetwork
        Pretrained; afterwards the fine-tuned one.
    pixels : ndarray of uint8, (N, side, side, 3)
        All images, prepared as ``network.preprocess`` says, in the order that the plan's rows count.
    plan : Plan
    recipe : Recipe
        Its rate is replaced by one of ``rates``.
    rates : sequence of float
        Ascending.
    backbone, weights, unfreeze : str
        How the network was made, for the row.
    init, head_epochs, hidden, dropout, repeats
        As for :func:`featx.finetune`.
    folder : Path, optional
        The run folder: gets the sheet of augmented images, and what was learned before a loss that is no
        number.
    checkpoint : Checkpoint, optional
    on_progress : callable, optional

    Returns
    -------
    FineTuned

    Raises
    ------
    TrainingError
        If the loss becomes NaN or infinite.
    """
    # Late, because they load torch.
    from featx.backbones.catalog import find_backbone
    from featx.training.augmentation import Augmenter
    from featx.training.baseline import Baseline
    from featx.training.classifier import Classifier, to_estimator
    from featx.training.energy import measure_energy
    from featx.training.loop import embed_rows, predict_proba
    from featx.training.sheet import write_sheet

    if folder is not None and recipe.augment != "none":
        make_directories(folder)
        sheet = Augmenter(recipe.augment, network.preprocess, recipe.seed)
        write_sheet(folder / SHEET_FILE, pixels, plan.development, sheet)
    started = time.perf_counter()
    gpu = (network.device.index or 0) if network.device.type == "cuda" else None
    model = Classifier(network, len(plan.classes), recipe.seed, hidden, dropout)
    with measure_energy(gpu) as energy:
        baseline = Baseline(
            model,
            pixels,
            plan,
            recipe,
            warm=init == "head",
            head_epochs=head_epochs,
            checkpoint=checkpoint,
            on_progress=on_progress,
        )
        trial = baseline.choose(rates)

        def predict() -> NDArray[np.float64]:
            return predict_proba(model, baseline.feed, plan.split.test, recipe.batch_size)

        def judge() -> dict[str, Any]:
            if not plan.split.test.size:
                return {}
            return {"accuracy": float((predict().argmax(axis=1) == plan.truth).mean())}

        try:
            judged = baseline.refit(trial, judge, repeats)
        except TrainingError as error:
            raise _with_last_good(error, folder, network.to_safetensors) from error
    trained = time.perf_counter()
    probabilities = predict()
    predicted = time.perf_counter()
    data = network.to_safetensors()
    examples = embed_rows(model, pixels, plan.development[:_EXAMPLES], recipe.batch_size)
    test = plan.evaluation(probabilities, recipe.seed)
    out_of_fold = _out_of_fold(plan, trial)
    row = ResultRow(
        kind="finetune",
        backbone=backbone,
        weights=weights,
        layer=network.layer.name,
        head="finetune",
        params=_params(recipe, trial, unfreeze, init, head_epochs, hidden, dropout),
        cv={"mean": trial.accuracy, "sd": None, "folds": [trial.accuracy]},
        test=test.scores,
        per_class=test.per_class,
        confusion=test.confusion,
        seconds={"extract": 0.0, "fit": trained - started, "predict": predicted - trained},
        peak_memory_bytes=peak_memory_bytes(),
        n_parameters_trained=model.n_trained,
        dim=network.layer.dim,
        store="",
        warnings=(*trial.warnings, *_spread(judged), *network.notes),
        n_parameters=model.n_parameters,
        energy_joules=energy.joules,
    )
    space = Space(
        provider=find_backbone(backbone).provider,
        backbone=backbone,
        weights={"digest": hashlib.sha256(data).hexdigest()},
        preprocess=network.preprocess.to_json(),
        decoding=POLICY,
        precision=network.precision,
        store_dtype="float32",
    )
    return FineTuned(
        row=row,
        predictions=RowPredictions(probabilities, most_probable(out_of_fold)),
        out_of_fold=out_of_fold,
        curves=trial.curves,
        repeats=judged,
        network=data,
        estimator=to_estimator(model.layers(), plan.classes),
        space=space,
        layer=network.layer,
        examples=examples,
    )


def _params(
    recipe: Recipe,
    trial: Trial,
    unfreeze: str,
    init: str,
    head_epochs: int,
    hidden: Sequence[int],
    dropout: float,
) -> dict[str, Any]:
    """Give what was chosen, and what is not as it is by default."""
    params = {
        "epochs": trial.epochs,
        "lr": trial.recipe.lr,
        "unfreeze": unfreeze,
        "init": init,
        "augment": recipe.augment,
    }
    more: dict[str, tuple[Any, Any]] = {
        "optimizer": (recipe.optimizer, "adamw"),
        "head_epochs": (head_epochs, 0),
        "hidden": (list(hidden), []),
        "dropout": (dropout, 0.0),
        "layer_decay": (recipe.layer_decay, 1.0),
        "label_smoothing": (recipe.label_smoothing, 0.0),
        "balanced": (recipe.balanced, False),
    }
    return params | {name: value for name, (value, usual) in more.items() if value != usual}


def _spread(judged: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Say how far trainings with other seeds are apart."""
    accuracies = [one["accuracy"] for one in judged if "accuracy" in one]
    if len(accuracies) < 2:
        return ()
    return (
        f"test accuracy over {len(accuracies)} seeds: {np.mean(accuracies):.3f} ± "
        f"{np.std(accuracies, ddof=1):.3f}, from {min(accuracies):.3f} to {max(accuracies):.3f}",
    )


def _with_last_good(
    error: TrainingError, folder: Path | None, to_bytes: Callable[[], bytes]
) -> TrainingError:
    """Keep what was learned before a loss that is no number, and say where."""
    if folder is None:
        return error
    make_directories(folder)
    with publish(folder / LAST_GOOD_FILE) as file:
        file.write(to_bytes())
    return TrainingError(f"{error} The weights of the last good epoch are in {folder / LAST_GOOD_FILE}.")


def _out_of_fold(plan: Plan, trial: Trial) -> NDArray[np.float64]:
    """Probabilities of each tuning image; NaN for the others."""
    probabilities = np.full((len(plan.y), len(plan.classes)), np.nan)
    probabilities[plan.folds[0][1]] = trial.probabilities
    return probabilities
