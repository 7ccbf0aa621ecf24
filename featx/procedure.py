"""Nested cross-validation of a whole run, the choice of the row included, and what its scores are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featx.nesting import Nested
from featx.outcomes import ResultRow, Score
from featx.protocol import Plan

__all__ = ["Procedure", "score_procedure"]


@dataclass(frozen=True, slots=True)
class Procedure:
    """Tuning, fitting and choosing among the rows, all of it inside each outer fold.

    Parameters
    ----------
    accuracy : Score
        Of predictions by the row that each outer fold chose for itself.
    chosen : tuple of int
        That row for each outer fold, by its inner score; the first of equals.
    """

    accuracy: Score
    chosen: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain types, for ``dataset.splits.nested`` of ``results.json``."""
        return {"accuracy": dataclasses.asdict(self.accuracy), "chosen": list(self.chosen)}

    def notes(self, rows: Sequence[ResultRow], best: int, plan: Plan) -> list[str]:
        """Say what the scores are estimates of."""
        n_outer, notes = len(plan.outer), []
        if plan.split.is_whole:
            notes.append(
                "the test is nested cross-validation: each image is predicted once, by a head that was tuned "
                f"and fitted without its outer fold, on about {1 - 1 / n_outer:.0%} of the images; the saved "
                "model has learned from all of them, and is likely a little better"
            )
        else:
            score = rows[best].cv["nested"]
            notes.append(
                f"nested cross-validation inside the training part, {n_outer} outer folds: the best row has "
                f"accuracy {score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
            )
        if len(rows) > 1:
            score = self.accuracy
            notes.append(
                f"the nested score of the best row counts its tuning, not the choice among {len(rows)} rows: "
                "with the row too chosen anew in each outer fold, by inner scores, the accuracy is "
                f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
            )
        notes.append(
            "intervals of nested scores take the images for independent, though the heads of the outer folds "
            "share most of what they learned from: they are a little too narrow (Bengio and Grandvalet 2004)"
        )
        return notes


def score_procedure(nested: Sequence[Nested | None], plan: Plan, seed: int) -> Procedure | None:
    """Choose the row anew in each outer fold, and score what the chosen ones predicted.

    Parameters
    ----------
    nested : sequence of Nested or None
        Of each row.
    plan : Plan
    seed : int
        Of the bootstrap.

    Returns
    -------
    Procedure or None
        None where the plan has no outer folds.

    Source
    ------
    Varma and Simon 2006, Bias in error estimation when using cross-validation for model selection,
    BMC Bioinformatics 7:91; Cawley and Talbot 2010, On over-fitting in model selection, JMLR 11.
    """
    found = [one for one in nested if one is not None]
    if not found:
        return None
    chosen = np.array([one.inner_means for one in found]).argmax(axis=0)
    probabilities = np.empty_like(found[0].probabilities)
    for index, fold in zip(chosen, plan.outer, strict=True):
        probabilities[fold.valid] = found[index].probabilities[fold.valid]
    return Procedure(plan.nested_accuracy(probabilities, seed), tuple(int(index) for index in chosen))
