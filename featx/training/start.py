"""Where training starts: the classifier on top as a fitted head, as it was trained alone, or at random."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from featx.heads.catalog import find_head
from featx.heads.search import tune
from featx.heads.warning_log import SolverLog
from featx.training.checkpoint import Checkpoint, flatten
from featx.training.classifier import Classifier, fold_head
from featx.training.feeds import EmbeddingFeed, Feed, Rows
from featx.training.loop import OnStep, embed_rows, train
from featx.training.recipe import HEAD_RATE, Recipe
from featx.training.search import Curves

if TYPE_CHECKING:
    from featx.protocol import Plan
    from featx.records import Pixels

__all__ = ["Starts"]

Fit = Callable[[NDArray[np.float32], NDArray[Any]], Any]
"""From rows and labels to the fitted head."""

MLP_ALPHA = 1.0
"""Weight decay of the perceptron that a deeper classifier starts as; scikit-learn divides it by n."""


class Starts:
    """Sets models to where they start, for parts of the images.

    Parameters
    ----------
    model : Classifier
        Pretrained, as it was built.
    pixels : ndarray of uint8, (N, side, side, 3)
    plan : Plan
        Its test rows are not looked at.
    recipe : Recipe
    feed : Feed
        Of the images, for a classifier that is trained alone while they are augmented.
    warm : bool
        Whether the classifier starts as a head on the frozen embeddings: logistic regression, its
        regularisation chosen on all folds; with hidden layers, scikit-learn's perceptron.
    head_epochs : int
        Epochs in which the classifier is then trained alone.
    """

    def __init__(
        self,
        model: Classifier,
        pixels: Pixels,
        plan: Plan,
        recipe: Recipe,
        feed: Feed,
        *,
        warm: bool,
        head_epochs: int,
    ) -> None:
        self._model, self._plan, self._feed = model, plan, feed
        self._pretrained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        rate = HEAD_RATE[recipe.optimizer]
        self._recipe = dataclasses.replace(recipe, epochs=head_epochs, lr=rate, patience=0)
        self._head: Fit | None = None
        self._embeddings: NDArray[np.float32] | None = None
        if warm or (head_epochs and recipe.augment == "none"):
            self._embeddings = embed_rows(model, pixels, plan.development, recipe.batch_size)
        if warm:
            assert self._embeddings is not None
            hidden = [len(linear.bias) for linear in model.linears[:-1]]
            self._head = _choose_head(self._embeddings, plan, recipe, hidden)

    def set(
        self,
        part: NDArray[np.intp] | None,
        seed: int,
        *,
        run: str,
        curves: Curves,
        on_step: Callable[[str, int, int], OnStep | None],
        checkpoint: Checkpoint | None,
    ) -> None:
        """Set the model to its start.

        Parameters
        ----------
        part : ndarray of int, or None
            Positions in ``plan.development`` to learn from; None for all.
        seed : int
            For the epochs in which the classifier is trained alone.
        run : str
            Name of these epochs.
        curves : dict
            Gets their curve.
        on_step : callable
            From the name, the number of epochs and of images to what is told of each step.
        checkpoint : Checkpoint, optional
        """
        model, y = self._model, self._plan.y
        rows = np.arange(len(y)) if part is None else part
        model.load_state_dict(self._pretrained)
        if self._head is not None:
            assert self._embeddings is not None
            # What the search had to say of convergence, it has said.
            with SolverLog().listen(), threadpool_limits(1):
                fitted = self._head(self._embeddings[rows], y[rows])
            model.set_layers(fold_head(fitted))
        if self._recipe.epochs:
            self._train_alone(rows, seed, run, curves, on_step, checkpoint)

    def _train_alone(
        self,
        rows: Rows,
        seed: int,
        run: str,
        curves: Curves,
        on_step: Callable[[str, int, int], OnStep | None],
        checkpoint: Checkpoint | None,
    ) -> None:
        model, plan = self._model, self._plan
        done = checkpoint.finished(run) if checkpoint else None
        if done is None:
            kept = self._recipe.augment == "none"
            assert not kept or self._embeddings is not None
            feed: Feed = EmbeddingFeed(self._embeddings) if kept else self._feed  # type: ignore[arg-type]
            places = rows if kept else plan.development[rows]
            codes = np.searchsorted(plan.classes, plan.y[rows])
            with model.network_rests():
                curves[run] = train(
                    model,
                    feed,
                    places,
                    codes,
                    dataclasses.replace(self._recipe, seed=seed),
                    on_step=on_step(run, self._recipe.epochs, len(rows)),
                    checkpoint=checkpoint,
                    run=run,
                )
            if checkpoint:
                checkpoint.finish(
                    run, {"curve": curves[run]}, flatten("on-top", model.classifier.state_dict())
                )
            return
        state, tensors = done
        curves[run] = state["curve"]
        learned = {name.removeprefix("on-top/"): tensor for name, tensor in tensors.items()}
        model.classifier.load_state_dict(learned)


def _choose_head(embeddings: NDArray[np.float32], plan: Plan, recipe: Recipe, hidden: Sequence[int]) -> Fit:
    """Choose the parameters of the head; what comes back fits it on rows and labels."""
    if hidden:
        deep = MLPClassifier(tuple(hidden), alpha=MLP_ALPHA, max_iter=500, random_state=recipe.seed)
        pipeline = Pipeline([("scaler", StandardScaler()), ("classifier", deep)])
        return lambda X, y: clone(pipeline).fit(X, y)
    head = find_head("logreg")
    found = tune(
        head,
        embeddings,
        plan.y,
        cv=plan.folds,
        groups=plan.groups,
        seed=recipe.seed,
        balanced=recipe.balanced,
        jobs=-1,
    )
    settings = {"seed": recipe.seed, "balanced": recipe.balanced}
    return lambda X, y: head.fit(found.best_params_, X, y, **settings)
