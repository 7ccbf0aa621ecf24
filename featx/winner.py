"""The winner of a run as a model file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from featx.dataset import LabelledSet
from featx.fitted import Task
from featx.protocol import Plan
from featx.records import escape_name
from featx.results import MODEL_FILE, Results

__all__ = ["write_model"]


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
    from featx.modelfile import save_model

    store, layer = data.stores[winner.store], winner.layer
    row = results.best_row
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
    save_model(
        folder / MODEL_FILE,
        results.estimator,
        classes=plan.classes,
        space=store.space,
        layer=layer,
        weights=store.meta.get("request", {}).get("weights", {"spec": "default"}),
        card={
            "head": row.head,
            "params": dict(row.params),
            "n_images": len(plan.y),
            "source": escape_name(str(store.meta["source"])),
            "cv": dict(row.cv),
            "test": {name: dataclasses.asdict(score) for name, score in row.test.items()},
            "n_test": len(plan.truth),
            "test_origin": plan.split.origin,
            "limits": limits,
            "created": results.created,
            "versions": dict(results.environment["versions"]),
        },
        examples=data.matrix(winner.store, layer, plan.development[:32]),
    )
