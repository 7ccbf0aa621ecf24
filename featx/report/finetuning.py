"""What fine-tuning gained over the best head, what it cost, and which of the two to use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featx.report.comparisons import differs
from featx.report.wording import (
    cross_validated,
    format_bytes,
    format_seconds,
    is_number,
    model_name,
    p_value,
    ranking,
    seconds_of,
)

__all__ = ["finetuning_sentences"]

_MODEL = "finetuned.featx"
"""Beside the model of the best head, in the run folder of `featx fit`."""

Row = Mapping[str, Any]


def finetuning_sentences(results: Mapping[str, Any], against: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Say whether fine-tuning is better than the best head, and for how much more compute.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    against : mapping
        Of :func:`featx.report.comparisons.against_best`.

    Returns
    -------
    list of str
        Empty where nothing was fine-tuned, or nothing else was tried.
    """
    rows, best = results["rows"], results["best"]
    if rows[best].get("kind") == "finetune":
        heads = [i for i in ranking(results) if rows[i].get("kind") == "head"]
        # The same comparison, seen from the other side.
        return _compared(results, heads[0], best, _turned(against.get(heads[0]))) if heads else []
    tuned = [i for i in ranking(results) if rows[i].get("kind") == "finetune"]
    if tuned:
        return _compared(results, best, tuned[0], against.get(tuned[0]))
    if (results.get("settings") or {}).get("finetune"):
        return [
            "The fine-tuned baseline that was asked for is not in these results: it has not come to its end. "
            "The same command goes on with it if it was interrupted, and begins again if it failed."
        ]
    return []


def _turned(comparison: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    turned = {"low": comparison.get("high"), "high": comparison.get("low")}
    turned = {key: -value if is_number(value) else None for key, value in turned.items()}
    return {**comparison, **turned, "difference": -comparison["difference"]}


def _compared(
    results: Mapping[str, Any], head: int, tuned: int, comparison: Mapping[str, Any] | None
) -> list[str]:
    """Compare the rows ``head`` and ``tuned``; the comparison is of the first minus the second."""
    rows = results["rows"]
    name, mine, its = model_name(rows[tuned], rows), rows[head], rows[tuned]
    name = f"{name[:1].upper()}{name[1:]}"
    than = "the best head" if mine.get("kind") == "head" else f"the best row, {model_name(mine, rows)}"
    cost = _cost(its)
    if comparison is None:
        return [
            f"{name} reached {cross_validated(its)} on the images that chose its epochs, against "
            f"{cross_validated(mine)} of {than}, which proves nothing: without a paired test on held-out "
            f"images, use the head{_times(its, mine, ', for fine-tuning took ')}.",
            *cost,
        ]
    gain = -comparison["difference"]
    figures = _points(gain)
    if is_number(comparison.get("low")) and is_number(comparison.get("high")):
        figures += f" points ({_points(-comparison['high'])} to {_points(-comparison['low'])})"
    else:
        figures += " points"
    verb = "gains" if gain >= 0 else "changes the test accuracy by"
    sentence = f"{name} {verb} {figures} over {than}" if gain >= 0 else f"{name} {verb} {figures} from {than}"
    sentence += f"{_times(its, mine, ' for ')}; {p_value(comparison.get('p_value'))}"
    return [f"{sentence}: {_advice(results, comparison, mine, its)}.", *cost]


def _advice(results: Mapping[str, Any], comparison: Mapping[str, Any], mine: Row, its: Row) -> str:
    """Say which one to use."""
    if differs(comparison) and comparison["difference"] < 0:
        # Only `featx fit` leaves two models.
        where = f", {_MODEL} in the run folder" if (results.get("settings") or {}).get("finetune") else ""
        return f"use the fine-tuned network{where}, where that is worth its cost"
    model = "the head" if mine.get("kind") == "head" else "the best row"
    if differs(comparison):
        return f"it is worse; use {model}"
    first, second = seconds_of(mine), seconds_of(its)
    if first and second and second < first:
        return "the two cannot be told apart, and fine-tuning took less time; use either"
    return f"the two cannot be told apart; use {model}, which costs less"


def _times(its: Row, mine: Row, before: str) -> str:
    """Write the ratio of the seconds, which for a head count its extraction."""
    first, second = seconds_of(mine), seconds_of(its)
    if not first or not second:
        return ""
    ratio = second / first
    text = f"{ratio:,.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 0.095 else f"{ratio:.2g}"
    return (
        f"{before}{text} times the compute ({format_seconds(second)} against {format_seconds(first)} with "
        "extraction)"
    )


def _cost(its: Row) -> list[str]:
    """Say what else the training took, as far as it is known."""
    parts = []
    trained, whole = its.get("n_parameters_trained"), its.get("n_parameters")
    if is_number(trained) and trained:
        of = f" of {whole:,}" if is_number(whole) else ""
        parts.append(f"trained {trained:,}{of} parameters")
    if its.get("peak_memory_bytes"):
        parts.append(f"needed up to {format_bytes(its['peak_memory_bytes'])} of memory")
    if is_number(its.get("energy_joules")):
        parts.append(f"used {_energy(its['energy_joules'])} of energy")
    if not parts:
        return []
    return [f"Fine-tuning {', '.join(parts[:-1])}{' and ' if len(parts) > 1 else ''}{parts[-1]}."]


def _energy(joules: float) -> str:
    """Write joules with a unit that people read.

    Examples
    --------
    >>> _energy(740.2), _energy(52_300), _energy(7_200_000)
    ('740 J', '52.3 kJ', '2.00 kWh')
    """
    if joules < 1000:
        return f"{joules:.0f} J"
    return f"{joules / 1000:.1f} kJ" if joules < 3.6e6 else f"{joules / 3.6e6:.2f} kWh"


def _points(value: float) -> str:
    """Write a difference of accuracies in points, with its sign.

    Examples
    --------
    >>> _points(0.0131), _points(-0.0001)
    ('+1.3', '+0.0')
    """
    return f"{round(100 * value, 1) + 0.0:+.1f}"
