"""Pictures of learning and few-shot curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.report.pictures import ACCENT, FAINT, INK, OTHER, Picture, as_svg, new_figure
from featx.report.wording import interval, is_number, is_reference, model_name, ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CURVES = 12
"""Few-shot curves in one picture; the table beside it has them all."""


def draw_learning_curve(curves: Mapping[str, Any], salt: str = "") -> Picture | None:
    """Draw accuracy against the number of labels, and the fitted law up to twice as many.

    Parameters
    ----------
    curves : mapping
        What ``curves.json`` holds.
    salt : str, default=""
        Goes into the drawing's ids, so that those of two runs on one page differ.

    Returns
    -------
    Picture or None
        None where no learning curve was drawn.
    """
    learning = curves.get("learning") or {}
    points = [point for point in learning.get("points") or [] if is_number(point.get("n"))]
    law, doubled = learning.get("law") or {}, learning.get("doubled") or {}
    if not points or not all(is_number(doubled.get(key)) for key in ("value", "low", "high")):
        return None
    if not all(is_number(law.get(key)) for key in ("asymptote", "scale", "exponent", "unit")):
        return None
    sizes, last = [point["n"] for point in points], learning["n_doubled"]
    with new_figure(4.8, 3.2) as figure:
        axes = figure.add_subplot()
        x = np.geomspace(sizes[0], last, 100)
        y = 1 - law["asymptote"] - law["scale"] * (x / law["unit"]) ** -law["exponent"]
        axes.plot(x, y, color=ACCENT, linewidth=1.2, linestyle=(0, (4, 2)))
        _with_intervals(axes, sizes, [point["accuracy"] for point in points], INK, "o")
        _with_intervals(axes, [last], [doubled], ACCENT, "D")
        _log_axis(axes, [*sizes[::2], last] if len(sizes) > 4 else [*sizes, last])
        axes.set_xlabel("labelled images")
        axes.set_ylabel("accuracy")
        caption = (
            "Learning curve of the best model: mean accuracy of the draws with its 95 % interval; the "
            "diamond is what twice the labels would bring, with the fitted law."
        )
        spoken = "; ".join(f"{round(point['n'])} labels: {interval(point['accuracy'])}" for point in points)
        spoken += f"; {last} labels, extrapolated: {interval(doubled)}"
        return Picture(as_svg(figure, caption, spoken, salt), caption)


def draw_few_shot(results: Mapping[str, Any], curves: Mapping[str, Any], salt: str = "") -> Picture | None:
    """Draw accuracy against images per class, one curve a row.

    Parameters
    ----------
    results, curves : mapping
        What ``results.json`` and ``curves.json`` hold.
    salt : str, default=""
        As for :func:`draw_learning_curve`.

    Returns
    -------
    Picture or None
        None with fewer than two numbers of shots.
    """
    few = curves.get("few_shot") or {}
    shots, rows = few.get("shots") or [], results["rows"]
    drawn = {entry.get("row"): entry.get("points") or [] for entry in few.get("rows") or []}
    order = [index for index in ranking(results) if len(drawn.get(index, ())) == len(shots)]
    shown = order[:MOST_CURVES]
    if len(shots) < 2 or not shown:
        return None
    with new_figure(4.8, 3.2) as figure:
        axes = figure.add_subplot()
        # The best last, so that no other lies on it.
        for index in sorted(shown, key=lambda index: index == results.get("best")):
            best = index == results.get("best")
            colour = ACCENT if best else OTHER if is_reference(rows[index]) else INK
            scores = [point["accuracy"] for point in drawn[index]]
            axes.plot(shots, [score["value"] for score in scores], color=colour, linewidth=2 if best else 0.8)
            _with_intervals(
                axes, shots, scores, colour, "D" if best else "s" if is_reference(rows[index]) else "o"
            )
        _log_axis(axes, shots)
        axes.set_xlabel("images per class")
        axes.set_ylabel("accuracy")
        left_out = f" The first {len(shown)} of {len(order)}." if len(order) > len(shown) else ""
        caption = (
            "Few-shot accuracy, mean of the draws with its 95 % interval; diamonds: the chosen model; "
            f"squares: references.{left_out}"
        )
        spoken = "; ".join(
            f"{model_name(rows[index], rows)}: "
            + ", ".join(
                f"{s} a class {interval(p['accuracy'])}" for s, p in zip(shots, drawn[index], strict=True)
            )
            for index in shown
        )
        return Picture(as_svg(figure, caption, spoken, salt), caption)


def _with_intervals(
    axes: Axes, x: Sequence[float], scores: Sequence[Mapping[str, float]], colour: str, marker: str
) -> None:
    for place, score in zip(x, scores, strict=True):
        axes.plot([place, place], [score["low"], score["high"]], color=colour, linewidth=1.2)
    axes.plot(x, [score["value"] for score in scores], marker, color=colour, markersize=5)


def _log_axis(axes: Axes, ticks: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{round(tick):,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
