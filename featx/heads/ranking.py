"""Which grid point is the best, and whether better ones may lie beyond."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.heads.fitting import PointResult
from featx.heads.head import split_params

__all__ = ["Ranking"]

_TIE = 1e-9
"""Mean scores that differ by less are equal: they are means of the same fractions, rounded differently."""

_LOSS_TIE = 1e-3
"""Share of a log loss by which one must be lower to be worth a wider grid."""


class Ranking:
    """Grid points with their scores, most regularised first.

    Parameters
    ----------
    points : sequence of mapping
        Parameters.
    results : sequence of PointResult
    by : {"accuracy", "balanced_accuracy"}
        What is chosen by.
    """

    def __init__(self, points: Sequence[Mapping[str, Any]], results: Sequence[PointResult], by: str) -> None:
        self.points = list(points)
        self.results = list(results)
        self._by = by

    @property
    def scores(self) -> NDArray[np.float64]:
        """Scores of shape (points, folds)."""
        return np.array(
            [one.accuracy if self._by == "accuracy" else one.balanced for one in self.results], np.float64
        )

    @property
    def losses(self) -> NDArray[np.float64]:
        """Mean log losses of shape (points,)."""
        return np.array([np.mean(one.losses) for one in self.results])

    @property
    def best(self) -> int:
        """The highest mean score; of equals the lowest mean log loss; of equals the first."""
        means = self.scores.mean(axis=1)
        tied = np.flatnonzero(means >= means.max() - _TIE)
        return int(tied[self.losses[tied].argmin()])

    def edge(self) -> tuple[int, int, str] | None:
        """On which edge of its grid the best point lies, if it beats its neighbour there.

        The grid is that of the points which share everything but one parameter with it.

        Returns
        -------
        (int, int, str) or None
            Index of the best point and of its neighbour, and the parameter in which they differ.
        """
        best = self.best
        free = self._free()
        if free is None:
            return None
        line = [
            index
            for index, point in enumerate(self.points)
            if all(point[name] == value for name, value in self.points[best].items() if name != free)
        ]
        if len(line) < 2 or best not in (line[0], line[-1]):
            return None
        neighbour = line[1] if best == line[0] else line[-2]
        means, losses = self.scores.mean(axis=1), self.losses
        beaten = means[best] > means[neighbour] + _TIE or losses[best] < losses[neighbour] * (1 - _LOSS_TIE)
        return (best, neighbour, free) if beaten else None

    def insert(self, index: int, point: Mapping[str, Any], result: PointResult) -> None:
        """Put a point before ``index``."""
        self.points.insert(index, point)
        self.results.insert(index, result)

    def _free(self) -> str | None:
        """Return the one parameter of the classifier that varies; None if there are none or several."""
        classifiers = [split_params(point)[1] for point in self.points]
        varying = [name for name in classifiers[0] if len({repr(point[name]) for point in classifiers}) > 1]
        return varying[0] if len(varying) == 1 else None
