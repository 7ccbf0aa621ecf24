"""What to do next: more labels, of which class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featx.report.curves import curve_sentences
from featx.report.per_class import class_scores, confusion_matrix
from featx.report.wording import interval, is_number, plain

LEVEL = 0.05
"""Of the claim that a class is found less often than the others, shared among all classes."""


def advice(
    results: Mapping[str, Any], predictions: Mapping[str, Any], curves: Mapping[str, Any]
) -> list[str]:
    """Say what is worth trying next.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    predictions : mapping
        The arrays of ``predictions.npz``.
    curves : mapping
        What ``curves.json`` holds.

    Returns
    -------
    list of str
        What twice the labels would bring, where a learning curve was drawn; and the class that is found least
        often, if its interval lies below that of all images, even after Bonferroni's correction for the
        number of classes. Of images to look at, :func:`featx.report.verdict.verdict` tells.
    """
    return [*curve_sentences(curves), *_class(results, predictions)]


def _class(results: Mapping[str, Any], predictions: Mapping[str, Any]) -> list[str]:
    from featx.evaluation.intervals import wilson

    rows, best = results["rows"], results.get("best")
    row = rows[best] if isinstance(best, int) and 0 <= best < len(rows) else {}
    accuracy = (row.get("test") or {}).get("accuracy") or {}
    scores = [score for score in class_scores(results, predictions) if score.get("support")]
    if not is_number(accuracy.get("low")) or len(scores) < 2:
        return []
    found = []
    for score in scores:
        recall = score.get("recall") or {}
        corrected = wilson(score["right"], score["support"], 1 - LEVEL / len(scores))
        # The stored interval knows of groups, the corrected one of the number of classes.
        below = is_number(recall.get("high")) and max(recall["high"], corrected.high) < accuracy["low"]
        if below and recall.get("reliable") is not False:
            found.append((recall["value"], score))
    if not found:
        return ["No class can be shown to be found less often than the images are on the whole."]
    _, worst = min(found, key=lambda one: one[0])
    return [
        f"Of all classes, {plain(worst['name'])} is found least often: recall {interval(worst['recall'])}, "
        f"against an accuracy of {interval(accuracy)}{_taken_for(results, predictions, worst)}. Look at its "
        "images first; whether more labels of it would help, a run with them shows."
    ]


def _taken_for(results: Mapping[str, Any], predictions: Mapping[str, Any], worst: Mapping[str, Any]) -> str:
    """Say what the images of a class are taken for most often."""
    classes, matrix = results["dataset"].get("classes") or [], confusion_matrix(results, predictions)
    if matrix is None or worst["name"] not in classes:
        return ""
    at = classes.index(worst["name"])
    misses = matrix[at].copy()
    misses[at] = 0
    if not misses.sum():
        return ""
    most = int(misses.argmax())
    return f"; {misses[most]:,} of its {misses.sum():,} misses are taken for {plain(classes[most])}"
