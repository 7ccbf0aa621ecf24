"""The winner of a run: its model file, and a map of its test embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.dataset import LabelledSet
from featx.fitted import Task
from featx.protocol import Plan
from featx.results import MODEL_FILE, Results

__all__ = ["MOST_ON_MAP", "map_test", "write_model"]

MOST_ON_MAP = 2000
"""Test images on the map, as many as a picture can show; taken at even distances."""


def map_test(data: LabelledSet, winner: Task, plan: Plan) -> NDArray[np.float32] | None:
    """Place the winner's test embeddings in two dimensions, for a picture.

    Parameters
    ----------
    data : LabelledSet
    winner : Task
        What the best row was fitted from.
    plan : Plan

    Returns
    -------
    ndarray of float32, (n_test, 2), or None
        The first two principal components; NaN beyond :data:`MOST_ON_MAP` images. None where there are
        fewer than three images or two dimensions.
    """
    from sklearn.decomposition import PCA

    rows = plan.split.test
    if len(rows) < 3 or winner.layer.dim < 2:
        return None
    shown = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_ON_MAP)).round().astype(np.intp))
    places = np.full((len(rows), 2), np.nan, dtype=np.float32)
    embeddings = data.matrix(winner.store, winner.layer, rows[shown])
    # All alike, they have no direction, and one place.
    alike = bool((embeddings == embeddings[0]).all())
    places[shown] = 0.0 if alike else PCA(2, random_state=0).fit_transform(embeddings)
    return places


def write_model(folder: Path, results: Results, data: LabelledSet, winner: Task, plan: Plan) -> None:
    """Write ``model.featx`` into a run folder.

    Parameters
    ----------
    folder : Path
    results : Results
        With the winner's estimator.
    data : LabelledSet
    winner : Task
        What the best row was fitted from.
    plan : Plan

    Raises
    ------
    FeatxError
        If the file cannot be written.
    """
    # Late: skops loads torch where torch is installed.
    from featx.modelfile import make_card, save_model

    store, layer = data.stores[winner.store], winner.layer
    save_model(
        folder / MODEL_FILE,
        results.estimator,
        classes=plan.classes,
        space=store.space,
        layer=layer,
        weights=store.meta.get("request", {}).get("weights", {"spec": "default"}),
        card=make_card(
            results.best_row,
            plan,
            source=str(store.meta["source"]),
            created=results.created,
            versions=results.environment["versions"],
        ),
        examples=data.matrix(winner.store, layer, plan.development[:32]),
    )
