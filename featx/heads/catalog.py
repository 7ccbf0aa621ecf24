"""The heads: how each is built, and what is searched.

Every head is a scikit-learn pipeline, standardisation first. Grids are listed from the most to the
least regularised value, because equal scores are decided for the earlier one where nothing else speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from featx.errors import DatasetError, UnknownNameError

__all__ = ["DEFAULT_HEADS", "Head", "find_head", "list_heads", "register_head"]

DEFAULT_HEADS = ("logreg", "linear-svm", "rbf-svm")
"""The heads that ``fit`` compares when none is named."""

Params = Mapping[str, Any]
MakeClassifier = Callable[[int, str | None], Any]
"""From a seed and a ``class_weight`` (None or ``"balanced"``) to an unfitted classifier."""


def _always(params: Params, n_train: int) -> bool:  # noqa: ARG001
    return True


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
    """

    name: str
    title: str
    make: MakeClassifier
    grid: Mapping[str, tuple[Any, ...]]
    weighted: bool = True
    possible: Callable[[Params, int], bool] = _always

    def build(self, seed: int = 0, balanced: bool = False) -> Pipeline:
        """Build the unfitted pipeline: ``scaler``, then ``classifier``.

        Parameters
        ----------
        seed : int, default=0
            For what the solver draws; the fit is the same for the same seed.
        balanced : bool, default=False
            Weigh every class by the inverse of its frequency.

        Raises
        ------
        DatasetError
            If ``balanced`` is asked of a classifier that cannot weigh classes.

        Examples
        --------
        >>> find_head("logreg").build()[-1].get_params()["C"]
        1.0
        """
        if balanced and not self.weighted:
            able = ", ".join(name for name in list_heads() if _HEADS[name].weighted)
            raise DatasetError(
                f"Head {self.name!r} cannot weigh classes: leave out --balanced, or take one of {able}."
            )
        classifier = self.make(seed, "balanced" if balanced else None)
        return Pipeline([("scaler", StandardScaler()), ("classifier", classifier)])


_HEADS: dict[str, Head] = {}


def register_head(
    name: str,
    title: str,
    grid: Mapping[str, tuple[Any, ...]],
    *,
    weighted: bool = True,
    possible: Callable[[Params, int], bool] = _always,
) -> Callable[[MakeClassifier], MakeClassifier]:
    """Put the decorated function into the catalogue as the head ``name``.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def register(make: MakeClassifier) -> MakeClassifier:
        if name in _HEADS:
            raise ValueError(f"A head named {name!r} is registered already.")
        _HEADS[name] = Head(name, title, make, grid, weighted, possible)
        return make

    return register


def list_heads() -> list[str]:
    """Names of all heads, in the order in which they were registered.

    Examples
    --------
    >>> list_heads()[:3]
    ['logreg', 'linear-svm', 'rbf-svm']
    """
    return list(_HEADS)


def find_head(name: str) -> Head:
    """Look a head up by name.

    Raises
    ------
    UnknownNameError
        If there is none of that name; the text lists the near ones.

    Examples
    --------
    >>> find_head("rbf-svm").grid["C"]
    (0.1, 1.0, 10.0, 100.0, 1000.0)
    """
    try:
        return _HEADS[name]
    except KeyError:
        raise UnknownNameError("head", name, _HEADS) from None


@register_head("logreg", "Logistic regression", {"C": (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)})
def _logreg(seed: int, class_weight: str | None) -> LogisticRegression:
    """Multinomial logistic regression with an L2 penalty."""
    return LogisticRegression(max_iter=2000, class_weight=class_weight, random_state=seed)


@register_head("linear-svm", "Linear SVM", {"C": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)})
def _linear_svm(seed: int, class_weight: str | None) -> SVC:
    """Linear support vector machine, one against one.

    ``SVC(kernel="linear")`` and not ``LinearSVC``: with more dimensions than images, or nearly so,
    liblinear takes 10 to 100 times as long once the classes can be separated (N = 3000, d = 512,
    C = 10: 32 s against 0.2 s), it penalises the intercept, and on handwritten digits it was the
    less accurate at every size tried. On standardised rows of 500 or more dimensions the margin is
    hard from C = 0.01 on, hence the grid. The price is a pair of classes per separator and a model
    that keeps its support vectors. With ties broken, ``predict`` is the argmax of
    ``decision_function``, and so survives calibration.
    """
    return SVC(kernel="linear", break_ties=True, class_weight=class_weight, random_state=seed)


@register_head("rbf-svm", "RBF SVM", {"C": (0.1, 1.0, 10.0, 100.0, 1000.0)})
def _rbf_svm(seed: int, class_weight: str | None) -> SVC:
    """Support vector machine with a Gaussian kernel, its width from the variance of the rows."""
    return SVC(kernel="rbf", gamma="scale", break_ties=True, class_weight=class_weight, random_state=seed)


@register_head("ridge", "Ridge classifier", {"alpha": (1e6, 1e5, 1e4, 1e3, 1e2, 1e1, 1.0)})
def _ridge(seed: int, class_weight: str | None) -> RidgeClassifier:
    """Least squares on the class indicators with an L2 penalty."""
    return RidgeClassifier(class_weight=class_weight, random_state=seed)


@register_head(
    "knn",
    "k-nearest neighbours",
    {"n_neighbors": (25, 15, 9, 5, 3, 1)},
    weighted=False,
    possible=lambda params, n_train: params["n_neighbors"] <= n_train,
)
def _knn(seed: int, class_weight: str | None) -> KNeighborsClassifier:  # noqa: ARG001
    """Vote of the nearest images by cosine distance."""
    return KNeighborsClassifier(metric="cosine", algorithm="brute")


@register_head("mlp", "Multi-layer perceptron", {"alpha": (10.0, 1.0, 0.1, 1e-2)}, weighted=False)
def _mlp(seed: int, class_weight: str | None) -> MLPClassifier:  # noqa: ARG001
    """One hidden layer of 512 units, Adam, weight decay."""
    return MLPClassifier(hidden_layer_sizes=(512,), max_iter=500, random_state=seed)
