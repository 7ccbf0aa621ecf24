"""Paired comparisons with the best row, read with due caution: several tests, one level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featx.evaluation.comparison import holm
from featx.report.wording import interval, is_number, p_value

SIGNIFICANT = 0.05
"""The level of the paired tests, over all of a run's comparisons together."""


def against_best(results: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Find the comparisons of the best row, by the other's index, each as best minus other.

    Each is a copy with ``adjusted``, its p-value (if it has one) corrected for their number: as it is
    stored, or here for runs of earlier versions.
    """
    best, found = results["best"], {}
    for comparison in results.get("comparisons") or []:
        c = dict(comparison)
        if c.get("b") == best:
            c |= {"a": best, "b": c["a"], "difference": -c["difference"]}
            c["low"], c["high"] = (
                -comparison[k] if is_number(comparison.get(k)) else None for k in ("high", "low")
            )
        if c.get("a") == best and is_number(c.get("difference")):
            found[c["b"]] = c
    tested = [c for c in found.values() if is_number(c.get("p_value"))]
    corrected = [c["p_adjusted"] for c in tested if is_number(c.get("p_adjusted"))]
    if len(corrected) < len(tested):
        corrected = holm([c["p_value"] for c in tested])
    for c, adjusted in zip(tested, corrected, strict=True):
        c["adjusted"] = adjusted
    return found


def differs(comparison: Mapping[str, Any]) -> bool:
    """Whether the corrected test tells the two apart; without a p-value, whether the interval does."""
    if "adjusted" in comparison:
        return bool(comparison["adjusted"] < SIGNIFICANT)
    low, high = comparison.get("low"), comparison.get("high")
    return is_number(low) and is_number(high) and (low > 0 or high < 0)


def figures(comparison: Mapping[str, Any]) -> str:
    """Write the difference with its interval and the p-value of its own test."""
    text = interval(comparison, key="difference", sign=True)
    return f"{text}, {p_value(comparison['p_value'])}" if is_number(comparison.get("p_value")) else text
