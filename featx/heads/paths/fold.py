"""What a path is solved on: the rows of one fold, after every step of the pipeline but the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight

from featx.heads.warning_log import FoldLog

__all__ = ["FoldRows", "PathSolver", "class_weights"]

PathSolver = Callable[[Any, Sequence[Mapping[str, Any]], "FoldRows", FoldLog], Iterator[NDArray[np.float64]]]
"""From an unfitted classifier, values of its parameters, a fold and the log of warnings to a response of
shape (n_valid, classes) for each, in their order: probabilities, or decision values where the classifier
has no probabilities of its own."""


@dataclass(frozen=True, slots=True)
class FoldRows:
    """One fold, scaled.

    Parameters
    ----------
    X : ndarray of float32, (n_train, d)
        What is fitted on, C-contiguous.
    codes : ndarray of int, (n_train,)
        Number of the class of each row; every class occurs.
    X_valid : ndarray of float32, (n_valid, d)
        What is answered for.
    """

    X: NDArray[np.float32]
    codes: NDArray[np.intp]
    X_valid: NDArray[np.float32]

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.codes.max()) + 1


def class_weights(classifier: Any, codes: NDArray[np.intp]) -> NDArray[np.float64]:
    """Weight of each class, as the classifier's ``class_weight`` (None or ``"balanced"``) has it."""
    return np.asarray(
        compute_class_weight(classifier.class_weight, classes=np.arange(codes.max() + 1), y=codes),
        dtype=np.float64,
    )
