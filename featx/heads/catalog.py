"""The heads: how each is built, and what is searched.

Every head is a scikit-learn pipeline, standardisation first. Grids are listed from the most to the
least regularised value, because equal scores are decided for the earlier one where nothing else speaks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC, LinearSVC

from featx.errors import UnknownNameError
from featx.heads.head import Head, MakeClassifier, Path
from featx.heads.paths import (
    fit_hinge,
    fit_logistic,
    solve_hinge_path,
    solve_kernel_path,
    solve_logistic_path,
    solve_neighbours_path,
    solve_ridge_path,
)

__all__ = ["DEFAULT_HEADS", "find_head", "list_heads", "register_head"]

DEFAULT_HEADS = ("logreg", "linear-svm", "rbf-svm")
"""The heads that ``fit`` compares when none is named."""

COMPONENTS = 2048
"""Images that the Nyström approximation of a kernel compares every image with."""

_MOST_STEPS = 1_000_000
"""Steps of libsvm for a pair of classes. Rows that no margin separates take ever more as C grows, for a
solution that is not the one chosen; a fit that is stopped here is reported."""

_HEADS: dict[str, Head] = {}


def register_head(
    name: str, title: str, grid: dict[str, tuple[Any, ...]], **options: Any
) -> Callable[[MakeClassifier], MakeClassifier]:
    """Put the decorated function into the catalogue as the head ``name``.

    Parameters
    ----------
    name, title, grid
        As :class:`Head` has them; the decorated function is its ``make``.
    **options
        Further fields of :class:`Head`.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def register(make: MakeClassifier) -> MakeClassifier:
        if name in _HEADS:
            raise ValueError(f"A head named {name!r} is registered already.")
        _HEADS[name] = Head(name, title, make, grid, **options)
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


@register_head(
    "logreg",
    "Logistic regression",
    {"C": (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)},
    path=Path(frozenset({"C"}), solve_logistic_path),
    finish=fit_logistic,
)
def _logreg(seed: int, class_weight: str | None) -> LogisticRegression:
    """Multinomial logistic regression with an L2 penalty."""
    return LogisticRegression(max_iter=2000, class_weight=class_weight, random_state=seed)


def _linear_machine(seed: int, class_weight: str | None) -> LinearSVC:
    """Squared hinge, each class against the rest: what can be solved on any number of images."""
    return LinearSVC(dual=False, class_weight=class_weight, random_state=seed)


_HINGE = Path(frozenset({"C"}), solve_hinge_path)


@register_head(
    "linear-svm",
    "Linear SVM",
    {"C": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)},
    path=Path(frozenset({"C"}), solve_kernel_path),
    large=Head(
        "linear-svm",
        "Linear SVM",
        _linear_machine,
        {"C": (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)},
        path=_HINGE,
        finish=fit_hinge,
        note="squared hinge, each class against the rest, for want of memory for a kernel matrix",
    ),
)
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
    return SVC(
        kernel="linear", break_ties=True, class_weight=class_weight, max_iter=_MOST_STEPS, random_state=seed
    )


@register_head(
    "rbf-svm",
    "RBF SVM",
    {"C": (0.1, 1.0, 10.0, 100.0, 1000.0)},
    path=Path(frozenset({"C", "gamma"}), solve_kernel_path),
    large=Head(
        "rbf-svm",
        "RBF SVM",
        _linear_machine,
        {"C": (1e-3, 1e-2, 1e-1, 1.0, 10.0)},
        feature_map=lambda seed: Nystroem(kernel="rbf", n_components=COMPONENTS, random_state=seed),
        path=_HINGE,
        finish=fit_hinge,
        note=f"the kernel is approximated by {COMPONENTS} of the images (Nyström), with a squared hinge",
    ),
)
def _rbf_svm(seed: int, class_weight: str | None) -> SVC:
    """Support vector machine with a Gaussian kernel, its width from the variance of the rows."""
    return SVC(
        kernel="rbf",
        gamma="scale",
        break_ties=True,
        class_weight=class_weight,
        max_iter=_MOST_STEPS,
        random_state=seed,
    )


@register_head(
    "ridge",
    "Ridge classifier",
    {"alpha": (1e6, 1e5, 1e4, 1e3, 1e2, 1e1, 1.0)},
    path=Path(frozenset({"alpha"}), solve_ridge_path),
)
def _ridge(seed: int, class_weight: str | None) -> RidgeClassifier:
    """Least squares on the class indicators with an L2 penalty."""
    return RidgeClassifier(class_weight=class_weight, random_state=seed)


@register_head(
    "knn",
    "k-nearest neighbours",
    {"n_neighbors": (25, 15, 9, 5, 3, 1)},
    weighted=False,
    path=Path(frozenset({"n_neighbors"}), solve_neighbours_path),
    possible=lambda params, n_train: params["n_neighbors"] <= n_train,
)
def _knn(seed: int, class_weight: str | None) -> KNeighborsClassifier:  # noqa: ARG001
    """Vote of the nearest images by cosine distance."""
    return KNeighborsClassifier(metric="cosine", algorithm="brute")


@register_head(
    "mlp",
    "Multi-layer perceptron",
    {"hidden_layer_sizes": ((512,), (1024,)), "alpha": (10.0, 1.0, 0.1)},
    weighted=False,
)
def _mlp(seed: int, class_weight: str | None) -> MLPClassifier:  # noqa: ARG001
    """One hidden layer of 512 or 1024 units, Adam, weight decay."""
    return MLPClassifier(max_iter=500, random_state=seed)
