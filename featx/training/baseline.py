"""From a frozen network to a fine-tuned one: where it starts, choice of the recipe, final training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.records import Pixels, ProgressCallback
from featx.training.augmentation import Augmenter
from featx.training.checkpoint import Checkpoint
from featx.training.classifier import Classifier
from featx.training.feeds import Feed, make_feed
from featx.training.loop import OnStep, train
from featx.training.recipe import Recipe
from featx.training.search import Curves, Trial, choose_recipe, show_progress
from featx.training.start import Starts

if TYPE_CHECKING:
    from featx.protocol import Plan

__all__ = ["Baseline"]


class Baseline:
    """The baseline of a plan: rate and epochs chosen on its first fold, then training on all but test.

    Parameters
    ----------
    model : Classifier
        With the pretrained network.
    pixels : ndarray of uint8, (N, side, side, 3)
    plan : Plan
        Its test rows are not looked at.
    recipe : Recipe
    warm : bool
        Whether the classifier starts as a head fitted on the frozen embeddings of just the images that
        are then trained on.
    head_epochs : int
        Epochs in which the classifier is trained alone before the network is, too.
    checkpoint : Checkpoint, optional
    on_progress : callable, optional

    Attributes
    ----------
    feed : Feed
        Of all images.
    """

    def __init__(
        self,
        model: Classifier,
        pixels: Pixels,
        plan: Plan,
        recipe: Recipe,
        *,
        warm: bool,
        head_epochs: int = 0,
        checkpoint: Checkpoint | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        self.model, self.plan, self.recipe = model, plan, recipe
        self._checkpoint, self._on_progress = checkpoint, on_progress
        self._augment = Augmenter(recipe.augment, model.network.preprocess, recipe.seed)
        self.feed: Feed = make_feed(model, pixels, self._augment, recipe.batch_size)
        self._codes = np.searchsorted(plan.classes, plan.y)
        self._starts = Starts(model, pixels, plan, recipe, self.feed, warm=warm, head_epochs=head_epochs)

    def choose(self, rates: Sequence[float]) -> Trial:
        """Try rates on the tuning images: the source's own, else the first fold.

        Raises
        ------
        TrainingError
            If every rate diverges.
        """
        rows = self.plan.development
        learn, check = self.plan.folds[0]
        alone: Curves = {}
        self._starts.set(
            learn,
            self.recipe.seed,
            run="head, tuning",
            curves=alone,
            on_step=self._show,
            checkpoint=self._checkpoint,
        )
        trial = choose_recipe(
            self.model,
            self.feed,
            (rows[learn], self._codes[learn]),
            (rows[check], self._codes[check]),
            self.recipe,
            rates,
            on_progress=self._on_progress,
            checkpoint=self._checkpoint,
        )
        warnings = trial.warnings
        if self.plan.split.tuning is None:
            tuned = f"learning rate and epochs were chosen on one fold of {len(check)} training images"
            warnings = (tuned, *warnings)
        return dataclasses.replace(trial, warnings=warnings, curves=alone | trial.curves)

    def refit(
        self, trial: Trial, judge: Callable[[], dict[str, Any]], repeats: int = 1
    ) -> list[dict[str, Any]]:
        """Train from the start on all that is not test, once for each repeat.

        The last one has the recipe's own seed, so that the model at the end is that of a single run.

        Parameters
        ----------
        trial : Trial
            Its curves are added to.
        judge : callable
            Gives what is to be known of the model, in plain types.
        repeats : int, default=1

        Returns
        -------
        list of dict
            What ``judge`` gave, with ``seed``; the recipe's own seed comes last.

        Raises
        ------
        TrainingError
            If the loss becomes NaN or infinite.
        """
        judged: list[dict[str, Any]] = []
        for number in reversed(range(repeats)):
            seed = self.recipe.seed + number
            suffix = f", seed {seed}" if repeats > 1 else ""
            run = f"fine-tune{suffix}"
            done = self._checkpoint.finished(run) if self._checkpoint else None
            if done is not None:
                trial.curves[run] = done[0]["curve"]
                judged.append(done[0]["judged"])
                continue
            self._augment.seed = seed
            self._starts.set(
                None,
                seed,
                run=f"head{suffix}",
                curves=trial.curves,
                on_step=self._show,
                checkpoint=self._checkpoint,
            )
            trial.curves[run] = train(
                self.model,
                self.feed,
                self.plan.development,
                self._codes,
                dataclasses.replace(trial.recipe, seed=seed),
                stop_after=trial.epochs,
                on_step=self._show(run, trial.epochs, len(self._codes)),
                checkpoint=self._checkpoint,
                run=run,
            )
            judged.append(judge() | {"seed": seed})
            # The last one's network is not saved yet: until then it is not finished.
            if self._checkpoint and number:
                self._checkpoint.finish(run, {"curve": trial.curves[run], "judged": judged[-1]})
        return judged

    def _show(self, run: str, epochs: int, n_rows: int) -> OnStep | None:
        return show_progress(run, epochs, n_rows, self._on_progress)
