"""The whole protocol with several seeds: how much of a result is the luck of one split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from featx.fitted import FittedRow, best_of
from featx.outcomes import ResultRow
from featx.protocol import Plan

__all__ = ["describe_repeats", "repeat"]


def repeat(
    first: Sequence[FittedRow], again: Callable[[int], Sequence[FittedRow]], seed: int, repeats: int
) -> list[dict[str, Any] | None]:
    """Run the protocol with the next seeds, and say for each row what all of them gave.

    Parameters
    ----------
    first : sequence of FittedRow
        Of the first seed.
    again : callable
        From the number of the repeat, 1 and up, to the rows of that seed, in the same order.
    seed : int
        The first seed; the others follow it.
    repeats : int
        How many seeds in all; with 1 there is nothing to say.

    Returns
    -------
    list of dict or None
        For each row ``seeds``, ``cv`` (the mean tuning score of each seed), ``test`` (the test accuracy
        of each), their ``mean`` and ``sd`` (n - 1), ``won`` (in how many seeds the row had the best
        tuning score) and, with nested cross-validation inside the training part, ``nested``.
    """
    if repeats < 2:
        return [None] * len(first)
    # Rows only: what they predicted, and their estimators, are kept for the first seed alone.
    runs = [[one.row for one in first]]
    runs += [[one.row for one in again(number)] for number in range(1, repeats)]
    winners = [best_of(rows) for rows in runs]
    return [
        _describe([rows[index] for rows in runs], seed, sum(winner == index for winner in winners))
        for index in range(len(first))
    ]


def _describe(rows: Sequence[ResultRow], seed: int, won: int) -> dict[str, Any]:
    test = [row.test["accuracy"].value for row in rows]
    described = {
        "seeds": [seed + number for number in range(len(rows))],
        "cv": [row.cv["mean"] for row in rows],
        "test": test,
        "mean": float(np.mean(test)),
        "sd": float(np.std(test, ddof=1)),
        "won": won,
    }
    if "nested" in rows[0].cv:
        described["nested"] = [row.cv["nested"]["value"] for row in rows]
    return described


def describe_repeats(best: ResultRow, plan: Plan) -> list[str]:
    """Say what the repeats showed of the winner, and what their spread is of.

    Returns
    -------
    list of str
        Empty if nothing was repeated.
    """
    found = best.repeats
    if not found:
        return []
    seeds = found["seeds"]
    if plan.split.is_whole:
        varied = "the spread is of the folds and of the solver's draws, on the same images"
    elif "hold-out" in plan.split.origin:
        varied = (
            "each seed holds out other images: the spread is of the split, the folds and the solver's draws"
        )
    else:
        varied = (
            "the test images are always the same: the spread is of the folds and of the solver's draws only, "
            "and says nothing of other images"
        )
    return [
        f"over {len(seeds)} seeds ({seeds[0]} to {seeds[-1]}) the best row has test accuracy "
        f"{found['mean']:.3f} ± {found['sd']:.3f} (mean ± sd) and was the best by its tuning score "
        f"{found['won']} of {len(seeds)} times; {varied}"
    ]
