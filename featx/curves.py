"""Learning and few-shot curves of a run: ``curves.json``, made after the results are out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from featx.dataset import LabelledSet
from featx.draws import gather
from featx.fitted import Task
from featx.learning import learning_curve, schedule
from featx.protocol import Plan
from featx.records import Progress, ProgressCallback
from featx.results import CURVES_SCHEMA, Results
from featx.shots import few_shot, usable_shots

__all__ = ["CurveOptions", "draw_curves"]


@dataclass(frozen=True, slots=True)
class CurveOptions:
    """What was asked for: ``shots`` and ``learning`` say which curves, the others how they are drawn."""

    shots: tuple[int, ...]
    learning: bool
    draws: int
    cv: int
    seed: int
    balanced: bool
    jobs: int | None

    @property
    def any(self) -> bool:
        """Whether there is a curve to draw."""
        return self.learning or bool(self.shots)


def draw_curves(
    results: Results,
    data: LabelledSet,
    tasks: Sequence[Task],
    plan: Plan,
    options: CurveOptions,
    on_progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Draw the curves that were asked for.

    Parameters
    ----------
    results : Results
    data : LabelledSet
    tasks : sequence of Task
        What each row of the results was fitted from.
    plan : Plan
    options : CurveOptions
    on_progress : callable, optional
        Called after each fit, in the stages ``learning curve`` and ``few-shot curves``.

    Returns
    -------
    dict
        ``schema``, ``learning`` and ``few_shot``, each None where it was not asked for. A curve that the
        labels do not allow has ``notes`` that say why, and no points.
    """
    return {
        "schema": CURVES_SCHEMA,
        "few_shot": _few_shot(data, tasks, plan, options, on_progress) if options.shots else None,
        "learning": _learning(results, data, tasks, plan, options, on_progress) if options.learning else None,
    }


def _learning(
    results: Results,
    data: LabelledSet,
    tasks: Sequence[Task],
    plan: Plan,
    options: CurveOptions,
    on_progress: ProgressCallback | None,
) -> dict[str, Any]:
    best = results.best
    material = gather(
        data,
        tasks[best],
        plan,
        cv=options.cv,
        seed=options.seed,
        balanced=options.balanced,
        jobs=options.jobs,
    )
    about = {"row": best, "metric": "accuracy", "of": _scored(plan), "seed": options.seed}
    drawn = schedule(material, options.draws)
    if drawn is None:
        note = (
            f"{len(plan.y)} labelled images to learn from are too few for a learning curve: its sizes "
            "begin with two images (or groups) of each class, and need twice as many at the least"
        )
        return {**about, "draws": 0, "points": [], "notes": [note]}
    predicted = results.predictions[best].probabilities.argmax(axis=1) == plan.truth
    order = {row: place for place, row in enumerate(plan.split.test.tolist())}
    full = [predicted[[order[row] for row in scored.tolist()]] for _, scored in plan.rounds]
    step = _stepper(on_progress, "learning curve", len(drawn.orders) * len(drawn.sizes))
    curve = learning_curve(material, drawn, full, len(plan.y), step)
    notes = []
    if len(drawn.orders) < options.draws:
        notes.append(f"{len(drawn.orders)} draws of each size instead of {options.draws}: the set is large")
    return {**about, "draws": len(drawn.orders), **curve, "notes": notes}


def _few_shot(
    data: LabelledSet,
    tasks: Sequence[Task],
    plan: Plan,
    options: CurveOptions,
    on_progress: ProgressCallback | None,
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    shots, notes = usable_shots([data.labels[learn] for learn, _ in plan.rounds], options.shots)
    step = _stepper(on_progress, "few-shot curves", len(tasks) * len(shots) * options.draws)
    for index, task in enumerate(tasks):
        material = gather(
            data, task, plan, cv=options.cv, seed=options.seed, balanced=options.balanced, jobs=options.jobs
        )
        rows.append({"row": index, "points": few_shot(material, shots, options.draws, step)})
    return {
        "metric": "accuracy",
        "of": _scored(plan),
        "seed": options.seed,
        "draws": options.draws,
        "shots": shots,
        "rows": rows,
        "notes": notes,
    }


def _scored(plan: Plan) -> str:
    """Say what the curves are scored on."""
    n = len(plan.split.test)
    if plan.split.is_whole:
        return f"the outer folds of all {n:,} labelled images, each draw on one that it was not drawn from"
    return f"the same {n:,} test images"


def _stepper(on_progress: ProgressCallback | None, stage: str, total: int) -> Callable[[], None]:
    done = 0
    if on_progress is not None and total:
        on_progress(Progress(stage, 0, total, "fits"))

    def step() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(Progress(stage, done, total, "fits"))

    return step
