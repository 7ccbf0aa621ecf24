"""How much faster does ``featx.tune`` choose and fit a head than scikit-learn's ``GridSearchCV``?

Both get the same rows, labels, folds and grid. Every run is a process of its own, of which the call alone is
timed, without imports; the contestants take turns, and medians are compared. The reference is the head's own
pipeline (standardisation, then the classifier) in ``GridSearchCV``, once as it comes (``n_jobs=None``; BLAS
takes all processors), once the same with one BLAS thread (on a machine whose processors are also others', two
threads that wait for each other can take ten times as long as one), and once with ``n_jobs=-1``, which starts
its workers in the call. All refit the winner
on all rows; ``tune`` also gives the machines probabilities, which the reference has not.

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
import os
import statistics
import subprocess
import sys
import time
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
CONTESTANTS = ("featx", "default", "one BLAS thread", "n_jobs=-1")
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


def run_child(name: str, contestant: str) -> None:
    """Time one call and print what it found."""
    case = CASES[name]
    head = find_head(case["head"])
    X, y = embeddings(case["n"], case["d"], case["classes"])
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(X, y))
    started = time.perf_counter()
    if contestant == "featx":
        tuned = featx.tune(head, X, y, grid=head.grid, cv=folds, jobs=-1)
        seconds = time.perf_counter() - started
        best, params = tuned.best_index_, tuned.best_params_
        scores = tuned.cv_scores_.mean(axis=1)
    else:
        grid = {f"classifier__{key}": list(values) for key, values in head.grid.items()}
        jobs = -1 if contestant == "n_jobs=-1" else None
        searched = GridSearchCV(head.build(0), grid, cv=folds, n_jobs=jobs).fit(X, y)
        seconds = time.perf_counter() - started
        best, scores = int(searched.best_index_), searched.cv_results_["mean_test_score"]
        params = {key.removeprefix("classifier__"): value for key, value in searched.best_params_.items()}
    print(json.dumps({"seconds": seconds, "best": best, "params": params, "scores": scores.tolist()}))


def ask_child(name: str, contestant: str) -> dict[str, Any]:
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    if contestant == "one BLAS thread":
        environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, "--child", name, contestant]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        raise SystemExit(f"{contestant} ended with {done.returncode} on {name}: {done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def measure(name: str, repeats: int) -> dict[str, Any]:
    case = CASES[name]
    answers: dict[str, list[dict[str, Any]]] = {contestant: [] for contestant in CONTESTANTS}
    for _ in range(repeats):
        for contestant in CONTESTANTS:
            answers[contestant].append(ask_child(name, contestant))
    seconds = {key: [one["seconds"] for one in runs] for key, runs in answers.items()}
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    ours, theirs = answers["featx"][0], answers["default"][0]
    scores, reference = np.array(ours["scores"]), np.array(theirs["scores"])
    best, wanted = ours["best"], theirs["best"]
    near = slice(max(best - 1, 0), best + 2)
    return {
        **case,
        "folds": FOLDS,
        "grid": {key: list(values) for key, values in find_head(case["head"]).grid.items()},
        "seconds": {key: [round(value, 3) for value in values] for key, values in seconds.items()},
        "median_seconds": {key: round(value, 3) for key, value in medians.items()},
        "times_default": round(medians["default"] / medians["featx"], 2),
        "times_one_thread": round(medians["one BLAS thread"] / medians["featx"], 2),
        "times_all_jobs": round(medians["n_jobs=-1"] / medians["featx"], 2),
        "choice": ours["params"],
        "choice_of_reference": theirs["params"],
        "reference_score_lost": round(float(reference[wanted] - reference[best]), 5),
        "largest_difference_near_choice": round(float(np.abs(scores[near] - reference[near]).max()), 5),
        "mean_score": round(float(scores[best]), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=CASES, action="append", help="One of the cases; repeat for more.")
    parser.add_argument("--repeats", type=int, help="Instead of each case's own.")
    parser.add_argument("--output", type=Path, help="Write the figures as JSON.")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_child(*arguments.child)
        return
    results = {}
    for name in arguments.only or CASES:
        case = CASES[name]
        results[name] = found = measure(name, arguments.repeats or case["repeats"])
        took = found["median_seconds"]
        print(
            f"{name} (N={case['n']}, d={case['d']}): {took['featx']} s; default {took['default']} s, "
            f"{found['times_default']} times; one BLAS thread {took['one BLAS thread']} s, "
            f"{found['times_one_thread']} times; n_jobs=-1 {took['n_jobs=-1']} s, "
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
