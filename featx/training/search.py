"""Which learning rate and how many epochs: tried on images that are not learned from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featx.errors import TrainingError
from featx.records import Progress, ProgressCallback
from featx.training.checkpoint import Checkpoint
from featx.training.classifier import Classifier
from featx.training.feeds import Feed, Rows
from featx.training.loop import Curve, OnStep, predict_proba, train
from featx.training.recipe import Recipe

__all__ = ["Curves", "Trial", "choose_recipe", "show_progress"]

Curves = dict[str, Curve]
"""The curve of each training by its name."""


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
    curves : dict of str to list of dict
        Of all that was trained.
    """

    recipe: Recipe
    epochs: int
    accuracy: float
    loss: float
    probabilities: NDArray[np.float64]
    warnings: tuple[str, ...] = ()
    curves: Curves = field(default_factory=dict)


def choose_recipe(
    model: Classifier,
    feed: Feed,
    learn: tuple[Rows, NDArray[np.intp]],
    check: tuple[Rows, NDArray[np.intp]],
    recipe: Recipe,
    rates: Sequence[float],
    *,
    on_progress: ProgressCallback | None = None,
    checkpoint: Checkpoint | None = None,
) -> Trial:
    """Train once with each rate, and keep the epoch with the highest accuracy on the tuning images.

    Of equal accuracies the one with the lower log loss is taken, then the earlier epoch, then the lower
    rate. A rate is given up after ``recipe.patience`` epochs that are no better than one before; one that
    diverges is left out.

    Parameters
    ----------
    model : Classifier
        Where training starts; changed, and its state at the end means nothing.
    feed : Feed
    learn, check : (rows, codes)
        Images, and the index of their class, to train on and to choose by.
    recipe : Recipe
        Its rate is replaced.
    rates : sequence of float
        Ascending.
    on_progress : callable, optional
        Called after each step, and before the first.
    checkpoint : Checkpoint, optional
        Rates that it has finished are not tried again.

    Raises
    ------
    TrainingError
        If every rate diverges.
    """
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trials: list[Trial] = []
    diverged: list[str] = []
    curves: Curves = {}
    for rate in rates:
        run, tried = f"try rate {rate:g}", dataclasses.replace(recipe, lr=rate)
        done = checkpoint.finished(run) if checkpoint else None
        if done is None:
            model.load_state_dict(start)
            done = _try(model, feed, learn, check, tried, run, on_progress, checkpoint)
        state, tensors = done
        if "diverged" in state:
            diverged.append(state["diverged"])
            continue
        curves[run] = state["curve"]
        best = state["curve"][state["epochs"] - 1]
        trials.append(Trial(tried, state["epochs"], *_scores_of(best), tensors["probabilities"].numpy()))
    if not trials:
        raise TrainingError(diverged[0])
    # The first of equals, which has the lower rate.
    best_trial = min(trials, key=lambda trial: (-trial.accuracy, trial.loss))
    warnings = _warnings(best_trial, rates, len(diverged))
    return dataclasses.replace(best_trial, warnings=warnings, curves=curves)


def show_progress(run: str, epochs: int, n_rows: int, on_progress: ProgressCallback | None) -> OnStep | None:
    """Turn steps into progress, in images, with the last epoch in words; says at once that it begins."""
    if on_progress is None:
        return None
    total = epochs * n_rows

    def tell(seen: int, curve: Curve) -> None:
        note = f"epoch {min(seen // n_rows + 1, epochs)}/{epochs}"
        if curve:
            last = curve[-1]
            note += f", loss {last['loss']:.3f}, accuracy {last['accuracy']:.3f}"
            if "tuning_accuracy" in last:
                note += f", on tuning images {last['tuning_accuracy']:.3f}"
        on_progress(Progress(run, seen, total, note=note))

    tell(0, [])
    return tell


def _try(
    model: Classifier,
    feed: Feed,
    learn: tuple[Rows, NDArray[np.intp]],
    check: tuple[Rows, NDArray[np.intp]],
    recipe: Recipe,
    run: str,
    on_progress: ProgressCallback | None,
    checkpoint: Checkpoint | None,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Train with one rate; gives ``curve`` and ``epochs``, the best, with its ``probabilities``."""
    rows, codes = check
    # What was best before an interruption is trained no more, but was kept on the way.
    saved = checkpoint.running(run) if checkpoint else None
    kept: dict[str, torch.Tensor] = {}
    if saved is not None and "extra/probabilities" in saved[1]:
        kept["probabilities"] = saved[1]["extra/probabilities"]
    curve: Curve = list(saved[0]["curve"]) if saved is not None else []

    def score(entry: dict[str, Any]) -> bool:
        probabilities = predict_proba(model, feed, rows, recipe.batch_size)
        right = probabilities[np.arange(len(codes)), codes].clip(np.finfo(np.float64).eps)
        entry["tuning_accuracy"] = float((probabilities.argmax(axis=1) == codes).mean())
        entry["tuning_loss"] = float(-np.log(right).mean())
        curve.append(entry)
        best = _best(curve)
        if best == len(curve):
            kept["probabilities"] = torch.from_numpy(probabilities)
        return 0 < recipe.patience <= len(curve) - best

    tell = show_progress(run, recipe.epochs, len(learn[0]), on_progress)
    try:
        done = train(
            model,
            feed,
            *learn,
            recipe,
            on_epoch=score,
            on_step=tell,
            checkpoint=checkpoint,
            run=run,
            extra=kept,
        )
    except TrainingError as error:
        state: dict[str, Any] = {"diverged": str(error)}
        kept = {}
    else:
        state = {"curve": done, "epochs": _best(done)}
        if tell is not None:
            tell(recipe.epochs * len(learn[0]), done)
    if checkpoint:
        checkpoint.finish(run, state, kept)
    return state, kept


def _best(curve: Curve) -> int:
    """Give the number of the best epoch, the first of equals."""
    merits = [(-entry["tuning_accuracy"], entry["tuning_loss"]) for entry in curve]
    return merits.index(min(merits)) + 1


def _scores_of(entry: dict[str, Any]) -> tuple[float, float]:
    return entry["tuning_accuracy"], entry["tuning_loss"]


def _warnings(best: Trial, rates: Sequence[float], n_diverged: int) -> tuple[str, ...]:
    lines = []
    if n_diverged:
        lines.append(f"{n_diverged} of {len(rates)} learning rates diverged")
    if len(rates) > 1 and best.recipe.lr in (rates[0], rates[-1]):
        lines.append(f"the learning rate {best.recipe.lr:g} lies on the edge of those tried")
    if best.epochs == best.recipe.epochs:
        lines.append(f"the last of {best.epochs} epochs was the best; more may do better")
    return tuple(lines)
