"""Fit a grid of parameters on every fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from featx.heads.folds import Folds, Indices
from featx.heads.head import Head, fit_steps, split_params
from featx.heads.paths import FoldRows
from featx.heads.warning_log import FoldLog, SolverLog

__all__ = ["PointResult", "fit_grid"]

Params = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PointResult:
    """What one grid point scored; each sequence runs over the folds.

    Parameters
    ----------
    accuracy, balanced : tuple of float
        Accuracy, and its mean over the classes that the fold validates.
    losses : tuple of float
        Mean log loss in nats; 0 where the classifier has no probabilities of its own.
    responses : tuple of ndarray, (n_valid, classes)
        Empty if they were not kept.
    """

    accuracy: tuple[float, ...]
    balanced: tuple[float, ...]
    losses: tuple[float, ...]
    responses: tuple[NDArray[np.float64], ...]


def fit_grid(
    head: Head,
    settings: Mapping[str, Any],
    params: Sequence[Params],
    X: NDArray[np.float32],
    codes: NDArray[np.intp],
    folds: Folds,
    *,
    jobs: int,
    keep: bool,
    log: SolverLog,
) -> list[PointResult]:
    """Fit every grid point on every fold, in threads.

    Parameters
    ----------
    head : Head
    settings : mapping
        Further arguments of :meth:`Head.build`.
    params : sequence of mapping
        Grid points.
    X, codes : ndarray of shape (n, d) and (n,)
        Rows, and the numbers of their classes.
    folds : list of (train, valid) pairs
    jobs : int
        Threads; parts of the grid are tasks where there are more of them than folds, and no path.
    keep : bool
        Whether to keep the responses.
    log : SolverLog
        Takes what the solvers warn of.
    """
    # A path is one task: where it begins would change its last digits, and ``jobs`` must not.
    n_parts = 1 if head.path is not None else min(len(params), -(-jobs // len(folds)))
    parts = [params[i::n_parts] for i in range(n_parts)]
    tasks = [(number, fold, part) for number, fold in enumerate(folds) for part in parts]
    # Threads, not processes: libsvm and BLAS release the GIL, X is shared, nothing starts up.
    done: list[list[_Scored]] = joblib.Parallel(n_jobs=jobs, backend="threading")(
        joblib.delayed(_fit_fold)(head, settings, part, X, codes, fold, keep, log.of_fold(number))
        for number, fold, part in tasks
    )
    results = []
    for j in range(len(params)):
        # Grid point j is number j // n_parts of part j % n_parts.
        scored = [done[i * n_parts + j % n_parts][j // n_parts] for i in range(len(folds))]
        results.append(
            PointResult(
                tuple(one.accuracy for one in scored),
                tuple(one.balanced for one in scored),
                tuple(one.loss for one in scored),
                tuple(one.response for one in scored if one.response is not None),
            )
        )
    return results


@dataclass(frozen=True, slots=True)
class _Scored:
    accuracy: float
    balanced: float
    loss: float
    response: NDArray[np.float64] | None


def _fit_fold(
    head: Head,
    settings: Mapping[str, Any],
    params: Sequence[Params],
    X: NDArray[np.float32],
    codes: NDArray[np.intp],
    fold: tuple[Indices, Indices],
    keep: bool,
    log: FoldLog,
) -> list[_Scored]:
    train, valid = fold
    truth = codes[valid]
    scored: dict[int, _Scored] = {}
    for steps, indices in _by_steps(params).items():
        pipeline = head.build(**settings, **dict(steps))
        rows = FoldRows(
            fit_steps(pipeline, X[train]),
            codes[train],
            np.ascontiguousarray(pipeline[:-1].transform(X[valid]), dtype=np.float32),
        )
        points = [split_params(params[index])[1] for index in indices]
        answers = head.solver_for(points)(pipeline[-1], points, rows, log.after(dict(steps)))
        for index, values in zip(indices, answers, strict=True):
            said = values.argmax(axis=1)
            scored[index] = _Scored(
                accuracy=float(np.mean(said == truth)),
                balanced=_balanced_accuracy(truth, said),
                loss=_log_loss(values, truth) if hasattr(pipeline[-1], "predict_proba") else 0.0,
                response=values if keep else None,
            )
    return [scored[index] for index in range(len(params))]


def _by_steps(params: Sequence[Params]) -> dict[tuple[tuple[str, Any], ...], list[int]]:
    """Grid points by what comes before the classifier, which is fitted once for all of them."""
    found: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for index, point in enumerate(params):
        found.setdefault(tuple(split_params(point)[0].items()), []).append(index)
    return found


def _balanced_accuracy(truth: Indices, said: Indices) -> float:
    """Mean recall of the classes that occur."""
    counts = np.bincount(truth)
    right = np.bincount(truth[said == truth], minlength=len(counts))
    return float((right[counts > 0] / counts[counts > 0]).mean())


def _log_loss(p: NDArray[np.float64], codes: NDArray[np.intp]) -> float:
    return float(-np.log(np.maximum(p[np.arange(len(p)), codes], np.finfo(np.float64).eps)).mean())
