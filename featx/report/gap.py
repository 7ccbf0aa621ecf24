"""The gap between the cross-validated and the test score, and what the audit thinks of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featx.evaluation.intervals import wilson
from featx.report.audit import is_shifted
from featx.report.wording import chooser, cross_validated, interval, is_number, many, number

FINDINGS = ("near_within_training", "shift")
"""Findings of the audit that the sentence tells."""


def gap_sentence(results: Mapping[str, Any]) -> str:
    """Say by how much the best model's score in the choice lies above its test score, and why.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds; ``best`` is the index of a row.

    Returns
    -------
    str
        Empty unless the score by which the model was chosen lies above the whole test interval, by more
        than the two scores may differ by chance.
    """
    row = results["rows"][results["best"]]
    # Weighed classes are chosen by balanced accuracy.
    accuracy = (row.get("test") or {}).get((row.get("cv") or {}).get("metric", "accuracy")) or {}
    mean, value, high = (row.get("cv") or {}).get("mean"), accuracy.get("value"), accuracy.get("high")
    if not is_number(mean) or not is_number(value) or not is_number(high) or mean <= high:
        return ""
    if not _is_more_than_chance(results["dataset"].get("splits") or {}, mean, value, high):
        return ""
    return (
        f"Its score by {chooser(results)}, {cross_validated(row)}, lies {number(mean - value)} above the "
        f"test score, {interval(accuracy)}, and above the whole interval: trust the test score; "
        f"{_opinion(results['dataset'].get('audit') or {}, high)}."
    )


def _is_more_than_chance(splits: Mapping[str, Any], mean: float, value: float, high: float) -> bool:
    """Whether the 95 % interval of the difference leaves out zero.

    Source
    ------
    Newcombe 1998, Interval estimation for the difference between independent proportions, method 10.
    """
    n = sum(int(splits.get(part) or 0) for part in ("train", "tuning"))
    low = wilson(round(min(max(mean, 0.0), 1.0) * n), n).low if n else mean
    return bool(mean - value > ((mean - low) ** 2 + (high - value) ** 2) ** 0.5)


def _opinion(audit: Mapping[str, Any], high: float) -> str:
    within, shift = audit.get("near_within_training"), audit.get("shift")
    reasons = []
    if within and within.get("count"):
        reasons.append(_alike(within, high))
    if is_shifted(shift):
        reasons.append(
            f"the test images can be told from training images of the same classes "
            f"(AUC {interval(shift, key='auc')}), as if they came from elsewhere"
        )
    if reasons:
        return f"the audit found that {', and that '.join(reasons)}"
    looked = []
    if within is not None and (audit.get("near_duplicates") or {}).get("checked"):
        looked.append("found no images that look alike in several folds")
    if shift:
        looked.append("could not tell the test images from training images")
    if not looked:
        return (
            "the audit could not look for a reason: the test images may come from elsewhere, or alike images "
            "(of one subject, one burst) stand in several folds"
        )
    return (
        f"the audit {' and '.join(looked)}: images of one subject that do not look alike may stand in "
        "several folds, which --group would keep together, or the test images may come from elsewhere"
    )


def _alike(within: Mapping[str, Any], high: float) -> str:
    """Say how many images have lookalikes between folds, and whether that explains the gap."""
    text = (
        f"{within['count']:,} of {many(int(within.get('of') or within['count']), 'cross-validated image')} "
        f"{'has' if within['count'] == 1 else 'have'} a copy or a lookalike in another fold"
    )
    rest = within.get("accuracy_without")
    if not rest or not is_number(rest.get("value")):
        return text
    explained = "which explains the gap" if rest["value"] <= high else "so that they are not all of it"
    return f"{text} (without them it is {interval(rest)}, {explained})"
