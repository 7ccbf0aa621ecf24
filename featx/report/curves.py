"""What a run's curves and repeats say: with more labels, with few, and with other seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featx.report.tables import Table
from featx.report.wording import (
    format_seconds,
    interval,
    is_number,
    many,
    model_name,
    number,
    plain,
    ranking,
)

__all__ = ["CurveSection", "curve_notes", "curve_sections", "curve_sentences"]

_SURE = 0.001
"""A gain whose interval begins above a tenth of a point is one; a difference that small is none."""

_LITTLE = 0.005
"""A gain of at most half a point is little, whatever its sign."""


@dataclass(frozen=True, slots=True)
class CurveSection:
    """One section of a report: what it says first, its table, and what must be known to read it."""

    key: str
    title: str
    sentences: tuple[str, ...]
    table: Table | None
    notes: tuple[str, ...] = ()


def curve_sections(results: Mapping[str, Any], curves: Mapping[str, Any]) -> tuple[CurveSection, ...]:
    """Give the sections of a run's curves and repeats; none where there are none.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    curves : mapping
        What ``curves.json`` holds; empty if there is no such file.
    """
    found = (_training(curves), _learning(results, curves), _few_shot(results, curves), _repeats(results))
    return tuple(section for section in found if section is not None)


def curve_sentences(curves: Mapping[str, Any]) -> list[str]:
    """Say what twice the labels would bring.

    Parameters
    ----------
    curves : mapping
        What ``curves.json`` holds.

    Returns
    -------
    list of str
        Empty where no learning curve was drawn.

    Examples
    --------
    >>> gain = {"value": 0.008, "low": 0.002, "high": 0.015}
    >>> doubled = {"value": 0.961, "low": 0.948, "high": 0.972}
    >>> curve_sentences({"learning": {"n_doubled": 488, "doubled": doubled, "gain": gain}})
    ['Twice the labels (488) would bring about 0.961 [0.948, 0.972], +0.8 points [+0.2, +1.5].']
    """
    learning = curves.get("learning") or {}
    doubled, gain = learning.get("doubled"), learning.get("gain")
    if not isinstance(doubled, Mapping) or not isinstance(gain, Mapping) or not is_number(gain.get("value")):
        return []
    labels = f"wice the labels ({_count(learning.get('n_doubled'))}) would bring"
    figures = f"about {interval(doubled)}, {_points(gain['value'])} points"
    figures += f" [{_points(gain.get('low'))}, {_points(gain.get('high'))}]"
    if is_number(gain.get("high")) and gain["high"] < _LITTLE:
        return [f"T{labels} little: {figures}."]
    if is_number(gain.get("low")) and gain["low"] < _SURE:
        return [f"Whether t{labels} anything cannot be told: {figures}."]
    return [f"T{labels} {figures}."]


def curve_notes(curves: Mapping[str, Any]) -> list[str]:
    """Collect the notes of all curves, each said once."""
    parts = [curves.get(key) or {} for key in ("learning", "few_shot")]
    return list(dict.fromkeys(plain(note) for part in parts for note in part.get("notes") or ()))


def _training(curves: Mapping[str, Any]) -> CurveSection | None:
    trainings = curves.get("training")
    lines = []
    for name, entries in trainings.items() if isinstance(trainings, Mapping) else ():
        ended = [one for one in entries if isinstance(one, Mapping) and is_number(one.get("epoch"))]
        if not ended:
            continue
        scored = [one for one in ended if is_number(one.get("tuning_accuracy"))]
        best = max(scored, key=lambda one: one["tuning_accuracy"], default={})
        seconds = [one.get("seconds") for one in ended]
        lines.append(
            (
                plain(name),
                str(len(ended)),
                number(ended[-1].get("loss")),
                number(best.get("tuning_accuracy")),
                plain(best.get("epoch")),
                format_seconds(sum(s for s in seconds if is_number(s))),
            )
        )
    if not lines:
        return None
    columns = ("training", "epochs", "last loss", "best on the tuning images", "at epoch", "time")
    note = (
        "Losses are of the images as they were augmented. The accuracy on the tuning images chose the epoch "
        "and the learning rate, so it leans to the optimistic side and has no interval."
    )
    table = Table(columns, tuple(lines), frozenset({1, 2, 3, 4, 5}), None, note)
    return CurveSection("training", "The training of the baseline", (), table)


def _learning(results: Mapping[str, Any], curves: Mapping[str, Any]) -> CurveSection | None:
    learning = curves.get("learning")
    if not learning:
        return None
    rows, index = results["rows"], learning.get("row")
    named = (
        model_name(rows[index], rows)
        if isinstance(index, int) and 0 <= index < len(rows)
        else "the best model"
    )
    notes = tuple(plain(note) for note in learning.get("notes") or ())
    points = learning.get("points") or []
    if not points:
        return CurveSection("learning", "With more labels", (), None, notes)
    lines = [(_count(point.get("n")), interval(point.get("accuracy"))) for point in points[:-1]]
    last = points[-1]
    lines.append((_count(last.get("n")), number((last.get("accuracy") or {}).get("value"))))
    lines.append((f"{_count(learning.get('n_doubled'))} (extrapolated)", interval(learning.get("doubled"))))
    note = (
        f"{named[:1].upper()}{named[1:]}, fitted and tuned on growing parts of its labels, scored on "
        f"{plain(learning.get('of'))}: mean of {many(int(learning.get('draws') or 0), 'draw')}, with its "
        "95 % interval over draws. "
        f"Extrapolated by the power law {_law(learning)}, fitted to these sizes (Cortes et al. 1994); "
        "its interval is of the accuracy to expect of labels and test images like these, resampled."
    )
    table = Table(("labelled images", "accuracy"), tuple(lines), frozenset({0}), None, note)
    return CurveSection("learning", "With more labels", tuple(curve_sentences(curves)), table, notes)


def _few_shot(results: Mapping[str, Any], curves: Mapping[str, Any]) -> CurveSection | None:
    few = curves.get("few_shot")
    if not few:
        return None
    notes = tuple(plain(note) for note in few.get("notes") or ())
    shots, rows = few.get("shots") or [], results["rows"]
    if not shots:
        return CurveSection("few-shot", "With few labels", (), None, notes)
    drawn = {entry.get("row"): entry.get("points") or [] for entry in few.get("rows") or []}
    order = [index for index in ranking(results) if index in drawn]
    lines = [
        (model_name(rows[index], rows), *(interval(point.get("accuracy")) for point in drawn[index]))
        for index in order
    ]
    columns = ("model", *(many(s, "image") + " a class" for s in shots))
    note = (
        f"Mean test accuracy of {many(int(few.get('draws') or 0), 'draw')}, with its 95 % interval over "
        f"draws alone, on {plain(few.get('of'))}. Tuned by folds among the drawn images; where a class has "
        "one of them, the classifier is taken as it is least regularised, without scaling."
    )
    best = order.index(results["best"]) if results.get("best") in order else None
    table = Table(columns, tuple(lines), frozenset(range(1, len(columns))), best, note)
    return CurveSection("few-shot", "With few labels", (), table, notes)


def _repeats(results: Mapping[str, Any]) -> CurveSection | None:
    rows = results["rows"]
    repeated = [index for index in ranking(results) if rows[index].get("repeats")]
    if not repeated:
        return None
    lines = []
    for index in repeated:
        found = rows[index]["repeats"]
        test, seeds = found.get("test") or [], found.get("seeds") or []
        lines.append(
            (
                model_name(rows[index], rows),
                f"{number(found.get('mean'))} ± {number(found.get('sd'))}",
                f"{number(min(test, default=None))} to {number(max(test, default=None))}",
                f"{plain(found.get('won'))} of {len(seeds)}",
            )
        )
    columns = ("model", "test accuracy, mean ± sd", "smallest to largest", "best by tuning")
    seeds = rows[repeated[0]]["repeats"].get("seeds") or []
    note = (
        f"The whole protocol with {many(len(seeds), 'seed')}; everything else in this report is of the "
        "first. The standard deviation is of single runs, and is no interval."
    )
    best = repeated.index(results["best"]) if results.get("best") in repeated else None
    return CurveSection(
        "repeats", "With other seeds", (), Table(columns, tuple(lines), frozenset({1, 2, 3}), best, note)
    )


def _points(value: object) -> str:
    """Write a difference of accuracies in points, with its sign.

    Examples
    --------
    >>> _points(0.0084), _points(-0.0001), _points(None)
    ('+0.8', '+0.0', '–')
    """
    if not is_number(value):
        return plain(None)
    return f"{round(100 * value, 1) + 0.0:+.1f}"


def _count(value: object) -> str:
    return f"{round(value):,}" if is_number(value) else plain(None)


def _law(learning: Mapping[str, Any]) -> str:
    law = learning.get("law") or {}
    parts: Sequence[object] = [law.get(name) for name in ("asymptote", "scale", "unit", "exponent")]
    if not all(is_number(part) for part in parts):
        return plain(None)
    asymptote, scale, unit, exponent = parts
    return f"error = {asymptote:.3f} + {scale:.3f} (n / {unit:.0f})^-{exponent:.2f}"
