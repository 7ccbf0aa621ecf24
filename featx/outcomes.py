"""The small frozen records of what was measured: scores, comparisons and the rows of a leaderboard.

Nothing here computes; every room may import this module, and it imports none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["ClassScores", "Comparison", "ResultRow", "RowKind", "Score"]

RowKind = Literal["head", "finetune", "reference"]


@dataclass(frozen=True, slots=True)
class Score:
    """A number with its 95 % interval.

    ``reliable`` is False where simulations show that the interval covers the truth less or more often
    than 92 to 98 % of the time: see :mod:`featx.evaluation.reliability`.
    """

    value: float
    low: float
    high: float
    reliable: bool = True


@dataclass(frozen=True, slots=True)
class ClassScores:
    """How one class fared on the test images.

    Parameters
    ----------
    name : str
        The class.
    support, right, predicted : int
        Test images of it, those of them that were found, and all that were called so.
    precision, recall, f1 : Score or None
        Share of what was called so and is, share of its images that were found, and the harmonic mean
        of both; None where there is nothing to divide by.
    """

    name: str
    support: int
    right: int
    predicted: int
    precision: Score | None
    recall: Score | None
    f1: Score | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired comparison of two rows on the same test images (``a`` minus ``b``, accuracy).

    ``p_value`` is that of this one test (McNemar's, or sign flips of groups), ``p_adjusted`` the same
    after Holm's correction for the number of rows compared, ``p_bootstrap`` that of the paired
    bootstrap; the last two are None in results of earlier versions.
    """

    a: int
    b: int
    difference: float
    low: float
    high: float
    p_value: float
    p_bootstrap: float | None = None
    p_adjusted: float | None = None


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One line of the leaderboard: a backbone, a layer and a head (or the fine-tuned baseline).

    ``weights`` says in words where the network's weights come from; ``cv`` holds ``mean``, ``sd`` and
    ``folds``, the scores of the chosen parameters by ``metric`` (accuracy where it is not there), and
    ``nested``, the accuracy of nested
    cross-validation inside the training part, where it was asked for; ``test`` the metrics by name,
    empty without a test split; ``seconds`` the wall time of ``extract``, ``fit``, ``predict`` and
    ``nested``, and of ``load`` where a baseline loaded network and images;
    ``warnings`` what the reader of the row must know (no convergence, grid edge); ``label``
    names the network where its own name is that of another store's too; ``per_class`` and ``confusion``
    (truth in rows, prediction in columns) tell of the test images class by class, empty without any, and
    the second also where there are more than 100 classes; ``repeats`` holds what the same protocol gave
    with several seeds: ``seeds``, ``cv`` (means), ``test`` (accuracies) with their ``mean`` and ``sd``, and
    how often the row ``won``; ``n_parameters`` counts those that were not trained as well, and
    ``energy_joules`` is what the machine's counters told of the training, None where they tell nothing.
    """

    kind: RowKind
    backbone: str
    weights: str
    layer: str
    head: str
    params: Mapping[str, Any]
    cv: Mapping[str, Any]
    test: Mapping[str, Score]
    seconds: Mapping[str, float]
    peak_memory_bytes: int
    n_parameters_trained: int
    dim: int
    store: str
    warnings: tuple[str, ...] = ()
    label: str = ""
    per_class: tuple[ClassScores, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    repeats: Mapping[str, Any] | None = None
    n_parameters: int | None = None
    energy_joules: float | None = None
