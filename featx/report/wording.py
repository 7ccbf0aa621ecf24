"""How the report writes numbers, names and models: the same in the terminal, in Markdown and in HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from rich.filesize import decimal

from featx.records import escape_name

HEAD_TITLES = {
    "logreg": "logistic regression",
    "linear-svm": "linear SVM",
    "rbf-svm": "RBF SVM",
    "ridge": "ridge",
    "knn": "nearest neighbours",
    "mlp": "small neural network",
}
"""Heads in words; a head that is not here keeps its own name."""

METRIC_TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "accuracy_without_leaks": "accuracy without copies of training images",
    "balanced_accuracy_without_leaks": "balanced accuracy without copies of training images",
    "accuracy_without_lookalikes": "accuracy without copies and lookalikes of training images",
    "balanced_accuracy_without_lookalikes": "balanced accuracy without copies and lookalikes",
    "precision_macro": "macro precision",
    "recall_macro": "macro recall",
    "f1_macro": "macro F1",
    "log_loss": "log loss",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "ece": "expected calibration error",
    "top_5_accuracy": "top-5 accuracy",
}
"""Metrics in words; a metric that is not here keeps its own name."""

MISSING = "–"
"""What stands where there is no number."""


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value from a results file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: object, *, sign: bool = False) -> str:
    """Write a score with three decimals.

    Examples
    --------
    >>> number(0.95432), number(0.05, sign=True), number(None)
    ('0.954', '+0.050', '–')
    """
    if not is_number(value):
        return MISSING
    return f"{value:+.3f}" if sign else f"{value:.3f}"


def interval(score: Mapping[str, Any] | None, *, key: str = "value", sign: bool = False) -> str:
    """Write a number with its 95 % interval, if it has one.

    Parameters
    ----------
    score : mapping
        Holds the number under ``key`` and its interval under ``low`` and ``high``.
    key : str, default="value"
        ``"difference"`` for a comparison.
    sign : bool, default=False
        Write a plus as well.

    Examples
    --------
    >>> interval({"value": 0.954, "low": 0.909, "high": 0.977})
    '0.954 [0.909, 0.977]'
    """
    if not score or not is_number(score.get(key)):
        return MISSING
    text = number(score[key], sign=sign)
    if is_number(score.get("low")) and is_number(score.get("high")):
        text += f" [{number(score['low'], sign=sign)}, {number(score['high'], sign=sign)}]"
    return text


UNRELIABLE = "†"
"""Stands after an interval that cannot be trusted."""


def marked_interval(score: Mapping[str, Any] | None) -> str:
    """Write a score with its 95 % interval, and mark one that is unreliable.

    Examples
    --------
    >>> marked_interval({"value": 0.954, "low": 0.909, "high": 0.977, "reliable": False})
    '0.954 [0.909, 0.977] †'
    """
    text = interval(score)
    return f"{text} {UNRELIABLE}" if score and score.get("reliable") is False else text


def cross_validated(row: Mapping[str, Any]) -> str:
    """Write the mean and the standard deviation over folds: ``0.951 ± 0.012``."""
    cv = row.get("cv") or {}
    if not is_number(cv.get("mean")):
        return MISSING
    # One fold (a tuning split) has no spread to tell.
    several = len(cv.get("folds") or (0, 0)) > 1
    spread = f" ± {number(cv['sd'])}" if several and is_number(cv.get("sd")) else ""
    return number(cv["mean"]) + spread


def p_value(value: object) -> str:
    """Write a p-value as it is read aloud.

    Examples
    --------
    >>> p_value(0.00004), p_value(0.034), p_value(0.62)
    ('p < 0.001', 'p = 0.034', 'p = 0.62')
    """
    if not is_number(value):
        return "no p-value"
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def format_seconds(seconds: float | None) -> str:
    """Write a duration as people say it.

    Examples
    --------
    >>> [format_seconds(s) for s in (0.0042, 0.42, 7.3, 74, 3725, None)]
    ['4 ms', '0.42 s', '7.3 s', '1 min 14 s', '1 h 02 min', '–']
    """
    if seconds is None or not is_number(seconds):
        return MISSING
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_bytes(size: float | None) -> str:
    """Write a size in bytes with a decimal unit.

    Examples
    --------
    >>> format_bytes(1_234_567), format_bytes(None)
    ('1.2 MB', '–')
    """
    if size is None or not is_number(size) or size < 0:
        return MISSING
    return decimal(int(size))


def plain(value: object) -> str:
    r"""Write any value of a results file on one line of printable characters.

    Examples
    --------
    >>> plain({"C": 0.1, "gamma": "scale"}), plain([1, "a\nb"]), plain(None)
    ('C=0.1, gamma=scale', '1, a\\nb', '–')
    """
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(k)}={plain(v)}" for k, v in value.items()) or MISSING
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(plain(v) for v in value) or MISSING
    return escape_name(str(value))


def many(count: int, singular: str, plural: str = "") -> str:
    """Write a count with its noun.

    Examples
    --------
    >>> many(1, "image"), many(1200, "image"), many(2, "class", "classes")
    ('1 image', '1,200 images', '2 classes')
    """
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def listed(items: Iterable[str], limit: int = 5) -> str:
    """Join as people do, and say how many were left off.

    Examples
    --------
    >>> listed(["a", "b", "c"]), listed("abcdefg", limit=3)
    ('a, b and c', 'a, b, c and 4 more')
    """
    names = list(items)
    if len(names) > limit:
        return f"{', '.join(names[:limit])} and {len(names) - limit} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def backbone_name(row: Mapping[str, Any]) -> str:
    """Name the network of a row; random weights are part of the name."""
    name = plain(row.get("backbone"))
    if row.get("label"):
        return plain(row["label"])
    weights = str(row.get("weights") or "")
    # A reference is raw pixels or a network with random weights; nothing else.
    random = weights.startswith("random") or (not weights and is_reference(row) and name != "pixels")
    return f"{name} (random)" if random else name


def head_title(row: Mapping[str, Any]) -> str:
    """Write the head of a row in words."""
    if row.get("kind") == "finetune":
        return "fine-tuning"
    head = plain(row.get("head"))
    return HEAD_TITLES.get(head, head)


def model_name(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Name a row in a sentence; the layer is told only where the run has several for that backbone."""
    name = f"{head_title(row)} on {backbone_name(row)}"
    layers = {other.get("layer") for other in rows if backbone_name(other) == backbone_name(row)}
    return f"{name}, layer {plain(row.get('layer'))}" if len(layers) > 1 and row.get("layer") else name


def seconds_of(row: Mapping[str, Any]) -> float | None:
    """Add up what a row took, in seconds; None if nothing is known."""
    parts = [v for v in (row.get("seconds") or {}).values() if is_number(v)]
    return float(sum(parts)) if parts else None


def ranking(results: Mapping[str, Any]) -> list[int]:
    """Order the rows by cross-validation, best first; the winner leads its ties.

    Never by test score: an order that had seen the test images would invite a choice by them. A
    fine-tuned network that is not the winner comes last: its tuning score is of one fold, and of the
    best of several epochs there.

    Returns
    -------
    list of int
        Indices into ``results["rows"]``; rows without a cross-validation score come last.
    """
    rows, best = results["rows"], results.get("best")

    def key(index: int) -> tuple[bool, bool, float, bool, int]:
        mean = (rows[index].get("cv") or {}).get("mean")
        apart = rows[index].get("kind") == "finetune" and index != best
        return (apart, not is_number(mean), -mean if is_number(mean) else 0.0, index != best, index)

    return sorted(range(len(rows)), key=key)


def chooser(results: Mapping[str, Any]) -> str:
    """Say what the best row was chosen by: the source's tuning split if it has one, else folds."""
    if (results["dataset"].get("splits") or {}).get("tuning"):
        return "the tuning split"
    folds = max((len((row.get("cv") or {}).get("folds") or []) for row in results["rows"]), default=0)
    return "the tuning fold" if folds == 1 else "cross-validation"


def is_reference(row: Mapping[str, Any]) -> bool:
    """Whether the row's embeddings were learned from nothing: raw pixels or random weights."""
    return row.get("kind") == "reference"
