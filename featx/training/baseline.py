"""From a frozen network to a fine-tuned one: warm start, choice of the recipe, final training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from featx.heads.search import tune
from featx.heads.warning_log import SolverLog
from featx.records import Pixels, Progress, ProgressCallback
from featx.training.classifier import Classifier, fold_head
from featx.training.loop import Recipe, embed_rows, train
from featx.training.search import Trial, choose_recipe

if TYPE_CHECKING:
    from featx.protocol import Plan

__all__ = ["train_baseline"]


def train_baseline(
    model: Classifier,
    pixels: Pixels,
    plan: Plan,
    recipe: Recipe,
    rates: Sequence[float],
    *,
    warm_start: bool,
    on_progress: ProgressCallback | None = None,
) -> Trial:
    """Choose rate and epochs on the first fold, then train from the start on all that is not test.

    Parameters
    ----------
    model : Classifier
        With the pretrained network; afterwards the fine-tuned one.
    pixels : ndarray of uint8, (N, H, W, 3)
    plan : Plan
        Its test rows are not looked at.
    recipe : Recipe
    rates : sequence of float
    warm_start : bool
        Whether the classifier starts as logistic regression, its regularisation chosen on all folds,
        fitted on just the images that are then trained on. Otherwise it starts as it is.
    on_progress : callable, optional

    Returns
    -------
    Trial
        What was chosen.

    Raises
    ------
    TrainingError
        If the loss becomes NaN or infinite.
    """
    rows, codes = plan.development, np.searchsorted(plan.classes, plan.y)
    pretrained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embeddings = head = None
    if warm_start:
        embeddings = embed_rows(model, pixels, rows, recipe.batch_size)
        head = tune(
            "logreg", embeddings, plan.y, cv=plan.folds, groups=plan.groups, seed=recipe.seed, jobs=-1
        ).best_estimator_
        model.set_linear(*fold_head(_fit_part(head, embeddings, plan.y, plan.folds[0][0])))
    learn, check = plan.folds[0]
    trial = choose_recipe(
        model,
        pixels,
        (rows[learn], codes[learn]),
        (rows[check], codes[check]),
        recipe,
        rates,
        on_progress=on_progress,
    )
    model.load_state_dict(pretrained)
    if head is not None:
        model.set_linear(*fold_head(head))

    def tell(epochs: int) -> None:
        if on_progress is not None:
            on_progress(Progress("fine-tune", epochs, trial.epochs, "epochs"))

    tell(0)
    train(model, pixels, rows, codes, trial.recipe, stop_after=trial.epochs, on_epoch=tell)
    warnings = trial.warnings
    if plan.split.tuning is None:
        tuned = f"learning rate and epochs were chosen on one fold of {len(check)} training images"
        warnings = (tuned, *warnings)
    return dataclasses.replace(trial, warnings=warnings)


def _fit_part(head: Any, X: NDArray[np.float32], y: NDArray[np.str_], part: NDArray[np.intp]) -> Any:
    """Fit a head again on some of the rows, with the parameters it has."""
    # What the search had to say of convergence, it has said.
    with SolverLog().listen():
        return clone(head).fit(X[part], y[part])
