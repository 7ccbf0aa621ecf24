"""A run folder written by hand, as an experiment writes it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

EVIL = "<script>alert('x')</script>|a\nb"


def make_row(kind="head", backbone="mobilenet_v2", head="logreg", cv=0.95, test=None, **more):
    row = {
        "kind": kind,
        "backbone": backbone,
        "layer": "adaptive_avg_pool2d:flatten",
        "head": head,
        "params": {"C": 0.1},
        "cv": {"mean": cv, "sd": 0.012, "folds": [cv - 0.012, cv + 0.012]},
        "test": {},
        "seconds": {"extract": 12.0, "fit": 0.8, "predict": 0.01},
        "peak_memory_bytes": 1_200_000_000,
        "n_parameters_trained": 2562,
        "dim": 1280,
        "store": "ants.h5",
        "weights": "file mobilenet_v2.pth",
        "warnings": [],
    }
    if test is not None:
        value, low, high = test
        row["test"] = {
            "accuracy": {"value": value, "low": low, "high": high},
            "roc_auc": {"value": 0.981, "low": 0.962, "high": 0.995},
            "log_loss": {"value": 0.163, "low": 0.111, "high": 0.229},
        }
    return row | more


def make_comparison(b, difference, low, high, p_value, a=0):
    return {"a": a, "b": b, "difference": difference, "low": low, "high": high, "p_value": p_value}


def make_results(rows=None, comparisons=None, best=0, n_test=153, **dataset):
    """Results of two classes; the defaults are a clear win of transfer."""
    if rows is None:
        pixels = {"backbone": "pixels", "layer": "input:flatten", "weights": "", "kind": "reference"}
        rows = [
            make_row(test=(0.941, 0.892, 0.969)),
            make_row(head="linear-svm", cv=0.944, test=(0.935, 0.884, 0.964)),
            make_row(head="rbf-svm", cv=0.962, test=(0.922, 0.868, 0.955)),
            make_row(cv=0.71, test=(0.68, 0.603, 0.749)) | pixels,
            make_row(
                kind="reference",
                cv=0.66,
                test=(0.64, 0.562, 0.712),
                weights="random, seed 0",
                store="random.h5",
            ),
        ]
        rows[0]["cv"]["mean"] = 0.965
        rows[2]["warnings"] = ["C = 100 is the edge of the grid"]
        comparisons = [
            make_comparison(1, 0.006, -0.013, 0.026, 0.62),
            make_comparison(2, 0.019, -0.006, 0.045, 0.25),
            make_comparison(3, 0.261, 0.19, 0.33, 1e-9),
            make_comparison(4, 0.301, 0.22, 0.37, 1e-11),
        ]
    return {
        "schema": "featx.results/1",
        "created": "2026-01-02T03:04:05+00:00",
        "dataset": {
            "name": "hymenoptera",
            "source": ["data/hymenoptera"],
            "stores": ["ants.h5"],
            "n_images": 397,
            "classes": ["ants", "bees"],
            "counts": {"train": {"ants": 123, "bees": 121}, "tuning": {}, "test": {"ants": 70, "bees": 83}},
            "splits": {"train": 244, "tuning": 0, "test": n_test, "origin": "the source's own val split"},
            "unlabelled": 0,
            "skipped": [],
            "audit": {},
            **dataset,
        },
        "settings": {"heads": ["logreg", "linear-svm", "rbf-svm"], "cv": 5, "seed": 0, "balanced": False},
        "rows": rows,
        "comparisons": comparisons or [],
        "best": best,
        "environment": {"python": "3.11.9", "cpus": 2, "versions": {"scikit-learn": "1.9.0"}},
        "command": "featx fit ants.h5 -o run",
    }


def save_run(folder: Path, results, truth=None, predicted=None) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    if truth is not None:
        classes = results["dataset"]["classes"]
        arrays = {
            "names": np.array([f"test/{i}.jpg".encode() for i in range(len(truth))]),
            "truth": np.array(truth),
            "classes": np.array(classes),
            f"probabilities_{results['best']}": np.eye(len(classes), dtype=np.float32)[predicted],
            f"oof_{results['best']}": np.full(len(truth), -1),
        }
        np.savez_compressed(folder / "predictions.npz", **arrays)
    return folder


@pytest.fixture(scope="session")
def build():
    """The builders above: test files cannot import a conftest."""
    return SimpleNamespace(
        row=make_row, comparison=make_comparison, results=make_results, save=save_run, evil=EVIL
    )


@pytest.fixture
def results():
    return copy.deepcopy(make_results())


@pytest.fixture
def run_folder(tmp_path, results):
    """153 test images: 66 of 70 ants and 78 of 83 bees are right."""
    truth = [0] * 70 + [1] * 83
    predicted = [0] * 66 + [1] * 4 + [1] * 78 + [0] * 5
    return save_run(tmp_path / "ants-run", results, truth, predicted)


@pytest.fixture
def evil_folder(tmp_path, results):
    """Every name that a user chooses is hostile."""
    dataset = results["dataset"]
    dataset.update(name=EVIL, source=[EVIL], stores=[EVIL], classes=[EVIL, "$x^$ ~~b~~"])
    dataset["counts"] = {"train": {EVIL: 3}, "test": {EVIL: 2, "$x^$ ~~b~~": 1}}
    dataset["skipped"] = [{"name": f"a/{EVIL}.jpg", "reason": "not an image: " + EVIL}]
    dataset["audit"] = {EVIL: [EVIL, 2]}
    results["rows"][0].update(backbone=EVIL, layer=EVIL, warnings=[EVIL], weights=EVIL)
    results["rows"][1].update(backbone=EVIL)
    results["command"] = f"featx fit '{EVIL}' ``` -o x"
    results["environment"] = {EVIL: EVIL}
    return save_run(tmp_path / "evil", results, [0, 0, 1], [0, 1, 1])
