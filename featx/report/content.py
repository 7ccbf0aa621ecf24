"""What a report of one run says, before it becomes Markdown or HTML: sentences, tables, facts.

Everything here is text on one line, escaped of control characters; markup is the business of who
draws it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from featx.report.advice import advice
from featx.report.audit import audit_findings, audit_gaps
from featx.report.cautions import cautions
from featx.report.gallery import Mistake, mistakes
from featx.report.per_class import class_scores
from featx.report.runs import Run
from featx.report.tables import Table, leaderboard, legend
from featx.report.verdict import verdict
from featx.report.wording import (
    METRIC_TITLES,
    MISSING,
    is_number,
    listed,
    many,
    marked_interval,
    number,
    plain,
    ranking,
)

MOST_SKIPPED = 200
"""Skipped images that a report lists; the rest are counted."""

MISTAKES = "The most confident mistakes"
"""The heading over the test images that the best model gets wrong."""

MOST_MISTAKES = 20
"""Mistakes that a report lists; all are in predictions.npz."""

SUSPECTS = "Images to look at: their labels may be wrong"
"""The heading over suspected labels."""


@dataclass(frozen=True, slots=True)
class Content:
    """A report of one run, section by section."""

    title: str
    subtitle: str
    verdict: tuple[str, ...]
    leaderboard: Table
    metrics: Table | None
    classes: Table | None
    dataset: Table
    facts: tuple[tuple[str, str], ...]
    audit: tuple[str, ...]
    mistakes: Table | None
    suspects: Table | None
    warnings: tuple[str, ...]
    skipped: Table | None
    command: str
    reproduction: tuple[tuple[str, str], ...]


def describe(
    results: Mapping[str, Any],
    predictions: Mapping[str, Any] | None = None,
    curves: Mapping[str, Any] | None = None,
) -> Content:
    """Turn a run's results into what a report says.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    predictions : mapping, optional
        The arrays of ``predictions.npz``; without them there are no scores by class.
    curves : mapping, optional
        What ``curves.json`` holds; without it the verdict does not say what more labels would bring.

    Returns
    -------
    Content
    """
    dataset = results["dataset"]
    name = plain(dataset.get("name"))
    audit = dataset.get("audit") or {}
    findings = (*audit_findings(audit, examples=5), *audit_gaps(audit), *_no_suspects(results))
    return Content(
        title=name if name != MISSING else "featx run",
        subtitle=_subtitle(results),
        verdict=(*verdict(results), *advice(results, predictions or {}, curves or {})),
        leaderboard=leaderboard(results),
        metrics=_metrics(results),
        classes=_classes(class_scores(results, predictions or {})),
        dataset=_dataset(dataset),
        facts=_facts(dataset),
        audit=findings or (("Nothing was found.",) if audit else ("No audit was made.",)),
        mistakes=_mistakes(mistakes(results, predictions or {})),
        suspects=_suspects(results.get("suspects") or {}),
        warnings=_warnings(results),
        skipped=_skipped(dataset.get("skipped") or []),
        command=plain(results.get("command")),
        reproduction=_reproduction(results),
    )


def _subtitle(results: Mapping[str, Any]) -> str:
    dataset = results["dataset"]
    parts = []
    if is_number(dataset.get("n_images")):
        parts.append(many(dataset["n_images"], "image"))
    if classes := dataset.get("classes"):
        parts.append(many(len(classes), "class", "classes"))
    parts.append(many(len(results["rows"]), "model"))
    if created := results.get("created"):
        parts.append(_moment(created))
    return " · ".join(parts)


def _moment(created: str) -> str:
    """Write a time in ISO 8601 to the minute; anything else as it is."""
    try:
        moment = datetime.fromisoformat(created)
    except (TypeError, ValueError):
        return plain(created)
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".rstrip()


def _metrics(results: Mapping[str, Any]) -> Table | None:
    rows, best = results["rows"], results.get("best")
    test = rows[best].get("test") if isinstance(best, int) and 0 <= best < len(rows) else None
    if not test:
        return None
    lines = tuple(
        (METRIC_TITLES.get(name, plain(name)), marked_interval(score)) for name, score in test.items()
    )
    note = legend(lines).strip()
    if reasons := [text.partition(": ")[0] for text in cautions(results)] if note else []:
        note = f"{note.removesuffix('.')} ({listed(reasons)})."
    if "ece" in test:
        note += " Few images make the calibration error look too large; its interval reaches down for that."
    return Table(("metric of the best model", "test, with 95 % interval"), lines, note=note.strip())


def _classes(scores: Sequence[Mapping[str, Any]]) -> Table | None:
    if not scores:
        return None
    lines = tuple(
        (
            plain(score["name"]),
            f"{score['right']} of {score['support']}",
            *(marked_interval(score.get(name)) for name in ("recall", "precision", "f1")),
        )
        for score in scores
    )
    note = "Of the best model, on the test images, with 95 % intervals."
    if marks := legend(lines):
        note += f"{marks.removesuffix('.')} (too few images or groups of the class)."
    columns = ("class", "right", "recall", "precision", "F1")
    return Table(columns, lines, frozenset({1, 2, 3, 4}), None, note)


def _dataset(dataset: Mapping[str, Any]) -> Table:
    counts = dataset.get("counts") or {}
    parts = [part for part in counts if counts[part]]
    classes = [*(dataset.get("classes") or [])]
    lines = [
        (plain(name), *(str(counts[part].get(name, 0)) for part in parts), str(_total(counts, parts, name)))
        for name in classes
    ]
    if lines:
        sums = [str(sum(counts[part].values())) for part in parts]
        lines.append(("all", *sums, str(sum(map(int, sums)))))
    columns = ("class", *(plain(part) for part in parts), "all")
    return Table(columns, tuple(lines), frozenset(range(1, len(columns))), total=bool(lines))


def _total(counts: Mapping[str, Mapping[str, int]], parts: Sequence[str], name: str) -> int:
    return sum(counts[part].get(name, 0) for part in parts)


def _facts(dataset: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    facts = [("source", plain(dataset.get("source"))), ("stores", plain(dataset.get("stores")))]
    if origin := (dataset.get("splits") or {}).get("origin"):
        facts.append(("test split", plain(origin)))
    facts += [("note", plain(note)) for note in dataset.get("notes") or []]
    if dataset.get("unlabelled"):
        facts.append(("without a label, not used", plain(dataset["unlabelled"])))
    return tuple(fact for fact in facts if fact[1] != MISSING)


def _warnings(results: Mapping[str, Any]) -> tuple[str, ...]:
    """Warnings of the rows, each said once with the rows it is for."""
    by_text: dict[str, list[str]] = {}
    for place, index in enumerate(ranking(results), start=1):
        for text in results["rows"][index].get("warnings") or ():
            by_text.setdefault(plain(text), []).append(f"{place}")
    return tuple(f"Rank {', '.join(places)}: {text}" for text, places in by_text.items())


def _no_suspects(results: Mapping[str, Any]) -> tuple[str, ...]:
    """Say that labels were checked and none is suspected; if some are, they have a table."""
    suspects = results.get("suspects") or {}
    if not suspects.get("checked") or suspects.get("count"):
        return ()
    if suspects.get("guessing"):
        return ("Labels could not be checked: the best model cannot be told from guessing.",)
    method = plain(suspects.get("method"))
    return (f"None of {many(suspects['checked'], 'label')} is suspected to be wrong ({method}).",)


def _mistakes(wrong: Sequence[Mistake]) -> Table | None:
    if not wrong:
        return None
    lines = tuple(
        (one.name, one.label, number(one.label_probability), one.predicted, number(one.probability))
        for one in wrong[:MOST_MISTAKES]
    )
    some = f" The first {MOST_MISTAKES} of {len(wrong):,}." if len(wrong) > MOST_MISTAKES else ""
    note = f"Test images that the best model gets wrong, by its probability for what it says.{some}"
    columns = ("image", "label", "its probability", "predicted", "probability")
    return Table(columns, lines, frozenset({2, 4}), None, note)


def _suspects(suspects: Mapping[str, Any]) -> Table | None:
    images = suspects.get("images") or []
    if not images:
        return None
    lines = tuple(
        (
            plain(image.get("name")),
            plain(image.get("split")),
            plain(image.get("label")),
            number(image.get("label_probability")),
            plain(image.get("predicted")),
            number(image.get("probability")),
        )
        for image in images
    )
    count, shown = suspects.get("count") or len(images), len(images)
    some = f"; {shown} of {count:,}" if count > shown else ""
    note = (
        f"By {plain(suspects.get('method'))}, the most suspect first{some}. "
        "Probabilities are the best model's: of training images from the fold that did not learn from them. "
        "A suspicion may as well be the model's own error."
    )
    columns = ("image", "split", "label", "its probability", "predicted", "probability")
    return Table(columns, lines, frozenset({3, 5}), None, note)


def _skipped(skipped: Sequence[Mapping[str, Any]]) -> Table | None:
    if not skipped:
        return None
    lines = tuple((plain(s.get("name")), plain(s.get("reason"))) for s in skipped[:MOST_SKIPPED])
    rest = len(skipped) - len(lines)
    note = f"{rest:,} more are in results.json." if rest else ""
    return Table(("image", "reason"), lines, note=note)


def _reproduction(results: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    settings, environment = results.get("settings") or {}, results.get("environment") or {}
    facts = [("created", plain(results.get("created")))]
    facts += [(plain(key), plain(value)) for key, value in settings.items()]
    facts += [(plain(key), plain(value)) for key, value in environment.items()]
    keys = plain(results["dataset"].get("space_keys") or None)
    facts.append(("space keys of the stores (digests of network, weights and preprocessing)", keys))
    facts.append(("digest of the images, their names and labels", plain(results["dataset"].get("digest"))))
    weights: dict[str, None] = {}
    for row in results["rows"]:
        if row.get("weights"):
            weights[f"{plain(row.get('backbone'))}: {plain(row['weights'])}"] = None
    if weights:
        facts.append(("weights", "; ".join(weights)))
    return tuple(fact for fact in facts if fact[1] != MISSING)


def run_title(run: Run) -> str:
    """Name a run among others."""
    return f"{plain(run.name)}: {plain(run.results['dataset'].get('name') or Path(run.path).name)}"
