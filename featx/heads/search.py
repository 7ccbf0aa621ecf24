"""Choose a head's regularisation by cross-validation, then fit it on all rows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import ParameterGrid
from threadpoolctl import threadpool_limits

from featx.errors import DatasetError, UnknownNameError
from featx.heads.calibration import calibrate, probabilities
from featx.heads.catalog import find_head
from featx.heads.checks import check_rows
from featx.heads.describing import describe
from featx.heads.fitting import PointResult, fit_grid
from featx.heads.folds import Folds, Indices, make_folds
from featx.heads.head import STEP_PARAMETERS, Head
from featx.heads.ranking import Ranking
from featx.heads.size import count_parameters, threads_for
from featx.heads.warning_log import SolverLog
from featx.heads.widening import widen

__all__ = ["Scoring", "Tuned", "tune"]

Scoring = Literal["accuracy", "balanced_accuracy"]

_KEPT_BYTES = 256 * 2**20
"""Up to here the responses of all grid points are kept; above, the chosen one's folds are fitted again."""


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
        All parameters tried, in the order of the grid; those by which it was widened at its ends.
    scoring_ : {"accuracy", "balanced_accuracy"}
        What was chosen by.
    cv_scores_ : ndarray of shape (len(params_), folds), float64
        ``scoring_`` on the validation part of each fold.
    mean_score_ : float
        Mean of the chosen parameters' fold scores. It is the best of several, so a little too good.
    sd_ : float or None
        Their standard deviation (n - 1); None with one fold.
    accuracy_ : ndarray of shape (folds,), float64
        Accuracy of the chosen parameters, whatever they were chosen by.
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
        What the reader must know: fits that did not converge, a grid that was widened, a choice on the
        edge of it, an approximation.
    """

    head: str
    best_estimator_: Any
    best_params_: dict[str, Any]
    best_index_: int
    params_: tuple[dict[str, Any], ...]
    scoring_: Scoring
    cv_scores_: NDArray[np.float64]
    mean_score_: float
    sd_: float | None
    accuracy_: NDArray[np.float64]
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
    scoring: Scoring | None = None,
    jobs: int | None = None,
) -> Tuned:
    """Try every parameter of the grid on every fold, choose, and fit on all rows.

    The parameters with the highest mean score over the folds are chosen. Among equals, which small
    sets have many of: those with the lowest mean log loss, where the classifier has probabilities of
    its own; else the earliest in the grid, and the grids of the catalogue begin with the most
    regularised. Where the choice lies on the edge of the head's own grid, the grid is widened. The
    scaling is learned inside each fold. The result does not depend on ``jobs``.

    The search takes short cuts (:mod:`featx.heads.paths`) that answer as scikit-learn's own fits do; the
    chosen head is fitted on all rows as a plain scikit-learn object.

    Parameters
    ----------
    head : str or Head
        A name of :func:`~featx.heads.list_heads`, or a head of your own.
    X : array-like of shape (n, d)
        Embeddings; computed with as float32.
    y : array-like of shape (n,)
        Labels.
    grid : mapping of str to sequence, optional
        Parameters of the classifier and their values, most regularised first; default: the head's. Two
        more names, which alone are added to the head's own grid: ``l2`` (False, True: divide each row
        by its length) and ``pca`` (None, or a number of components; see :meth:`Head.build`).
    cv : int or iterable of (train, valid) index pairs, default=5
        Number of stratified folds, or the folds; one pair is a tuning split.
    groups : array-like of shape (n,), optional
        Rows of one group stay on one side of every fold.
    seed : int, default=0
        For the folds and for what the solver draws.
    balanced : bool, default=False
        Weigh every class by the inverse of its frequency.
    scoring : {"accuracy", "balanced_accuracy"}, optional
        What is chosen by; default: balanced accuracy if ``balanced``, else accuracy.
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
    head = head.of_rows(len(rows), len(classes))
    settings = {"seed": seed, "balanced": balanced}
    n_train = min(len(train) for train, _ in folds)
    points = _expand(head, grid, n_train, rows.shape[1], settings)
    by = scoring or ("balanced_accuracy" if balanced else "accuracy")
    if by not in get_args(Scoring):
        raise UnknownNameError("scoring", by, get_args(Scoring))
    n_jobs = threads_for(joblib.effective_n_jobs(jobs) if jobs is not None else 1, rows.nbytes)
    log = SolverLog()

    def fit_points(points: Sequence[Mapping[str, Any]], keep: bool) -> list[PointResult]:
        return fit_grid(head, settings, points, rows, codes, folds, jobs=n_jobs, keep=keep, log=log)

    # One BLAS thread in every fit: sums are then taken in one order, whatever ``jobs`` is.
    with log.listen(), threadpool_limits(1):
        n_valid = sum(len(valid) for _, valid in folds)
        keep = len(points) * n_valid * len(classes) * 8 <= _KEPT_BYTES
        ranking = Ranking(points, fit_points(points, keep), by)
        widened: tuple[str, ...] = ()
        if grid is None or set(grid) <= set(STEP_PARAMETERS):
            widened = widen(head, ranking, n_train, lambda more: fit_points(more, keep))
        chosen = ranking.results[ranking.best]
        params = dict(ranking.points[ranking.best])
        answers = chosen.responses if keep else fit_points([params], True)[0].responses
        searched = time.perf_counter()
        estimator: Any = head.fit(params, rows, labels, **settings)
        if not hasattr(estimator, "predict_proba"):
            estimator = calibrate(estimator, answers, folds, rows, labels)
    refitted = time.perf_counter()
    scores = ranking.scores[ranking.best]
    return Tuned(
        head=head.name,
        best_estimator_=estimator,
        best_params_=params,
        best_index_=ranking.best,
        params_=tuple(dict(point) for point in ranking.points),
        scoring_=by,
        cv_scores_=ranking.scores,
        mean_score_=float(scores.mean()),
        sd_=float(scores.std(ddof=1)) if len(folds) > 1 else None,
        accuracy_=np.array(chosen.accuracy),
        classes_=classes,
        oof_=_out_of_fold([probabilities(estimator, part) for part in answers], folds, len(rows)),
        folds_=tuple(folds),
        seconds_={"search": searched - started, "refit": refitted - searched},
        n_parameters_=count_parameters(estimator),
        warnings_=(
            *head.notes(len(rows), len(classes)),
            *_convergence(log, len(folds)),
            *widened,
            *_edge(ranking),
        ),
    )


def _expand(
    head: Head,
    grid: Mapping[str, Sequence[Any]] | None,
    n_train: int,
    d: int,
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    known = (*head.build(**settings)[-1].get_params(), *STEP_PARAMETERS)
    for name in grid or ():
        if name not in known:
            form = f", in its form for many images or classes ({head.note})," if head.note else ""
            raise UnknownNameError(f"parameter of head {head.name!r}{form}", name, known)
    searched = dict(head.grid if grid is None else grid)
    if grid is not None and set(grid) <= set(STEP_PARAMETERS):
        searched = {**head.grid, **grid}
    params = [dict(point) for point in ParameterGrid(searched)]
    most = min(n_train, d)
    possible = [
        point for point in params if head.possible(point, n_train) and (point.get("pca") or 0) <= most
    ]
    if not possible:
        raise DatasetError(
            f"None of the {len(params)} grid points of head {head.name!r} can be fitted on {n_train} images "
            f"of {d} numbers each: give more images, or another grid."
        )
    return possible


def _out_of_fold(parts: Sequence[NDArray[np.float64]], folds: Folds, n: int) -> NDArray[np.float64]:
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
    return [*lines, "the final fit did not converge"] if refits else lines


def _edge(ranking: Ranking) -> list[str]:
    """Say that the choice lies on the edge of what was tried and beats its neighbour there."""
    edge = ranking.edge()
    if edge is None or len(ranking.points) < 3:
        return []
    return [
        f"{describe(ranking.points[ranking.best])} lies on the edge of the grid; a wider one may do better"
    ]
