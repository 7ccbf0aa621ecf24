"""The file of a model: writing it, and reading it without ever executing a pickle.

A ``model.featx`` is a zip:

=================  ================================================================================
``manifest.json``  format, classes, the whole space, the layer, where the weights came from, the card
``head.skops``     the fitted scikit-learn estimator; no pickle is ever executed
``check.npz``      up to 32 training embeddings and their probabilities, replayed on loading
``network.*``      the weights of a fine-tuned network (safetensors); others stay in their own files
=================  ================================================================================
"""

from __future__ import annotations

import io
import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import ModelFileError
from featx.files import disk_errors, publish
from featx.records import Layer, Space, escape_name

if TYPE_CHECKING:
    from featx.outcomes import ResultRow
    from featx.protocol import Plan

FORMAT = "featx.model/1"
NETWORK_MEMBER = "network.safetensors"
REPLAYED = 32
"""Predictions kept in the file and compared on loading."""

ALLOWED_TYPES = frozenset(
    {
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.calibration._TemperatureScaling",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    }
)
"""Types a head may hold besides those that skops trusts by itself (scikit-learn's public estimators)."""


_UNREADABLE = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""What :mod:`zipfile` raises for a file with a changed byte, depending on where it is."""


def save_model(
    path: str | os.PathLike[str],
    estimator: Any,
    *,
    classes: NDArray[np.str_],
    space: Space,
    layer: Layer,
    weights: Mapping[str, Any],
    card: Mapping[str, Any],
    examples: NDArray[np.float32],
    network: bytes | None = None,
) -> Path:
    """Write a model file, whole or not at all.

    Parameters
    ----------
    path : path
    estimator : scikit-learn classifier
        Fitted, with ``predict_proba``.
    classes : ndarray of str, (n_classes,)
    space, layer : Space, LayerInfo or JoinedLayer
        Of the embeddings it was fitted on.
    weights : mapping
        What was asked for, so that the network can be built again: ``{"spec": …}``; with ``embedded``
        true they are in the file.
    card : mapping
        For people; plain types.
    examples : ndarray of float32, (k, dim)
        Embeddings whose predictions are kept and replayed on loading; the first 32 are.
    network : bytes, optional
        A safetensors file, for weights that are embedded.

    Raises
    ------
    ModelFileError
        If the estimator holds a type that would not be loaded again.
    """
    from skops.io import dumps, get_untrusted_types

    head = dumps(estimator)
    foreign = sorted(set(get_untrusted_types(data=head)) - ALLOWED_TYPES)
    if foreign:
        raise ModelFileError(
            f"The head holds types that a model file may not hold: {', '.join(foreign)}; "
            "expected estimators of scikit-learn only"
        )
    manifest = {
        "format": FORMAT,
        "classes": [str(name) for name in classes],
        "space": space.to_json(),
        "layer": layer.to_json(),
        "weights": dict(weights) | ({"embedded": True} if network is not None else {}),
        "card": dict(card),
    }
    check = io.BytesIO()
    X = np.ascontiguousarray(examples[:REPLAYED], dtype=np.float32)
    np.savez(check, allow_pickle=False, X=X, probabilities=estimator.predict_proba(X))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps(manifest, indent=1))
        archive.writestr("head.skops", head)
        archive.writestr("check.npz", check.getvalue())
        if network is not None:
            # Numbers of a network do not get smaller.
            archive.writestr(NETWORK_MEMBER, network, zipfile.ZIP_STORED)
    with publish(Path(path)) as file:
        file.write(buffer.getbuffer())
    return Path(path)


def make_card(
    row: ResultRow, plan: Plan, *, source: str, created: str, versions: Mapping[str, str]
) -> dict[str, Any]:
    """Say what a model was trained on, how well it did, and what is not known of it, in plain types.

    Parameters
    ----------
    row : ResultRow
        Of the model.
    plan : Plan
        By which it was trained and scored.
    source, created : str
        Where the images lie, and when the run was made.
    versions : mapping
        Of the libraries.
    """
    limits = [
        f"Trained on {len(plan.y)} images of {len(plan.classes)} classes; anything else is given one of them."
    ]
    if not plan.split.test.size:
        limits.append("No test images: how well it does on new ones is not known.")
    if plan.split.is_whole:
        limits.append(
            "The test scores are of heads fitted without one outer fold each, not of this one, which has "
            "learned from all labelled images."
        )
    return {
        "head": row.head,
        "params": dict(row.params),
        "n_images": len(plan.y),
        "source": escape_name(source),
        "cv": dict(row.cv),
        "test": {name: asdict(score) for name, score in row.test.items()},
        "n_test": len(plan.truth),
        "test_origin": plan.split.origin,
        "limits": limits,
        "created": created,
        "versions": dict(versions),
    }


def read_manifest(path: Path) -> dict[str, Any]:
    """Read what the model is, without its head.

    Raises
    ------
    ModelFileError
        If there is no such file, or it is none of ours, damaged, or of another format.
    """
    if not path.exists():
        raise ModelFileError(f"{path} does not exist; `featx fit` writes one into its run folder")
    try:
        manifest = json.loads(read_member(path, "manifest.json"))
        found = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"{path} is no model file of featx, or damaged; make it with `featx fit`"
        ) from error
    if found != FORMAT:
        raise ModelFileError(
            f"{path} has the format {found}; this featx reads {FORMAT}: use the featx that wrote it"
        )
    missing = {"classes", "space", "layer", "weights", "card"} - set(manifest)
    if missing:
        raise ModelFileError(f"{path} lacks {', '.join(sorted(missing))}; make it again with `featx fit`")
    return dict(manifest)


def read_member(path: Path, name: str) -> bytes:
    """Read one member of the zip, every way of being damaged turned into one error."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except _UNREADABLE as error:
        raise ModelFileError(f"{path} is no model file of featx, or damaged ({error})") from error


@contextmanager
def unpacked_network(path: Path) -> Iterator[Path]:
    """Give the embedded weights as a file that is there during the block.

    Raises
    ------
    ModelFileError
        If they are not there, or damaged.
    """
    data = read_member(path, NETWORK_MEMBER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / NETWORK_MEMBER
        with disk_errors(file):
            file.write_bytes(data)
        yield file


def read_head(path: Path) -> Any:
    """Read the estimator.

    Raises
    ------
    ModelFileError
        If the file holds a type that is not allowed, or cannot be read.
    """
    from skops.io import get_untrusted_types, loads

    data = read_member(path, "head.skops")
    try:
        foreign = sorted(set(get_untrusted_types(data=data)) - ALLOWED_TYPES)
        if foreign:
            raise ModelFileError(
                f"{path} holds types that featx does not load: {', '.join(foreign)}; "
                "expected a head written by `featx fit`: do not use this file"
            )
        estimator = loads(data, trusted=sorted(ALLOWED_TYPES))
    except (ValueError, KeyError, TypeError, AttributeError, ImportError, zipfile.BadZipFile) as error:
        raise ModelFileError(
            f"{path} holds a head that cannot be read ({error}); make it again with `featx fit`"
        ) from error
    return estimator


def replay(path: Path, estimator: Any, versions: object) -> None:
    """Refuse an estimator that predicts otherwise here than where it was written.

    Raises
    ------
    ModelFileError
        If a probability of the predictions kept differs by more than 1e-4.
    """
    try:
        with np.load(io.BytesIO(read_member(path, "check.npz")), allow_pickle=False) as check:
            X, expected = check["X"], check["probabilities"]
    except (ValueError, KeyError, OSError) as error:
        raise ModelFileError(f"{path} is damaged ({error}); make it again with `featx fit`") from error
    got = estimator.predict_proba(X)
    worst = float(np.abs(got - expected).max()) if len(X) else 0.0
    if worst > 1e-4:
        raise ModelFileError(
            f"{path} predicts otherwise here than where it was made (probabilities differ by up to "
            f"{worst:.2g}); it was written with {versions}: install those, or fit again"
        )
