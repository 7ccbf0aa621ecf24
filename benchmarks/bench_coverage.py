"""How often does a 95 % interval of featx cover the truth?

Test sets are drawn from a process whose true scores are known: the logits of an image are normal, that of
its class higher by a skill; with groups, the skill varies from group to group. Each set is scored with
``featx.evaluation`` as ``featx fit`` does it, and the share of sets whose interval holds the truth is
counted; the truth is the score of 400,000 images. A second row, the same logits with noise, is compared with
the first, and once where both are equally good, for the share of false alarms at 5 %. ``flagged`` is the
share of sets in which the interval is called unreliable.

::

    python benchmarks/bench_coverage.py --output benchmarks/results/coverage.json
    python benchmarks/bench_coverage.py --sets 100 --sizes 150 --accuracies 0.98
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# After the path, so that a checkout works that is not installed.
import numpy as np  # noqa: E402
from scipy.optimize import brentq  # noqa: E402
from scipy.special import softmax  # noqa: E402

from featx.environment import environment  # noqa: E402
from featx.evaluation import assess, bootstrap, compare  # noqa: E402

TRUTH = 400_000
"""Images that the truth is taken from."""

SPREAD = 0.5
"""Standard deviation of the skill over groups; the noise of a logit has 1."""

LOW, HIGH = 0.92, 0.98


@dataclass(frozen=True)
class Cell:
    """One process and one size of its test sets.

    ``shares`` gives how often each class comes; ``sharpness`` is 1 for calibrated probabilities and more for
    overconfident ones; in ``pure`` groups all images are of one class.
    """

    n: int
    accuracy: float
    k: int
    groups: int | None = None
    shares: str = "even"
    sharpness: float = 1.5
    pure: bool = False

    def __str__(self) -> str:
        text = f"n {self.n}, accuracy {self.accuracy}, {self.k} classes"
        text += f", {self.groups} {'pure ' * self.pure}groups" if self.groups else ""
        text += ", a rare class" if self.shares == "rare" else ""
        return text + (", calibrated" if self.sharpness == 1 else "")


def probabilities_of_classes(cell: Cell) -> np.ndarray:
    """Chances of the classes; the largest is about twice the smallest, a rare one comes in 3 of 100."""
    shares = np.linspace(1, 2, cell.k)
    if cell.shares == "rare":
        shares[0] = 0.03 / 0.97 * shares[1:].sum()
    return shares / shares.sum()


def draw(cell: Cell, n: int, groups: int | None, skill: float, seed: int) -> tuple[Any, Any, Any]:
    """Give classes, logits (without sharpness) and group numbers of ``n`` images."""
    generator = np.random.default_rng(seed)
    chances = probabilities_of_classes(cell)
    codes = generator.choice(cell.k, size=n, p=chances)
    numbers, of_image = None, np.full(n, skill)
    if groups:
        numbers = np.arange(n) * groups // n
        of_image = of_image + SPREAD * generator.normal(size=groups)[numbers]
        if cell.pure:
            codes = generator.choice(cell.k, size=groups, p=chances)[numbers]
    logits = generator.normal(size=(n, cell.k))
    logits[np.arange(n), codes] += of_image
    return codes, logits, numbers


def skill_for(cell: Cell) -> float:
    """Find the skill that gives the accuracy."""
    generator = np.random.default_rng(1)
    others = generator.normal(size=(200_000, cell.k - 1)).max(axis=1)
    own = generator.normal(scale=np.hypot(1, SPREAD if cell.groups else 0), size=200_000)
    return float(brentq(lambda skill: (own + skill > others).mean() - cell.accuracy, -2, 12))


def second_row(codes: Any, logits: Any, penalty: float, seed: int) -> np.ndarray:
    """Predict from the same logits with noise."""
    noisy = logits + 0.6 * np.random.default_rng(seed).normal(size=logits.shape)
    noisy[np.arange(len(codes)), codes] -= penalty
    return noisy.argmax(axis=1)


def share(sums: np.ndarray) -> np.ndarray:
    """Accuracy from sums of hits and images."""
    return sums[:, 0] / sums[:, 1]


def simulate(cell: Cell, sets: int) -> dict[str, Any]:
    """Score ``sets`` sets and count the intervals that hold the truth."""
    started = time.perf_counter()
    skill = skill_for(cell)
    sharp = cell.sharpness * skill
    classes = np.arange(cell.k)
    large = TRUTH // max(1, cell.k // 4)
    # Each image a group of its own: the same distribution, and the truth is surer.
    codes, logits, _ = draw(cell, large, large if cell.groups else None, skill, 0)
    whole = assess(codes, softmax(sharp * logits, axis=1), classes, resamples=2)
    truth = {name: score.value for name, score in whole.scores.items()}
    for name in ("precision", "recall", "f1"):
        truth[f"{name} of the smallest class"] = getattr(whole.per_class[0], name).value
    right = [second_row(codes, logits, penalty, seed) == codes for seed, penalty in ((1, 0.0), (2, 0.5))]
    truth["difference of accuracies"] = float(right[0].mean() - right[1].mean())
    truth["difference of equals"] = 0.0

    covered, width, value, trusted = (defaultdict(list) for _ in range(4))
    alarms: dict[str, list[bool]] = defaultdict(list)
    for at in range(sets):
        codes, logits, numbers = draw(cell, cell.n, cell.groups, skill, 1000 + at)
        found = assess(codes, softmax(sharp * logits, axis=1), classes, groups=numbers)
        scores: dict[str, Any] = dict(found.scores)
        for name in ("precision", "recall", "f1"):
            scores[f"{name} of the smallest class"] = getattr(found.per_class[0], name)
        hits = (logits.argmax(axis=1) == codes).astype(float)
        plain = bootstrap(np.column_stack([hits, np.ones(cell.n)]), share, groups=numbers)
        rows = [
            second_row(codes, logits, penalty, seed * sets + at)
            for seed, penalty in ((1, 0.0), (2, 0.5), (3, 0.0))
        ]
        worse, equal = compare(rows, codes, 0, groups=numbers)
        scores |= {"difference of accuracies": worse, "difference of equals": equal}
        for name, score in scores.items():
            if score is not None:
                covered[name].append(score.low - 1e-9 <= truth[name] <= score.high + 1e-9)
                width[name].append(score.high - score.low)
                value[name].append(getattr(score, "value", getattr(score, "difference", 0.0)))
                trusted[name].append(getattr(score, "reliable", True))
        name = "accuracy, percentile bootstrap"
        truth[name] = truth["accuracy"]
        covered[name].append(plain.low <= truth[name] <= plain.high)
        width[name].append(plain.high - plain.low)
        value[name].append(plain.value)
        trusted[name].append(False)
        alarms["McNemar or sign flips"].append(equal.p_value <= 0.05)
        alarms["paired bootstrap"].append(equal.p_bootstrap <= 0.05)
    figures = {}
    for name in covered:
        figures[name] = {
            "truth": truth[name],
            "mean": float(np.mean(value[name])),
            "coverage": float(np.mean(covered[name])),
            "width": float(np.median(width[name])),
            "sets": len(covered[name]),
            "flagged": float(1 - np.mean(trusted[name])),
        }
    return {
        "cell": asdict(cell),
        "scores": figures,
        "false_alarms": {name: float(np.mean(each)) for name, each in alarms.items()},
        "seconds": time.perf_counter() - started,
    }


def cells(sizes: list[int], accuracies: list[float]) -> list[Cell]:
    found = []
    for n in sizes:
        for accuracy in accuracies:
            for k in (2, 4):
                found += [Cell(n, accuracy, k, groups) for groups in (None, 40, 10)]
                found.append(Cell(n, accuracy, k, sharpness=1.0))
            found += [Cell(n, accuracy, 20, groups) for groups in (None, 40)]
            found += [Cell(n, accuracy, 4, shares="rare"), Cell(n, accuracy, 4, 40, pure=True)]
    return found


def table(results: list[dict[str, Any]]) -> str:
    """One line for each score and kind of set: the least and the greatest coverage, and what lies outside."""
    kinds: dict[tuple[str, str], list[tuple[float, Cell, dict[str, Any]]]] = defaultdict(list)
    for result in results:
        cell = Cell(**result["cell"])
        kind = f"{cell.groups} {'pure ' * cell.pure}groups" if cell.groups else "no groups"
        kind += ", rare" if cell.shares == "rare" else ""
        for name, figures in result["scores"].items():
            kinds[name, kind].append((figures["coverage"], cell, figures))
    lines = []
    for (name, kind), found in sorted(kinds.items(), key=lambda item: item[0]):
        covers = [each[0] for each in found]
        outside = [(c, cell, f) for c, cell, f in found if not LOW <= c <= HIGH]
        unflagged = [
            f"{cell}: {c:.3f}, {1 - f['flagged']:.0%}" for c, cell, f in outside if f["flagged"] < 0.5
        ]
        lines.append(
            f"{name:34} {kind:16} {min(covers):.3f} to {max(covers):.3f}, "
            f"outside in {len(outside)} of {len(found)}"
            + ("; not called unreliable: " + "; ".join(unflagged) if unflagged else "")
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=1000, help="sets a cell")
    parser.add_argument("--sizes", type=int, nargs="+", default=[150, 500])
    parser.add_argument("--accuracies", type=float, nargs="+", default=[0.6, 0.8, 0.9, 0.95, 0.98])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    todo = cells(arguments.sizes, arguments.accuracies)
    results = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for result in pool.map(simulate, todo, [arguments.sets] * len(todo)):
            print(f"{Cell(**result['cell'])}: {result['seconds']:.0f} s", file=sys.stderr, flush=True)
            results.append(result)
    print(table(results))
    if arguments.output:
        report = {
            "question": __doc__.splitlines()[0],
            "sets": arguments.sets,
            "truth_images": TRUTH,
            "spread_of_groups": SPREAD,
            "cells": results,
            "environment": environment(),
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
