"""The test images of a run and what the best model says of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.records import escape_name
from featx.report.wording import plain


@dataclass(frozen=True, slots=True)
class Judged:
    """What the best model says of the test images.

    Parameters
    ----------
    names : sequence of str
        Printable.
    truth : ndarray of int, (n,)
        Index of the true class.
    probabilities : ndarray of float, (n, k)
    classes : sequence of str
        The k names, printable.
    map : ndarray of float32, (n, 2), or None
        Where the embeddings lie in two dimensions; NaN where they were not placed.
    """

    names: Sequence[str]
    truth: NDArray[np.integer[Any]]
    probabilities: NDArray[np.floating[Any]]
    classes: Sequence[str]
    map: NDArray[np.floating[Any]] | None

    @property
    def predicted(self) -> NDArray[np.intp]:
        """Index of the most probable class, (n,)."""
        found: NDArray[np.intp] = self.probabilities.argmax(axis=1)
        return found


def read_tested(results: Mapping[str, Any], predictions: Mapping[str, Any]) -> Judged | None:
    """Take the best model's test predictions from a run.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    predictions : mapping
        The arrays of ``predictions.npz``.

    Returns
    -------
    Judged or None
        None where the run does not keep them, or they do not fit each other.

    Examples
    --------
    >>> arrays = {"names": np.array([b"a.jpg"]), "truth": np.array([0]),
    ...           "probabilities_0": np.array([[0.1, 0.9]])}
    >>> read_tested({"best": 0, "dataset": {"classes": ["ant", "bee"]}}, arrays).predicted.tolist()
    [1]
    """
    names, truth = predictions.get("names"), predictions.get("truth")
    probabilities = predictions.get(f"probabilities_{results.get('best')}")
    classes = [plain(name) for name in results["dataset"].get("classes") or []]
    if names is None or truth is None or probabilities is None or not len(truth):
        return None
    if probabilities.shape != (len(truth), len(classes)) or len(names) != len(truth):
        return None
    if truth.min() < 0 or truth.max() >= len(classes) or not np.isfinite(probabilities).all():
        return None
    places = predictions.get("map")
    return Judged(
        # Bytes, as the file system has them.
        names=[escape_name(os.fsdecode(name)) for name in names.tolist()],
        truth=truth,
        probabilities=probabilities,
        classes=classes,
        map=places if places is not None and places.shape == (len(truth), 2) else None,
    )
