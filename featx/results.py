"""What an experiment found, and the run folder that keeps it.

``results.json`` holds every number that a reader may want (schema ``featx.results/1``),
``predictions.npz`` the test probabilities and out-of-fold predictions of every row, and the winner's
out-of-fold probabilities and a map of the test embeddings, from which each picture of a report can be
drawn again; ``curves.json`` (schema ``featx.curves/1``) the learning and few-shot curves, which are drawn
when the results are out.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import FeatxError
from featx.files import TEMPORARY_SUFFIX, disk_errors, publish
from featx.outcomes import Comparison, ResultRow

SCHEMA = "featx.results/1"
RESULTS_FILE = "results.json"
PREDICTIONS_FILE = "predictions.npz"
CURVES_FILE = "curves.json"
"""Learning and few-shot curves, written last; or the course of a training."""
CURVES_SCHEMA = "featx.curves/1"
MODEL_FILE = "model.featx"
NETWORK_FILE = "network.safetensors"
"""The fine-tuned network in the run folder, to be used as ``weights``."""
TUNED_MODEL_FILE = "finetuned.featx"
"""The fine-tuned baseline of `featx fit`, beside the model of its best head."""
UNFINISHED_FOLDER = "finetuning"
"""Checkpoints of the baseline of `featx fit`; those of `featx finetune` lie in the run folder itself."""
REPORT_FILES = ("report.md", "report.html")

SHEET_FILE = "augmented.png"
LAST_GOOD_FILE = "network-last-good.safetensors"
"""What a training that diverged had learned before."""
BASELINE_FILES = (NETWORK_FILE, TUNED_MODEL_FILE, SHEET_FILE, LAST_GOOD_FILE)
"""What `featx fit` leaves of its baseline, besides the row; to be removed in this order, for a network
without its model is known as that of `featx finetune`."""
CHECKPOINT_FILE = "checkpoint.json"
_CHECKPOINT_FILES = re.compile(r"checkpoint(-\d+)?\.(json|safetensors)")
"""With ``checkpoint.json``, of a training that was not finished."""

_WEIGHTS = frozenset({MODEL_FILE, NETWORK_FILE, TUNED_MODEL_FILE})
_OWN = frozenset(
    {RESULTS_FILE, PREDICTIONS_FILE, SHEET_FILE, CURVES_FILE, LAST_GOOD_FILE, *REPORT_FILES, *_WEIGHTS}
)


@dataclass(frozen=True, slots=True)
class RowPredictions:
    """What one row predicted.

    Parameters
    ----------
    probabilities : ndarray of float, (n_test, n_classes)
        Of the test images, in the order of :attr:`Results.test_names`.
    out_of_fold : ndarray of int, (n_fit,)
        Class predicted for each image of the training part by a head that did not see it; -1 where
        no fold held it out.
    """

    probabilities: NDArray[np.floating[Any]]
    out_of_fold: NDArray[np.integer[Any]]


def most_probable(out_of_fold: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
    """Give the index of the most probable class of each row; -1 where no fold held it out (NaN).

    Examples
    --------
    >>> most_probable(np.array([[0.2, 0.8], [np.nan, np.nan]])).tolist()
    [1, -1]
    """
    missing = np.isnan(out_of_fold).any(axis=1)
    return np.where(missing, -1, np.nan_to_num(out_of_fold).argmax(axis=1))


@dataclass(frozen=True)
class Results:
    """The outcome of :func:`featx.fit`.

    Parameters
    ----------
    dataset : mapping
        Counts, classes, splits, skipped images and the audit.
    settings : mapping
        What was asked for.
    rows : tuple of ResultRow
        One per backbone × layer × head.
    comparisons : tuple of Comparison
        Of the best row with every other, paired on the test images.
    best : int
        Index of the winner by cross-validation; test scores take no part in the choice.
    environment : mapping
        Versions and hardware.
    command : str
        What makes the run again; empty if it was called from Python without one.
    created : str
        ISO 8601, UTC.
    test_names, truth : arrays
        Names of the test images, and the index of their class.
    predictions : tuple of RowPredictions
    suspects : mapping
        Images whose labels the winner contradicts with confidence; see
        :meth:`featx.protocol.Plan.suspects`.
    oof_probabilities : ndarray of float, (n_fit, n_classes), or None
        The winner's, of each image of the training part; NaN where no fold held it out.
    map : ndarray of float32, (n_test, 2), or None
        Where the winner's test embeddings lie in two dimensions; NaN where they were not placed.
    estimator : object
        The winner, fitted: a scikit-learn estimator.
    curves : mapping or None
        What ``curves.json`` holds, schema ``featx.curves/1``: ``learning`` and
        ``few_shot``, or ``training``. None while
        they are not drawn, and where none was asked for.

    Examples
    --------
    >>> import featx, numpy as np, pathlib, tempfile
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(40, 5)), np.repeat(["a", "b"], 20)
    >>> X[20:] += 3
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "x.h5"
    >>> store = featx.FeatureStore.from_arrays(path, X, y)
    >>> results = featx.fit(path, heads=["logreg"], cv=3)
    >>> results.best_row.head, len(results.test_names)
    ('logreg', 10)
    """

    dataset: Mapping[str, Any] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    rows: tuple[ResultRow, ...] = field(repr=False)
    comparisons: tuple[Comparison, ...] = field(repr=False)
    best: int
    environment: Mapping[str, Any] = field(repr=False)
    command: str
    created: str
    test_names: tuple[str, ...] = field(repr=False)
    truth: NDArray[np.integer[Any]] = field(repr=False)
    predictions: tuple[RowPredictions, ...] = field(repr=False)
    suspects: Mapping[str, Any] = field(repr=False, default_factory=dict)
    oof_probabilities: NDArray[np.floating[Any]] | None = field(repr=False, default=None)
    map: NDArray[np.floating[Any]] | None = field(repr=False, default=None)
    estimator: Any = field(repr=False, default=None)
    curves: Mapping[str, Any] | None = field(repr=False, default=None)

    @property
    def best_row(self) -> ResultRow:
        """The winner."""
        return self.rows[self.best]

    def to_json(self) -> dict[str, Any]:
        """Everything of ``results.json``, in plain types."""
        return {
            "schema": SCHEMA,
            "created": self.created,
            "dataset": dict(self.dataset),
            "settings": dict(self.settings),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "comparisons": [dataclasses.asdict(comparison) for comparison in self.comparisons],
            "best": self.best,
            "suspects": dict(self.suspects),
            "environment": dict(self.environment),
            "command": self.command,
        }

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``results.json`` and ``predictions.npz``; see :func:`check_run_folder`.

        Raises
        ------
        FeatxError
            If the folder cannot be written.
        """
        path = Path(folder)
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, NDArray[Any]] = {
            # File names may hold bytes that are no text, which an array of str cannot keep.
            "names": np.array([os.fsencode(name) for name in self.test_names], dtype=np.bytes_),
            "truth": self.truth,
            "classes": np.array(self.dataset["classes"], dtype=np.str_),
        }
        for index, predicted in enumerate(self.predictions):
            arrays[f"probabilities_{index}"] = predicted.probabilities.astype(np.float32)
            arrays[f"oof_{index}"] = predicted.out_of_fold
        if self.oof_probabilities is not None:
            arrays["oof_probabilities"] = self.oof_probabilities.astype(np.float32)
        if self.map is not None:
            arrays["map"] = self.map.astype(np.float32)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        text = json.dumps(self.to_json(), indent=1, allow_nan=False, default=_plain)
        # The predictions get their name first, and both only when both are written.
        with publish(path / RESULTS_FILE) as results, publish(path / PREDICTIONS_FILE) as predictions:
            results.write(text.encode("ascii"))
            predictions.write(buffer.getbuffer())
            # Killed between the two names, an earlier run must not stand beside these predictions.
            (path / RESULTS_FILE).unlink(missing_ok=True)
        return path


def save_curves(folder: Path, curves: Mapping[str, Any]) -> None:
    """Write ``curves.json`` into a run folder, whole or not at all.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    text = json.dumps(curves, indent=1, allow_nan=False)
    with publish(folder / CURVES_FILE) as file:
        file.write(text.encode("ascii"))


def check_run_folder(folder: str | os.PathLike[str], *, of: str | None = None) -> Path:
    """Refuse, before any work is done, a place that :meth:`Results.save` may not write to.

    Parameters
    ----------
    folder : path
    of : str, optional
        The file by which this kind of run is known: :data:`MODEL_FILE` for `featx fit`,
        :data:`NETWORK_FILE` for `featx finetune`, which leaves both. That of the other kind would outlive
        its results, and look as if it were this run's. None for any kind.

    Raises
    ------
    FeatxError
        If something that is no run folder is there, or nothing can be written there.
    """
    path = Path(folder)
    # With a baseline `featx fit` leaves a network too, never without its model.
    by_fit = any(os.path.lexists(path / name) for name in (TUNED_MODEL_FILE, UNFINISHED_FOLDER))
    fine_tuned = os.path.lexists(path / NETWORK_FILE) and not by_fit
    if of == MODEL_FILE and (fine_tuned or os.path.lexists(path / CHECKPOINT_FILE)):
        what = "network" if fine_tuned else "unfinished training"
        raise FeatxError(
            f"{folder} holds the run and the {what} of `featx finetune`; choose another folder with -o"
        )
    if of == NETWORK_FILE and (by_fit or (not fine_tuned and os.path.lexists(path / MODEL_FILE))):
        raise FeatxError(
            f"{folder} holds the run and the model of `featx fit`; choose another folder with -o"
        )
    # os.path takes what it may not look at for absent, so that the folder above is what is judged.
    nearest = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not os.path.isdir(nearest):  # noqa: PTH112 - as above
        raise FeatxError(f"{nearest} is a file; choose another folder for the run with -o")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise FeatxError(f"{nearest} cannot be written to; choose another folder for the run with -o")
    if nearest == path and not (path / RESULTS_FILE).exists():
        with disk_errors(path, "read"):
            names = {entry.name for entry in path.iterdir()}
        if names and not _is_killed_run(names):
            raise FeatxError(f"{path} exists and is no run folder of featx; choose another one with -o")
    return path


def _is_killed_run(names: set[str]) -> bool:
    """Say whether these are the files of a run that was killed before its results were whole."""
    finished = {name for name in map(_finished_name, names) if not _CHECKPOINT_FILES.fullmatch(name)}
    finished -= {UNFINISHED_FOLDER}
    # A model alone is one that somebody keeps there.
    return finished <= _OWN and not names <= _WEIGHTS


def _finished_name(name: str) -> str:
    """Name that a file gets when it is whole: what ``publish`` writes is ``NAME.HEX.tmp`` until then."""
    return re.sub(rf"\.[0-9a-f]{{32}}{re.escape(TEMPORARY_SUFFIX)}$", "", name)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not go into results.json")
