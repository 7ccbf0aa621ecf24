"""What the audit found, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featx.report.wording import interval, is_number, listed, many, number, plain

SIGNIFICANT = 0.01
"""A shift with a smaller p-value is told: one of a hundred test splits without any is."""

_KNOWN = {
    "duplicates": (
        "test image is, byte for byte, in training too",
        "test images are, byte for byte, in training too",
    ),
    "near_duplicates": (
        "test image looks nearly like one of training",
        "test images look nearly like one of training",
    ),
    "near_within_training": (
        "training image has a copy or a lookalike in another fold",
        "training images have a copy or a lookalike in another fold",
    ),
    "conflicts": ("image stands under several labels", "images stand under several labels"),
    "small_classes": (
        "class has fewer images to learn from than there are folds",
        "classes have fewer images to learn from than there are folds",
    ),
    "shared_groups": (
        "group stands both in training and in the test",
        "groups stand both in training and in the test",
    ),
}
"""Findings by their key: what is said of one, and of several."""

_SAME_AS_DUPLICATES = "leaked_test"
_SHIFT = "shift"


def is_shifted(shift: object) -> bool:
    """Whether test images can be told from training images by more than chance.

    Examples
    --------
    >>> is_shifted({"auc": 0.9, "p_value": 1e-9}), is_shifted({"auc": 0.5, "p_value": 0.4}), is_shifted(None)
    (True, False, False)
    """
    p_value = shift.get("p_value") if isinstance(shift, Mapping) else None
    return is_number(p_value) and p_value < SIGNIFICANT


def audit_findings(audit: Mapping[str, Any], examples: int = 0) -> list[str]:
    """Say what the audit found, one phrase a finding.

    Parameters
    ----------
    audit : mapping
        Findings by key: a count, a list, or ``{"count": …, "examples": […]}``. A key that is not known is
        told by its own name.
    examples : int, default=0
        How many examples to name with each.

    Returns
    -------
    list of str
        Empty if nothing was found.

    Examples
    --------
    >>> audit_findings({"duplicates": {"count": 1, "examples": [["test/a.png", "train/b.png"]]}}, examples=3)
    ['1 test image is, byte for byte, in training too (test/a.png = train/b.png)']
    """
    findings = []
    for key, found in audit.items():
        if key == _SHIFT and is_shifted(found):
            findings.append(_shift(found, classes=bool(examples)))
        count, shown = _count(found)
        if not count or key in (_SAME_AS_DUPLICATES, _SHIFT):
            continue
        unknown = f"{plain(key).replace('_', ' ')}: {count:,}"
        text = many(count, *_KNOWN[key]) if key in _KNOWN else unknown
        if examples and shown:
            names = [_example(one) for one in shown[:examples]]
            rest = [""] * (count - len(names))
            text += f" ({listed([*names, *rest], limit=len(names))})"
        findings.append(text)
    return findings


def audit_gaps(audit: Mapping[str, Any]) -> list[str]:
    """Say what the audit did not look for."""
    near = audit.get("near_duplicates")
    if not isinstance(near, Mapping):
        return []
    if near.get("checked") is False:
        return ["Near-duplicates were not looked for: there are no perceptual hashes."]
    gaps = []
    if near.get("complete") is False:
        gaps.append("The search for near-duplicates was ended, so many images are alike: there may be more.")
    if without := near.get("without_hash"):
        gaps.append(
            f"{many(without, 'image has', 'images have')} no perceptual hash (a side below 32 pixels, or all "
            "of one grey), so that near-duplicates of them were not looked for."
        )
    return gaps


def _shift(shift: Mapping[str, Any], *, classes: bool) -> str:
    text = (
        f"test images can be told from training images of the same classes (AUC {interval(shift, key='auc')}"
    )
    by_class = shift.get("classes") or {}
    if classes and len(by_class) > 1:
        order = sorted(by_class, key=lambda name: -by_class[name])
        text += f"; {listed(f'{plain(name)} {number(by_class[name])}' for name in order)}"
    return f"{text})"


def _count(found: object) -> tuple[int, Sequence[Any]]:
    if isinstance(found, Mapping):
        count = found.get("count")
        shown = found.get("examples") or []
        return int(count) if is_number(count) else len(shown), shown
    if isinstance(found, Sequence) and not isinstance(found, str):
        return len(found), found
    return (int(found), []) if is_number(found) else (0, [])


def _example(found: object) -> str:
    if isinstance(found, Mapping):
        if "label" in found:
            return f"{plain(found['label'])}: {plain(found.get('count'))}"
        return plain(found.get("names") or found)
    if isinstance(found, Sequence) and not isinstance(found, str):
        return " = ".join(plain(one) for one in found[:2])
    return plain(found)
