"""The verdict: what a run showed, in plain sentences that claim no more than its tests carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featx.report.audit import audit_findings
from featx.report.cautions import cautions
from featx.report.comparisons import against_best, differs, figures
from featx.report.finetuning import finetuning_sentences
from featx.report.gap import FINDINGS, gap_sentence
from featx.report.wording import (
    chooser,
    cross_validated,
    interval,
    is_number,
    is_reference,
    listed,
    many,
    model_name,
    p_value,
    plain,
    ranking,
)

FEW_IMAGES = 50
"""Below this many test images the verdict warns of the width of the interval: at an accuracy of 0.8 it
is then more than 0.2 wide."""

_WITHOUT = {
    "leaks": "the test images that are in training",
    "lookalikes": "the test images that look nearly like one of training",
}
"""Test images that are left out, by the end of the scores' names."""

OFTEN = 0.1
"""Contradicting a larger share of the labels, a model is more likely wrong than they are: of the test sets
that people have used for years, 3.3 % of the labels are wrong on average (Northcutt, Athalye, Mueller 2021,
Pervasive Label Errors in Test Sets Destabilize Machine Learning Benchmarks)."""

Row = Mapping[str, Any]


def verdict(results: Mapping[str, Any]) -> list[str]:
    """Say what the run showed.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.

    Returns
    -------
    list of str
        Sentences, the most important first. A score comes with its interval wherever it has one, and two
        models are called different only if the paired test says so after Holm's correction
        for the number of comparisons (Holm, 1979, Scandinavian Journal of Statistics 6(2)).

    Examples
    --------
    >>> row = {"kind": "head", "backbone": "featx-tiny", "layer": "pool:flatten", "head": "logreg",
    ...        "cv": {"mean": 0.9, "sd": 0.02},
    ...        "test": {"accuracy": {"value": 0.88, "low": 0.82, "high": 0.92}}}
    >>> results = {"dataset": {"splits": {"test": 200}}, "rows": [row], "comparisons": [], "best": 0}
    >>> print(verdict(results)[0].partition(": ")[2])
    accuracy 0.880 [0.820, 0.920] on 200 test images.
    """
    rows, best = results["rows"], results.get("best")
    if not rows or not isinstance(best, int) or not 0 <= best < len(rows):
        return ["No model could be chosen: the run holds no scored row."]
    against = against_best(results)
    gap = gap_sentence(results)
    sentences = [_best(results), *([gap] if gap else [])]
    sentences += _others(results, against)
    sentences += _transfer(results, against)
    sentences += finetuning_sentences(results, against)
    sentences += _audit(results, told=FINDINGS if gap else ())
    sentences += _suspects(results)
    sentences += _reliability(results)
    return sentences


def _n_test(results: Mapping[str, Any]) -> int:
    return int((results["dataset"].get("splits") or {}).get("test") or 0)


def _accuracy(row: Row) -> Mapping[str, Any]:
    accuracy: Mapping[str, Any] = (row.get("test") or {}).get("accuracy") or {}
    return accuracy if is_number(accuracy.get("value")) else {}


def _best(results: Mapping[str, Any]) -> str:
    rows = results["rows"]
    row = rows[results["best"]]
    only = "The only model of this run" if len(rows) == 1 else f"The best model by {chooser(results)}"
    name = model_name(row, rows)
    if accuracy := _accuracy(row):
        n = _n_test(results)
        images = f" on {many(n, 'test image')}" if n else " on the test images"
        chosen_by = (row.get("cv") or {}).get("metric")
        weighed = (row.get("test") or {}).get(chosen_by) if chosen_by == "balanced_accuracy" else None
        also = f", balanced accuracy {interval(weighed)}" if weighed else ""
        return f"{only} is {name}: accuracy {interval(accuracy)}{also}{images}."
    metric = str((row.get("cv") or {}).get("metric") or "accuracy").replace("_", " ")
    text = f"{only} is {name}: {metric} {cross_validated(row)} by {chooser(results)}."
    return (
        f"{text} There is no test split: this score also chose the model, so it leans to the optimistic side."
    )


def _others(results: Mapping[str, Any], against: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """How the best compares with the other models that are no reference."""
    rows, best = results["rows"], results["best"]
    others = [i for i in ranking(results) if i != best and rows[i].get("kind") == "head"]
    if not others:
        return []
    if not any(i in against for i in others):
        why = "" if _accuracy(rows[best]) else ", since no images were held out for that"
        return [f"Whether it differs from the {many(len(others), 'other model')} was not tested{why}."]
    sentences = []
    following = others[0]
    if following in against:
        c = against[following]
        how = "cannot be told apart from it"
        if differs(c):
            how = "is worse" if c["difference"] > 0 else "scores higher on the test images"
        sentences.append(
            f"The next by {chooser(results)}, {model_name(rows[following], rows)}, {how} "
            f"(difference {figures(c)})."
        )
    rest = [against[i] for i in others[1:] if i in against]
    worse = sum(differs(c) and c["difference"] > 0 for c in rest)
    better = sum(differs(c) and c["difference"] < 0 for c in rest)
    same = len(rest) - worse - better
    if rest:
        parts = [
            f"{count:,} {text}"
            for count, text in (
                (same, "cannot be told apart from the best"),
                (worse, "is worse" if worse == 1 else "are worse"),
                (better, f"score{'s' * (better == 1)} higher on the test images"),
            )
            if count
        ]
        sentences.append(f"Of the {many(len(rest), 'further model')}, {listed(parts)}.")
    if len(rest) == same == 1:
        either = following in against and not differs(against[following])
        sentences[-1] = f"The third cannot be told apart from the best{' either' if either else ''}."
    elif rest and same == len(rest):
        sentences[-1] = f"None of the {len(rest):,} further models can be told apart from the best."
    if better or (
        following in against and differs(against[following]) and against[following]["difference"] < 0
    ):
        sentences.append(
            f"The choice stays with {chooser(results)}: choosing by test would spoil the test score."
        )
    return sentences


def _transfer(results: Mapping[str, Any], against: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Say what pretraining gained over the best reference, or that it did not."""
    rows, best, order = results["rows"], results["best"], ranking(results)
    references = [i for i in order if is_reference(rows[i])]
    learned = [i for i in order if not is_reference(rows[i])]
    if not references:
        return [
            "The run holds no reference (raw pixels or random weights), so it does not show what "
            "pretraining gained."
        ]
    if not learned:
        return ["Every row is a reference (raw pixels or random weights): nothing pretrained was tried."]
    if is_reference(rows[best]):
        return [_negative(results, against, learned[0])]
    reference = references[0]
    name = model_name(rows[reference], rows)
    c = against.get(reference)
    if c is None:
        return [
            f"By {chooser(results)} it reaches {cross_validated(rows[best])} against "
            f"{cross_validated(rows[reference])} of the best reference, {name}; without a paired test on "
            "held-out images the gain has no interval."
        ]
    if not differs(c):
        return [
            f"No gain from transfer could be shown: it cannot be told apart from the best reference, {name} "
            f"(difference {figures(c)})."
        ]
    if c["difference"] > 0:
        return [
            f"Transfer gained {interval(c, key='difference')} in accuracy over the best reference, {name} "
            f"({p_value(c.get('p_value'))})."
        ]
    return [
        f"Negative transfer: on the test images the best reference, {name}, beats it "
        f"(difference {figures(c)}); pretraining does not help on these images."
    ]


def _negative(results: Mapping[str, Any], against: Mapping[int, Mapping[str, Any]], learned: int) -> str:
    """Say that the best row is a reference, and how sure that is."""
    rows = results["rows"]
    name = model_name(rows[learned], rows)
    c = against.get(learned)
    if c is None:
        return (
            "A sign of negative transfer, not tested on held-out images: a reference, which learned "
            f"nothing from other images, comes first, ahead of the best pretrained model, {name} "
            f"({cross_validated(rows[learned])})."
        )
    if differs(c) and c["difference"] > 0:
        return (
            "Negative transfer: a reference, which learned nothing from other images, comes first, ahead of "
            f"the best pretrained model, {name} (difference {figures(c)})."
        )
    if differs(c):
        return (
            f"A reference, which learned nothing from other images, comes first by {chooser(results)}, but "
            f"the best pretrained model, {name}, scores higher on the test images (difference {figures(c)})."
        )
    return (
        f"A reference, which learned nothing from other images, comes first; the best pretrained model, "
        f"{name}, cannot be told apart from it (difference {figures(c)}): no gain from transfer was shown."
    )


def _audit(results: Mapping[str, Any], told: tuple[str, ...]) -> list[str]:
    """Say what the audit found, but for what was ``told`` before."""
    audit = results["dataset"].get("audit") or {}
    findings = audit_findings({key: found for key, found in audit.items() if key not in told})
    sentences = [f"The audit found: {'; '.join(findings)}."] if findings else []
    test = results["rows"][results["best"]].get("test") or {}
    n, leaked = _n_test(results), audit.get("leaked_test")
    if n and leaked == n:
        sentences.append("All test images are in training too: the test score says nothing of new images.")
    for kind, text in _WITHOUT.items():
        if kind == "lookalikes" and "accuracy_without_leaks" in test:
            text = f"these and {text}"
        if clean := test.get(f"accuracy_without_{kind}"):
            balanced = test.get(f"balanced_accuracy_without_{kind}")
            more = f", the balanced accuracy {interval(balanced)}" if balanced else ""
            sentences.append(f"Without {text}, the accuracy is {interval(clean)}{more}.")
    return sentences


def _suspects(results: Mapping[str, Any]) -> list[str]:
    """Say how many labels are suspected to be wrong, and how much the suspicion of this model is worth."""
    suspects = results.get("suspects") or {}
    count, checked = suspects.get("count"), suspects.get("checked")
    if not count or not checked:
        return []
    contradicted = max(int(suspects.get("contradicted") or 0), count)
    doubt = "it may as well be the model's own error"
    if contradicted > OFTEN * checked:
        doubt = f"a model that contradicts {contradicted / checked:.0%} of all labels is often wrong itself"
    are, them = ("is", "the image") if count == 1 else ("are", "the images")
    return [
        f"Of {many(checked, 'label')}, {count:,} {are} suspected to be wrong "
        f"({plain(suspects.get('method'))} on the best model's probabilities for images that it did not "
        f"learn from): look at {them} before anything is changed, for {doubt}."
    ]


def _reliability(results: Mapping[str, Any]) -> list[str]:
    row = results["rows"][results["best"]]
    sentences = []
    n, accuracy = _n_test(results), _accuracy(row)
    if accuracy and n:
        if n < FEW_IMAGES:
            sentences.append(f"With only {many(n, 'test image')}, its interval is wide.")
        sentences += [f"Caution: {caution}." for caution in cautions(results)]
    if skipped := len(results["dataset"].get("skipped") or []):
        sentences.append(f"Besides, {many(skipped, 'image')} could not be used.")
    if warnings := row.get("warnings"):
        sentences.append(f"Of the best model's fit it must be known: {listed(map(plain, warnings))}.")
    return sentences
