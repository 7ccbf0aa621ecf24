"""How much faster does ``featx.tune`` choose and fit a head than scikit-learn's ``GridSearchCV``?

Both get the same rows, labels, folds and grid, in one process, and take turns; medians are compared. The
reference is the head's own pipeline (standardisation, then the classifier) in ``GridSearchCV``, once as it
comes (``n_jobs=None``; BLAS takes all processors) and once with ``n_jobs=-1``. Both refit the winner on all
rows; ``tune`` also gives the machines probabilities, which the reference has not.

The rows imitate the embeddings of images: ReLU features with a spectrum that falls as a power law, classes
that overlap, and a share of labels that are wrong, so that neither search is spared the hard values of C.

After the timing, the choices are compared: the same value, or two whose reference scores differ by less
than one image; and the mean fold scores at the choice and its neighbours.

::

    python benchmarks/bench_heads.py --output benchmarks/results/heads.json
    python benchmarks/bench_heads.py --only logreg --repeats 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import GridSearchCV, StratifiedKFold

import featx
from featx.environment import environment
from featx.heads import find_head

CASES: dict[str, dict[str, Any]] = {
    "logreg": {"head": "logreg", "n": 4000, "d": 512, "classes": 10, "repeats": 5},
    "logreg, wide": {"head": "logreg", "n": 300, "d": 4096, "classes": 4, "repeats": 5},
    "linear SVM": {"head": "linear-svm", "n": 4000, "d": 512, "classes": 10, "repeats": 3},
    "linear SVM, wide": {"head": "linear-svm", "n": 300, "d": 4096, "classes": 4, "repeats": 5},
    "RBF SVM": {"head": "rbf-svm", "n": 4000, "d": 512, "classes": 10, "repeats": 3},
    "RBF SVM, wide": {"head": "rbf-svm", "n": 300, "d": 4096, "classes": 4, "repeats": 5},
    "ridge": {"head": "ridge", "n": 4000, "d": 512, "classes": 10, "repeats": 5},
    "k-nearest neighbours": {"head": "knn", "n": 4000, "d": 512, "classes": 10, "repeats": 5},
}
FOLDS = 5
WRONG_LABELS = 0.05


def embeddings(n: int, d: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of shape (n, d) in float32 and labels, of which some are wrong."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=n)
    spread = np.arange(1, d + 1) ** -0.7
    noise = rng.normal(size=(n, d)) * spread
    mixed = noise @ np.linalg.qr(rng.normal(size=(d, d)))[0].T * 3
    X = np.maximum(mixed + 0.015 * rng.normal(size=(classes, d))[y] + 0.2, 0)
    wrong = rng.random(n) < WRONG_LABELS
    y[wrong] = rng.integers(classes, size=int(wrong.sum()))
    return X.astype(np.float32), y


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def measure(case: dict[str, Any], repeats: int) -> dict[str, Any]:
    head = find_head(case["head"])
    X, y = embeddings(case["n"], case["d"], case["classes"])
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(X, y))
    grid = {f"classifier__{name}": list(values) for name, values in head.grid.items()}

    def reference(jobs: int | None) -> GridSearchCV:
        return GridSearchCV(head.build(0), grid, cv=folds, n_jobs=jobs).fit(X, y)

    runs: dict[str, Callable[[], Any]] = {
        "featx": lambda: featx.tune(head, X, y, grid=head.grid, cv=folds, jobs=-1),
        "default": lambda: reference(None),
        "n_jobs=-1": lambda: reference(-1),
    }
    featx.tune(head, X[::10], y[::10], grid=head.grid, cv=3, jobs=-1)  # imports and thread pools
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    found: dict[str, Any] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            took, found[name] = timed(run)
            seconds[name].append(took)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    tuned, searched = found["featx"], found["default"]
    scores = searched.cv_results_["mean_test_score"]
    best, wanted = tuned.best_index_, int(searched.best_index_)
    near = slice(max(best - 1, 0), best + 2)
    return {
        **case,
        "folds": FOLDS,
        "grid": {name: list(values) for name, values in head.grid.items()},
        "repeats": repeats,
        "seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "median_seconds": {name: round(value, 3) for name, value in medians.items()},
        "times_default": round(medians["default"] / medians["featx"], 2),
        "times_all_jobs": round(medians["n_jobs=-1"] / medians["featx"], 2),
        "choice": tuned.best_params_,
        "choice_of_reference": {
            name.removeprefix("classifier__"): value for name, value in searched.best_params_.items()
        },
        "reference_score_lost": round(float(scores[wanted] - scores[best]), 5),
        "largest_difference_near_choice": round(
            float(np.abs(tuned.cv_scores_.mean(axis=1)[near] - scores[near]).max()), 5
        ),
        "mean_score": round(tuned.mean_score_, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=CASES, action="append", help="One of the cases; repeat for more.")
    parser.add_argument("--repeats", type=int, help="Instead of each case's own.")
    parser.add_argument("--output", type=Path, help="Write the figures as JSON.")
    arguments = parser.parse_args()
    results = {}
    for name in arguments.only or CASES:
        case = CASES[name]
        results[name] = found = measure(case, arguments.repeats or case["repeats"])
        took = found["median_seconds"]
        print(
            f"{name} (N={case['n']}, d={case['d']}): {took['featx']} s; default {took['default']} s, "
            f"{found['times_default']} times; n_jobs=-1 {took['n_jobs=-1']} s, "
            f"{found['times_all_jobs']} times; "
            f"choice {found['choice']} and {found['choice_of_reference']}, "
            f"lost {found['reference_score_lost']}, score {found['mean_score']}",
            flush=True,
        )
    if arguments.output:
        arguments.output.write_text(
            json.dumps({"environment": environment(), "cases": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
