"""Which intervals of the best model are unreliable, and why, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featx.evaluation.intervals import interval_caution
from featx.evaluation.reliability import BY_CLASS, FEW_ERRORS, MANY_GROUPS, MANY_IN_CLASS
from featx.report.wording import is_number, many, plain


def cautions(results: Mapping[str, Any]) -> list[str]:
    """Say of the best model's scores which intervals cannot be trusted.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.

    Returns
    -------
    list of str
        A clause for each reason, none where all is well. The calibration error, whose interval is
        never reliable, is not mentioned.

    Examples
    --------
    >>> score = {"value": 0.9, "low": 0.8, "high": 0.95, "reliable": False}
    >>> row = {"test": {"accuracy": score}}
    >>> cautions({"best": 0, "rows": [row], "dataset": {"splits": {"test": 100, "test_groups": 10}}})
    ['only 10 groups in the test: none of the intervals is reliable']
    """
    row, splits = results["rows"][results["best"]], results["dataset"].get("splits") or {}
    test: Mapping[str, Mapping[str, Any]] = row.get("test") or {}
    n, groups, accuracy = (
        splits.get("test"),
        splits.get("test_groups"),
        (test.get("accuracy") or {}).get("value"),
    )
    if not is_number(n) or not n or not is_number(accuracy):
        return []
    errors = round((1 - accuracy) * n)
    if not any("reliable" in score for score in test.values()):
        # Of an earlier version, with intervals of the percentile bootstrap.
        reason = interval_caution(int(n), errors, groups)
        # Wilson's interval, which ungrouped accuracies have, holds there too.
        exception = "" if groups else ", but for that of the accuracy"
        return [f"{reason}{exception}"] if reason else []
    unreliable = {name for name, score in test.items() if score.get("reliable") is False}
    if groups and groups < MANY_GROUPS:
        return [f"only {many(groups, 'group')} in the test: none of the intervals is reliable"]
    found = []
    if "log_loss" in unreliable and errors < FEW_ERRORS:
        wrong = f"only {errors} of {n:,} test images {'is' if errors == 1 else 'are'} wrong"
        found.append(
            f"{wrong if errors else 'no test image is wrong'}: the interval of the log loss is unreliable"
        )
    if unreliable & BY_CLASS:
        found.append(
            f"{_small_class(row)}: the intervals of means over classes, as of macro F1, are unreliable"
        )
    return found


def _small_class(row: Mapping[str, Any]) -> str:
    """Say what is wrong with the smallest class."""
    there = [score for score in row.get("per_class") or () if score.get("support")]
    if there and (least := min(there, key=lambda score: int(score["support"])))["support"] < MANY_IN_CLASS:
        return f"only {many(least['support'], 'test image')} of class {plain(least['name'])}"
    return "a class is held by too few groups"
