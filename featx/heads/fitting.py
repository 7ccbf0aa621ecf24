"""Fit a grid of parameters on every fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from featx.heads.calibration import response
from featx.heads.folds import Folds, Indices
from featx.heads.warning_log import SolverLog

__all__ = ["FoldResult", "describe", "fit_grid"]


@dataclass(frozen=True, slots=True)
class FoldResult:
    """Accuracy, log loss (0 without probabilities) and, if kept, responses by grid point."""

    scores: list[float]
    losses: list[float]
    responses: list[NDArray[np.float64]]


def fit_grid(
    pipeline: Pipeline,
    params: Sequence[dict[str, Any]],
    X: NDArray[np.float32],
    codes: NDArray[np.intp],
    folds: Folds,
    jobs: int,
    keep: bool,
    log: SolverLog,
) -> list[FoldResult]:
    """Fit the grid on every fold, in threads; parts of the grid are tasks where there are more threads."""
    n_parts = min(len(params), -(-jobs // len(folds)))
    parts = [params[i::n_parts] for i in range(n_parts)]
    tasks = [(fold, part) for fold in folds for part in parts]
    # Threads, not processes: liblinear, libsvm and BLAS release the GIL, X is shared, nothing starts up.
    done: list[FoldResult] = joblib.Parallel(n_jobs=jobs, backend="threading")(
        joblib.delayed(_fit_fold)(pipeline, part, X, codes, fold, keep, log) for fold, part in tasks
    )
    results = []
    for i in range(len(folds)):
        pieces = done[i * n_parts : (i + 1) * n_parts]
        # Grid point j is number j // n_parts of part j % n_parts.
        order = [(j % n_parts, j // n_parts) for j in range(len(params))]
        results.append(
            FoldResult(
                [pieces[part].scores[at] for part, at in order],
                [pieces[part].losses[at] for part, at in order],
                [pieces[part].responses[at] for part, at in order] if keep else [],
            )
        )
    return results


def _fit_fold(
    pipeline: Pipeline,
    params: Sequence[dict[str, Any]],
    X: NDArray[np.float32],
    codes: NDArray[np.intp],
    fold: tuple[Indices, Indices],
    keep: bool,
    log: SolverLog,
) -> FoldResult:
    """Scale once, then fit every grid point: what the pipeline does, without scaling each time."""
    train, valid = fold
    scaling = clone(pipeline[:-1])
    fitted_on = scaling.fit_transform(X[train])
    scored_on = scaling.transform(X[valid])
    result = FoldResult([], [], [])
    for point in params:
        classifier = clone(pipeline[-1]).set_params(**point)
        with log.fit(describe(point)):
            classifier.fit(fitted_on, codes[train])
        values = response(classifier, scored_on)
        result.scores.append(float(np.mean(values.argmax(axis=1) == codes[valid])))
        result.losses.append(_log_loss(values, codes[valid]) if hasattr(classifier, "predict_proba") else 0.0)
        if keep:
            result.responses.append(values)
    return result


def _log_loss(p: NDArray[np.float64], codes: NDArray[np.intp]) -> float:
    return float(-np.log(np.maximum(p[np.arange(len(p)), codes], np.finfo(np.float64).eps)).mean())


def describe(point: Mapping[str, Any]) -> str:
    """Write a grid point for people: ``C=0.01``."""
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in point.items()
    )
