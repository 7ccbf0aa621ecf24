"""Pictures of what a score costs, in seconds and in depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featx.report.pictures import ACCENT, FAINT, INK, OTHER, Picture, as_svg, new_figure, score_of, shorten
from featx.report.wording import (
    backbone_name,
    format_seconds,
    head_title,
    interval,
    is_reference,
    model_name,
    plain,
    ranking,
    seconds_of,
)

MOST_BACKBONES = 4
"""Backbones whose depth is drawn."""

_TICKS = (0.001, 0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 36_000, 360_000)
_MOST_TICKS = 5


def draw_cost(results: Mapping[str, Any], salt: str = "") -> Picture | None:
    """Draw accuracy against all the seconds that a row took, and the front that nothing faster beats.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    salt : str, default=""
        Goes into the drawing's ids, so that those of two runs on one page differ.

    Returns
    -------
    Picture or None
        None with fewer than two rows that have both.
    """
    rows = results["rows"]
    tested = any((row.get("test") or {}).get("accuracy") for row in rows)
    points = []
    for place, index in enumerate(ranking(results), start=1):
        seconds, score = seconds_of(rows[index]), score_of(rows[index], tested)
        if seconds and score is not None:
            points.append((seconds, score, index, place))
    if len(points) < 2:
        return None
    front = pareto_front([(seconds, score["value"]) for seconds, score, _, _ in points])
    with new_figure(4.8, 3.4) as figure:
        axes = figure.add_subplot()
        axes.step(
            [points[at][0] for at in front],
            [points[at][1]["value"] for at in front],
            where="post",
            color=ACCENT,
            linewidth=1,
            linestyle=(0, (4, 2)),
        )
        for at, (seconds, score, index, place) in enumerate(points):
            row, best = rows[index], index == results.get("best")
            colour = ACCENT if best else OTHER if is_reference(row) else INK
            tuned = row.get("kind") == "finetune"
            marker = "D" if best else "^" if tuned else "s" if is_reference(row) else "o"
            axes.plot([seconds] * 2, [score["low"], score["high"]], color=colour, linewidth=1)
            axes.plot([seconds], [score["value"]], marker, color=colour, markersize=5)
            if best or tuned or at in front:
                # The chosen model's number stands below, since its rivals are often as good and as fast.
                beside = (5, -10) if best else (4, 4)
                style: dict[str, Any] = {"textcoords": "offset points", "color": colour, "fontsize": 9}
                axes.annotate(str(place), (seconds, score["value"]), beside, **style)
        axes.set_xscale("log")
        low, high = min(p[0] for p in points) / 1.5, max(p[0] for p in points) * 1.7
        axes.set_xlim(low, high)
        ticks = [tick for tick in _TICKS if low <= tick <= high]
        ticks = ticks[:: max(1, -(-len(ticks) // _MOST_TICKS))] or [min(p[0] for p in points)]
        axes.set_xticks(ticks, [format_seconds(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.locator_params(axis="y", nbins=5)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("time for embeddings, tuning and prediction")
        what = "test accuracy" if tested else "cross-validation accuracy"
        axes.set_ylabel(what)
        caption = (
            f"{what[:1].upper()}{what[1:]} against time, some with their rank; diamond: the chosen model; "
            "squares: references; triangles: fine-tuning; dashed: what no faster row reaches."
        )
        spoken = "; ".join(
            f"{model_name(rows[index], rows)}: {format_seconds(seconds)}, {interval(score)}"
            for seconds, score, index, _ in points
        )
        return Picture(as_svg(figure, caption, spoken, salt), caption)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Find the points that no cheaper one reaches or beats.

    Parameters
    ----------
    points : sequence of (cost, score)

    Returns
    -------
    list of int
        Their indices, cheapest first.

    Examples
    --------
    >>> pareto_front([(1, 0.8), (2, 0.7), (3, 0.9)])
    [0, 2]
    """
    front: list[int] = []
    for at in sorted(range(len(points)), key=lambda at: (points[at][0], -points[at][1])):
        if not front or points[at][1] > points[front[-1]][1]:
            front.append(at)
    return front


def draw_depths(results: Mapping[str, Any], salt: str = "") -> list[Picture]:
    """Draw the score over the layers of each backbone that has several.

    Parameters
    ----------
    results, salt
        As for :func:`draw_cost`.

    Returns
    -------
    list of Picture
        Of each layer the head that is best by cross-validation, in the order of the store; at most
        :data:`MOST_BACKBONES`.
    """
    rows = results["rows"]
    tested = any((row.get("test") or {}).get("accuracy") for row in rows)
    best: dict[str, dict[str, int]] = {}
    for index in ranking(results):
        if score_of(rows[index], tested) is not None and rows[index].get("kind") != "finetune":
            best.setdefault(backbone_name(rows[index]), {}).setdefault(plain(rows[index].get("layer")), index)
    several = {name: sorted(of.values()) for name, of in best.items() if len(of) > 1}
    return [
        _draw_depth(results, name, several[name], tested, salt) for name in list(several)[:MOST_BACKBONES]
    ]


def _draw_depth(
    results: Mapping[str, Any], name: str, indices: Sequence[int], tested: bool, salt: str
) -> Picture:
    rows = results["rows"]
    scores = [score_of(rows[index], tested) or {} for index in indices]
    with new_figure(4.8, 1.1 + 0.36 * len(indices)) as figure:
        axes = figure.add_subplot()
        axes.plot([s["value"] for s in scores], range(len(scores)), color=FAINT, linewidth=1)
        for place, (index, score) in enumerate(zip(indices, scores, strict=True)):
            chosen = index == results.get("best")
            colour = ACCENT if chosen else OTHER if is_reference(rows[index]) else INK
            axes.plot([score["low"], score["high"]], [place, place], color=colour, linewidth=2)
            axes.plot([score["value"]], [place], "D" if chosen else "o", color=colour, markersize=6)
        axes.set_yticks(range(len(indices)), [shorten(plain(rows[i].get("layer")), 30) for i in indices])
        axes.set_ylim(len(indices) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=4, min_n_ticks=3)
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.spines[["left", "top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        what = "test accuracy" if tested else "cross-validation accuracy"
        axes.set_xlabel(what)
        spread = "its 95 % interval" if tested else "standard deviation"
        caption = (
            f"Score over the layers of {name}: {what} with {spread}, of the best head of each by "
            "cross-validation, in the order in which the store has them."
        )
        spoken = "; ".join(
            f"{plain(rows[i].get('layer'))}, {head_title(rows[i])}: {interval(score)}"
            for i, score in zip(indices, scores, strict=True)
        )
        return Picture(as_svg(figure, caption, spoken, salt), caption)
