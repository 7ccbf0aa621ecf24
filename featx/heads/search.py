"""Choose a head's regularisation by cross-validation, then fit it on all rows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from featx.errors import DatasetError, UnknownNameError
from featx.heads.calibration import fit_with_probabilities, probabilities
from featx.heads.catalog import Head, find_head
from featx.heads.checks import check_rows
from featx.heads.fitting import describe, fit_grid
from featx.heads.folds import Folds, Indices, is_partition, make_folds, smallest_class
from featx.heads.size import count_parameters
from featx.heads.warning_log import SolverLog

__all__ = ["Tuned", "tune"]

_KEPT_BYTES = 256 * 2**20
"""Up to here the responses of all grid points are kept; above, the chosen one's folds are fitted again."""

_TIE = 1e-9
"""Mean scores that differ by less are equal: they are means of the same fractions, rounded differently."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What :func:`tune` found; learned attributes end in an underscore, as in scikit-learn.

    Parameters
    ----------
    head : str
        Name of the head.
    best_estimator_ : Pipeline or CalibratedClassifierCV
        Plain scikit-learn with ``predict_proba``, fitted on all rows.
    best_params_ : dict
        The chosen parameters of the classifier, ``{"C": 0.01}``.
    best_index_ : int
        Where they stand in ``params_``.
    params_ : tuple of dict
        All parameters tried, in the order of the grid.
    cv_scores_ : ndarray of shape (len(params_), folds), float64
        Accuracy on the validation part of each fold.
    mean_score_ : float
        Mean of the chosen parameters' fold scores. It is the best of several, so a little too good.
    sd_ : float or None
        Their standard deviation (n - 1); None with one fold.
    classes_ : ndarray of shape (classes,)
        Labels, in the order of the probabilities' columns.
    oof_ : ndarray of shape (n, classes), float64
        Probabilities for each row from the fold that was not fitted on it (the mean where there are
        several), with the chosen parameters; NaN for rows that no fold validates. Where the
        classifier is calibrated, its one temperature has seen these rows.
    folds_ : tuple of (train, valid) pairs of index arrays
        The folds.
    seconds_ : dict
        Wall time of ``search`` and of ``refit`` (calibration included).
    n_parameters_ : int
        Numbers that the classifier learned: coefficients and intercepts of a linear one; support
        vectors × dimensions, their weights and intercepts with a kernel; the stored rows of
        k-nearest neighbours; weights and biases of a network. Not the scaling, nor the temperature.
    warnings_ : tuple of str
        What the reader must know: fits that did not converge, a choice on the edge of the grid.
    """

    head: str
    best_estimator_: Any
    best_params_: dict[str, Any]
    best_index_: int
    params_: tuple[dict[str, Any], ...]
    cv_scores_: NDArray[np.float64]
    mean_score_: float
    sd_: float | None
    classes_: NDArray[Any]
    oof_: NDArray[np.float64]
    folds_: tuple[tuple[Indices, Indices], ...]
    seconds_: dict[str, float]
    n_parameters_: int
    warnings_: tuple[str, ...]


def tune(
    head: str | Head,
    X: ArrayLike,
    y: ArrayLike,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    cv: int | Iterable[tuple[ArrayLike, ArrayLike]] = 5,
    groups: ArrayLike | None = None,
    seed: int = 0,
    balanced: bool = False,
    jobs: int | None = None,
) -> Tuned:
    """Try every parameter of the grid on every fold, choose, and fit on all rows.

    The parameters with the highest mean accuracy over the folds are chosen. Among equals, which
    small sets have many of: those with the lowest mean log loss, where the classifier has
    probabilities of its own; else the earliest in the grid, and the grids of the catalogue begin
    with the most regularised. The scaling is learned inside each fold. The result does not depend
    on ``jobs``.

    Parameters
    ----------
    head : str or Head
        A name of :func:`~featx.heads.list_heads`, or a head of your own.
    X : array-like of shape (n, d)
        Embeddings; computed with as float32.
    y : array-like of shape (n,)
        Labels.
    grid : mapping of str to sequence, optional
        Parameters of the classifier and their values, most regularised first; default: the head's.
    cv : int or iterable of (train, valid) index pairs, default=5
        Number of stratified folds, or the folds; one pair is a tuning split.
    groups : array-like of shape (n,), optional
        Rows of one group stay on one side of every fold.
    seed : int, default=0
        For the folds and for what the solver draws.
    balanced : bool, default=False
        Weigh every class by the inverse of its frequency. The choice is still by accuracy.
    jobs : int, optional
        Threads; -1 for all cores, default 1.

    Returns
    -------
    Tuned

    Raises
    ------
    UnknownNameError
        If there is no such head, or it has no such parameter.
    DatasetError
        If the rows or labels do not allow the fit; the text says what to do.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["ant", "bee"], 20)
    >>> X = rng.normal(size=(40, 8)) + 3.0 * (y == "bee")[:, None]
    >>> tuned = tune("logreg", X, y, grid={"C": [0.01, 1.0]})
    >>> tuned.best_params_, tuned.cv_scores_.shape
    ({'C': 1.0}, (2, 5))
    >>> tuned.best_estimator_.predict(X[:1])
    array(['ant'], dtype='<U3')
    """
    started = time.perf_counter()
    head = find_head(head) if isinstance(head, str) else head
    rows, labels = check_rows(X, y)
    classes, codes = np.unique(labels, return_inverse=True)
    folds = make_folds(labels, cv, groups=groups, seed=seed)
    pipeline = head.build(seed, balanced)
    params = _expand(head, pipeline, grid, min(len(train) for train, _ in folds))
    n_jobs = joblib.effective_n_jobs(jobs) if jobs is not None else 1
    log = SolverLog()
    with log.listen():
        # One BLAS thread in every fit: sums are then taken in one order, whatever ``jobs`` is.
        with threadpool_limits(1):
            n_valid = sum(len(valid) for _, valid in folds)
            keep = len(params) * n_valid * len(classes) * 8 <= _KEPT_BYTES
            results = fit_grid(pipeline, params, rows, codes, folds, n_jobs, keep, log)
            scores = np.array([result.scores for result in results]).T
            means = scores.mean(axis=1)
            losses = np.mean([result.losses for result in results], axis=0)
            tied = np.flatnonzero(means >= means.max() - _TIE)
            best = int(tied[losses[tied].argmin()])
            if keep:
                chosen = [result.responses[best] for result in results]
            else:
                again = fit_grid(pipeline, [params[best]], rows, codes, folds, n_jobs, True, log)
                chosen = [result.responses[0] for result in again]
        searched = time.perf_counter()
        final = _with_params(pipeline, params[best])
        partition = _calibration_folds(final, labels, folds, groups, seed)
        with threadpool_limits(1):
            estimator = fit_with_probabilities(final, rows, labels, partition, n_jobs)
    refitted = time.perf_counter()
    return Tuned(
        head=head.name,
        best_estimator_=estimator,
        best_params_=dict(params[best]),
        best_index_=best,
        params_=tuple(params),
        cv_scores_=scores,
        mean_score_=float(means[best]),
        sd_=float(scores[best].std(ddof=1)) if len(folds) > 1 else None,
        classes_=classes,
        oof_=_out_of_fold([probabilities(estimator, part) for part in chosen], folds, len(rows)),
        folds_=tuple(folds),
        seconds_={"search": searched - started, "refit": refitted - searched},
        n_parameters_=count_parameters(estimator),
        warnings_=(*_convergence(log, len(folds)), *_edge(params, means, best)),
    )


def _expand(
    head: Head, pipeline: Pipeline, grid: Mapping[str, Sequence[Any]] | None, n_train: int
) -> list[dict[str, Any]]:
    known = pipeline[-1].get_params()
    for name in grid or ():
        if name not in known:
            raise UnknownNameError(f"parameter of head {head.name!r}", name, known)
    params = [dict(point) for point in ParameterGrid(dict(head.grid if grid is None else grid))]
    possible = [point for point in params if head.possible(point, n_train)]
    if not possible:
        raise DatasetError(
            f"None of the {len(params)} grid points of head {head.name!r} can be fitted on {n_train} images: "
            f"give "
            "more images, or another grid."
        )
    return possible


def _with_params(pipeline: Pipeline, params: Mapping[str, Any]) -> Pipeline:
    copy = clone(pipeline)
    copy[-1].set_params(**params)
    return copy


def _calibration_folds(
    pipeline: Pipeline, labels: NDArray[Any], folds: Folds, groups: ArrayLike | None, seed: int
) -> Folds:
    """Take the search's folds if they are a partition, else as many as the smallest class allows."""
    if hasattr(pipeline, "predict_proba") or is_partition(folds, len(labels)):
        return folds
    k = min(5, smallest_class(labels, None if groups is None else np.asarray(groups)))
    if k < 2:
        name = min(np.unique(labels), key=lambda label: int((labels == label).sum()))
        raise DatasetError(
            f"Class {str(name)!r} has one image or group, too few to give the head probabilities: add images "
            f"of it, "
            "leave the class out, or take the head 'logreg'."
        )
    return make_folds(labels, k, groups=groups, seed=seed)


def _out_of_fold(parts: list[NDArray[np.float64]], folds: Folds, n: int) -> NDArray[np.float64]:
    total = np.zeros((n, parts[0].shape[1]))
    counts = np.zeros((n, 1))
    for part, (_, valid) in zip(parts, folds, strict=True):
        total[valid] += part
        counts[valid] += 1
    return np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)


def _convergence(log: SolverLog, n_folds: int) -> list[str]:
    counts = dict(sorted(log.counts.items()))
    refits = counts.pop("refit", 0)
    lines = [f"no convergence at {at} in {count} of {n_folds} folds" for at, count in counts.items()]
    return [*lines, "the final fit, or its calibration, did not converge"] if refits else lines


def _edge(params: Sequence[Mapping[str, Any]], means: NDArray[np.float64], best: int) -> list[str]:
    """Say that the choice lies on the edge of a grid of one parameter and beats its neighbour there."""
    if len(params) < 3 or len(params[0]) != 1 or best not in (0, len(params) - 1):
        return []
    neighbour = 1 if best == 0 else len(params) - 2
    if means[best] <= means[neighbour] + _TIE:
        return []
    return [f"{describe(params[best])} lies on the edge of the grid; a wider one may do better"]
