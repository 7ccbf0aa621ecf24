"""What a head is: a scikit-learn pipeline, what is searched, and how the search is made short."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.kernel_approximation import Nystroem
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from featx.errors import DatasetError
from featx.heads.paths import PathSolver, solve_plainly

__all__ = ["LARGE", "STEP_PARAMETERS", "Head", "MakeClassifier", "Path"]

LARGE = 10_000
"""Above so many images to learn from, a head's ``large`` form takes its place: a kernel matrix in float64
is 0.8 GB there, and one is held for each thread."""

MANY_CLASSES = 100
"""Above so many classes likewise: machines for every pair of 500 classes took 70 s where those of each class
against the rest take 0.7 s, and their decision values a hundred times the memory."""

STEP_PARAMETERS = ("l2", "pca")
"""Grid parameters that are not the classifier's, see :meth:`Head.build`."""

Params = Mapping[str, Any]
MakeClassifier = Callable[[int, str | None], Any]
"""From a seed and a ``class_weight`` (None or ``"balanced"``) to an unfitted classifier."""


def _always(params: Params, n_train: int) -> bool:  # noqa: ARG001
    return True


@dataclass(frozen=True, slots=True)
class Path:
    """A short cut for grids of some parameters; see :mod:`featx.heads.paths`.

    Parameters
    ----------
    parameters : frozenset of str
        The parameters that may vary; for any other grid the classifier itself is fitted.
    solve : PathSolver
    """

    parameters: frozenset[str]
    solve: PathSolver


@dataclass(frozen=True, slots=True)
class Head:
    """A head of the catalogue.

    Parameters
    ----------
    name, title : str
        What ``--head`` takes, and what people read.
    make : callable
        From a seed and a class weight to an unfitted scikit-learn classifier.
    grid : mapping of str to tuple
        The classifier's parameters that are searched, most regularised value first.
    weighted : bool, default=True
        Whether the classifier can weigh classes (``balanced``).
    possible : callable, default: always
        Whether parameters can be fitted on so many images; others are left out of the search.
    path : Path, optional
        How all values of the grid are solved at once.
    finish : callable, optional
        From an unfitted classifier, scaled rows and labels to the fitted one; default: its ``fit``.
    feature_map : callable, optional
        From a seed to a transformer that stands before the classifier.
    large : Head, optional
        Takes the place of this one above :data:`LARGE` images or :data:`MANY_CLASSES` classes.
    note : str
        What the reader of a row must know of it.
    """

    name: str
    title: str
    make: MakeClassifier
    grid: Mapping[str, tuple[Any, ...]]
    weighted: bool = True
    possible: Callable[[Params, int], bool] = _always
    path: Path | None = None
    finish: Callable[[Any, NDArray[np.float32], NDArray[Any]], Any] | None = None
    feature_map: Callable[[int], Any] | None = None
    large: Head | None = None
    note: str = ""

    def build(
        self, seed: int = 0, balanced: bool = False, *, l2: bool = False, pca: float | None = None
    ) -> Pipeline:
        """Build the unfitted pipeline: ``scaler``, then ``classifier``, and what is asked for between.

        Parameters
        ----------
        seed : int, default=0
            For what the solver draws; the fit is the same for the same seed.
        balanced : bool, default=False
            Weigh every class by the inverse of its frequency.
        l2 : bool, default=False
            Divide each row by its length before the scaling (step ``normalizer``).
        pca : int or float, optional
            Keep so many principal components after the scaling, or, below 1, as many as explain that
            share of the variance (step ``pca``).

        Raises
        ------
        DatasetError
            If ``balanced`` is asked of a classifier that cannot weigh classes.

        Examples
        --------
        >>> from featx.heads import find_head
        >>> find_head("logreg").build()[-1].get_params()["C"]
        1.0
        >>> [name for name, _ in find_head("logreg").build(l2=True, pca=64).steps]
        ['normalizer', 'scaler', 'pca', 'classifier']
        """
        if balanced and not self.weighted:
            raise DatasetError(
                f"Head {self.name!r} cannot weigh classes: leave out --balanced, or take one that can, such "
                "as logreg, linear-svm, rbf-svm or ridge."
            )
        steps: list[tuple[str, Any]] = [("normalizer", Normalizer())] if l2 else []
        steps.append(("scaler", StandardScaler()))
        if pca is not None:
            steps.append(("pca", PCA(pca, random_state=seed)))
        if self.feature_map is not None:
            steps.append(("map", self.feature_map(seed)))
        steps.append(("classifier", self.make(seed, "balanced" if balanced else None)))
        return Pipeline(steps)

    def searching(self, l2: Sequence[bool] = (), pca: Sequence[float | None] = ()) -> Head:
        """Return this head with steps before the classifier in its grid; see :meth:`build`.

        Parameters
        ----------
        l2 : sequence of bool
            Rows as they are, divided by their length, or both to be tried; empty for as they are.
        pca : sequence of int, float or None
            Numbers of principal components, shares of the variance, None for all columns.

        Raises
        ------
        DatasetError
            If a number of components is not above 0.

        Examples
        --------
        >>> from featx.heads import find_head
        >>> find_head("ridge").searching(l2=[False, True]).grid["l2"]
        (False, True)
        """
        for value in pca:
            if value is not None and not (value > 0 and (value < 1 or value == int(value))):
                raise DatasetError(
                    f"Got {value:g} principal components, expected a number of them, or a share of the "
                    "variance between 0 and 1."
                )
        steps: dict[str, tuple[Any, ...]] = {}
        if l2:
            steps["l2"] = tuple(l2)
        if pca:
            steps["pca"] = tuple(value if value is None or value < 1 else int(value) for value in pca)
        large = self.large.searching(l2, pca) if self.large is not None else None
        return replace(self, grid={**self.grid, **steps}, large=large)

    def of_rows(self, n: int, classes: int) -> Head:
        """Return the form of this head for so many images to learn from; a large one stays as it is."""
        many = n > LARGE or classes > MANY_CLASSES
        return self.large if self.large is not None and many else self

    def notes(self, n: int, classes: int) -> tuple[str, ...]:
        """Say why so many images have this form of the head, where it is not the usual one."""
        if not self.note:
            return ()
        too_many = f"{n:,} images are more than {LARGE:,}"
        if n <= LARGE:
            too_many = f"{classes:,} classes are more than {MANY_CLASSES}"
        return (f"{too_many}: {self.note}",)

    def solver_for(self, points: Sequence[Params]) -> PathSolver:
        """Return the short cut, if all that varies is what it knows; else fit after fit."""
        if self.path is not None and all(self._knows(point) for point in points):
            return self.path.solve
        return solve_plainly

    def _knows(self, point: Params) -> bool:
        """Whether the short cut is one for all that a point of the classifier's own grid sets."""
        return self.path is not None and set(point) <= self.path.parameters

    def fit(self, params: Params, X: NDArray[np.float32], y: NDArray[Any], **settings: Any) -> Pipeline:
        """Fit the pipeline with the parameters of one grid point on all rows.

        Parameters
        ----------
        params : mapping
            A grid point.
        X, y : ndarray of shape (n, d) and (n,)
            Rows and labels.
        **settings
            ``seed`` and ``balanced`` of :meth:`build`.

        Returns
        -------
        Pipeline
            Plain scikit-learn.
        """
        steps, of_classifier = split_params(params)
        pipeline = self.build(**settings, **steps)
        classifier = pipeline[-1].set_params(**of_classifier)
        if self.finish is None or not self._knows(of_classifier):
            classifier.fit(fit_steps(pipeline, X), y)
            return pipeline
        self.finish(classifier, fit_steps(pipeline, X), y)
        return pipeline


def fit_steps(pipeline: Pipeline, X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fit all steps of a pipeline but the last, and return what they make of the rows.

    A Nyström map takes its width from the variance of the rows that reach it, as ``gamma="scale"`` of
    :class:`sklearn.svm.SVC` does, and no more components than there are rows.

    Parameters
    ----------
    pipeline : Pipeline
        Its steps are fitted in place.
    X : ndarray of float32, (n, d)

    Returns
    -------
    ndarray of float32, C-contiguous
    """
    rows = X
    for _, step in pipeline.steps[:-1]:
        if isinstance(step, Nystroem):
            variance = float(rows.var(dtype=np.float64))
            width = 1.0 / (rows.shape[1] * variance) if variance else 1.0
            step.set_params(gamma=width, n_components=min(step.n_components, len(rows)))
        rows = step.fit_transform(rows)
    return np.ascontiguousarray(rows, dtype=np.float32)


def split_params(params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of the steps before the classifier, and of the classifier.

    Examples
    --------
    >>> split_params({"C": 1.0, "pca": 64})
    ({'pca': 64}, {'C': 1.0})
    """
    steps = {name: value for name, value in params.items() if name in STEP_PARAMETERS}
    return steps, {name: value for name, value in params.items() if name not in steps}
