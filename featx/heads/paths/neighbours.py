"""Every number of neighbours from one ranking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from featx.heads.paths.fold import FoldRows
from featx.heads.warning_log import FoldLog

__all__ = ["solve_neighbours_path"]


def solve_neighbours_path(
    classifier: Any,
    params: Sequence[Mapping[str, Any]],
    fold: FoldRows,
    log: FoldLog,  # noqa: ARG001
) -> Iterator[NDArray[np.float64]]:
    """Answer as :class:`sklearn.neighbors.KNeighborsClassifier` with uniform weights; a :data:`PathSolver`.

    The nearest of the largest ``n_neighbors`` hold those of every smaller one.
    """
    most = max(point["n_neighbors"] for point in params)
    index = NearestNeighbors(n_neighbors=most, metric=classifier.metric, algorithm=classifier.algorithm)
    # Nearest first, so that the first columns are the neighbours of a smaller number.
    nearest = index.fit(fold.X).kneighbors(fold.X_valid, return_distance=False)
    classes = fold.codes[nearest]
    rows = np.arange(len(classes))[:, None]
    for point in params:
        number = point["n_neighbors"]
        votes = np.zeros((len(classes), fold.n_classes))
        np.add.at(votes, (rows, classes[:, :number]), 1.0)
        yield votes / number
