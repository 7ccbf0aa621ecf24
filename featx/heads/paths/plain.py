"""The path of a classifier that has no short cut: one fit after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from featx.heads.calibration import response
from featx.heads.paths.fold import FoldRows
from featx.heads.warning_log import FoldLog

__all__ = ["solve_plainly"]


def solve_plainly(
    classifier: Any, params: Sequence[Mapping[str, Any]], fold: FoldRows, log: FoldLog
) -> Iterator[NDArray[np.float64]]:
    """Fit a clone of the classifier with each of the parameters; a :data:`PathSolver`."""
    for point in params:
        fitted = clone(classifier).set_params(**point)
        with log.fit(point):
            fitted.fit(fold.X, fold.codes)
        yield response(fitted, fold.X_valid)
