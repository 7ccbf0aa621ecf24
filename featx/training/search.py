"""Which learning rate and how many epochs: tried on images that are not learned from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featx.errors import TrainingError
from featx.records import Pixels, Progress, ProgressCallback
from featx.training.classifier import Classifier
from featx.training.loop import Recipe, Rows, predict_proba, train

__all__ = ["RATES", "Trial", "choose_recipe"]

RATES = (1e-5, 1e-4, 1e-3)
"""Highest learning rates of AdamW that ``auto`` tries: a decade to either side of the usual one."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The best epoch of the best rate.

    Parameters
    ----------
    recipe : Recipe
        With the chosen rate.
    epochs : int
        After which the tuning images were predicted best.
    accuracy : float
        On the tuning images; the best of several, so a little too good.
    loss : float
        Mean log loss there, in nats.
    probabilities : ndarray of float, (n_valid, n_classes)
    warnings : tuple of str
        What the reader must know of the choice.
    """

    recipe: Recipe
    epochs: int
    accuracy: float
    loss: float
    probabilities: NDArray[np.float64]
    warnings: tuple[str, ...] = ()


def choose_recipe(
    model: Classifier,
    pixels: Pixels,
    learn: tuple[Rows, NDArray[np.intp]],
    check: tuple[Rows, NDArray[np.intp]],
    recipe: Recipe,
    rates: Sequence[float],
    *,
    on_progress: ProgressCallback | None = None,
) -> Trial:
    """Train once with each rate, and keep the epoch with the highest accuracy on the tuning images.

    Of equal accuracies the one with the lower log loss is taken, then the earlier epoch, then the lower
    rate. A rate that diverges is left out.

    Parameters
    ----------
    model : Classifier
        Where training starts; changed, and its state at the end means nothing.
    pixels : ndarray of uint8, (N, H, W, 3)
    learn, check : (rows, codes)
        Images, and the index of their class, to train on and to choose by.
    recipe : Recipe
        Its rate is replaced.
    rates : sequence of float
        Ascending.
    on_progress : callable, optional
        Called after each epoch, and before the first.

    Raises
    ------
    TrainingError
        If every rate diverges.
    """
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    best: Trial | None = None
    diverged: list[TrainingError] = []
    for rate in rates:
        tried = dataclasses.replace(recipe, lr=rate)
        model.load_state_dict(start)
        trials: list[Trial] = []

        def tell(epochs: int, tried: Recipe = tried) -> None:
            if on_progress is not None:
                on_progress(Progress(f"try rate {tried.lr:g}", epochs, tried.epochs, "epochs"))

        def score(epochs: int, tried: Recipe = tried, trials: list[Trial] = trials) -> None:
            trials.append(_score(model, pixels, check, tried, epochs))
            tell(epochs)

        tell(0)
        try:
            train(model, pixels, *learn, tried, on_epoch=score)
        except TrainingError as error:
            diverged.append(error)
            continue
        for trial in trials:
            if best is None or (-trial.accuracy, trial.loss) < (-best.accuracy, best.loss):
                best = trial
    if best is None:
        raise diverged[0]
    return dataclasses.replace(best, warnings=_warnings(best, rates, len(diverged)))


def _score(
    model: Classifier, pixels: Pixels, check: tuple[Rows, NDArray[np.intp]], recipe: Recipe, epochs: int
) -> Trial:
    rows, codes = check
    probabilities = predict_proba(model, pixels, rows, recipe.batch_size)
    right = probabilities[np.arange(len(codes)), codes].clip(np.finfo(np.float64).eps)
    accuracy = float((probabilities.argmax(axis=1) == codes).mean())
    return Trial(recipe, epochs, accuracy, float(-np.log(right).mean()), probabilities)


def _warnings(best: Trial, rates: Sequence[float], n_diverged: int) -> tuple[str, ...]:
    lines = []
    if n_diverged:
        lines.append(f"{n_diverged} of {len(rates)} learning rates diverged")
    if len(rates) > 1 and best.recipe.lr in (rates[0], rates[-1]):
        lines.append(f"the learning rate {best.recipe.lr:g} lies on the edge of those tried")
    if best.epochs == best.recipe.epochs:
        lines.append(f"the last of {best.epochs} epochs was the best; more may do better")
    return tuple(lines)
