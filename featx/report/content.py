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

from featx.report.audit import audit_findings, audit_gaps
from featx.report.cautions import cautions
from featx.report.comparisons import against_best, figures
from featx.report.per_class import class_scores
from featx.report.runs import Run
from featx.report.verdict import verdict
from featx.report.wording import (
    METRIC_TITLES,
    MISSING,
    UNRELIABLE,
    backbone_name,
    chooser,
    cross_validated,
    format_bytes,
    format_seconds,
    is_number,
    is_reference,
    listed,
    many,
    marked_interval,
    number,
    plain,
    ranking,
    seconds_of,
)

MOST_SKIPPED = 200
"""Skipped images that a report lists; the rest are counted."""

SUSPECTS = "Images to look at: their labels may be wrong"
"""The heading over suspected labels."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text.

    Parameters
    ----------
    columns : tuple of str
        The headings.
    rows : tuple of tuples of str
        One cell a column.
    right : frozenset of int
        Columns that hold numbers and stand to the right.
    chosen : int or None
        The row to bring out.
    note : str
        What must be known to read it.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()
    chosen: int | None = None
    note: str = ""


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
    suspects: Table | None
    warnings: tuple[str, ...]
    skipped: Table | None
    command: str
    reproduction: tuple[tuple[str, str], ...]


def describe(results: Mapping[str, Any], predictions: Mapping[str, Any] | None = None) -> Content:
    """Turn a run's results into what a report says.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    predictions : mapping, optional
        The arrays of ``predictions.npz``; without them there are no scores by class.

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
        verdict=tuple(verdict(results)),
        leaderboard=leaderboard(results),
        metrics=_metrics(results),
        classes=_classes(class_scores(results, predictions or {})),
        dataset=_dataset(dataset),
        facts=_facts(dataset),
        audit=findings or (("Nothing was found.",) if audit else ("No audit was made.",)),
        suspects=_suspects(results.get("suspects") or {}),
        warnings=_warnings(results),
        skipped=_skipped(dataset.get("skipped") or []),
        command=plain(results.get("command")),
        reproduction=_reproduction(results),
    )


def leaderboard(results: Mapping[str, Any]) -> Table:
    """List the rows in the order of their cross-validation score."""
    rows, best, order = results["rows"], results.get("best"), ranking(results)
    tested = any(row.get("test") for row in rows)
    against = against_best(results)
    columns = ["rank", "backbone", "layer", "head", "parameters", chooser(results).removeprefix("the ")]
    columns += ["test accuracy", "best minus this"] if tested else []
    columns += ["time", "peak memory"]
    lines = []
    for place, index in enumerate(order, start=1):
        row = rows[index]
        line = [
            str(place),
            _marked(row),
            plain(row.get("layer")),
            plain(row.get("head")),
            plain(row.get("params") or {}),
            cross_validated(row),
        ]
        if tested:
            line.append(marked_interval((row.get("test") or {}).get("accuracy")))
            difference = figures(against[index]) if index in against else MISSING
            line.append("best" if index == best else difference)
        line += [format_seconds(seconds_of(row)), format_bytes(row.get("peak_memory_bytes"))]
        lines.append(tuple(line))
    note = f"In the order of {chooser(results)}. "
    if chooser(results) == "cross-validation":
        note = "Cross-validation: mean ± standard deviation over folds, inside the training part. "
    note += (
        "Test: 95 % intervals on images that took no part in any choice; p-values are of the paired test, "
        "each for itself (the verdict corrects them for their number)."
        if tested
        else "There is no test split."
    )
    if any(rows[index].get("kind") == "finetune" and index != best for index in order):
        note += " The fine-tuned network stands last: its tuning score is of one fold and its best epoch."
    note += _legend(lines)
    chosen = order.index(best) if best in order else None
    last = len(columns)
    return Table(tuple(columns), tuple(lines), frozenset({0, last - 2, last - 1}), chosen, note)


def compare_runs(runs: Sequence[Run]) -> Table:
    """One line for the winner of each run, and for its best reference if it has one."""
    lines = []
    for run in runs:
        results = run.results
        rows, best = results["rows"], results.get("best")
        shown = [best] if isinstance(best, int) and 0 <= best < len(rows) else []
        shown += [i for i in ranking(results) if rows[i].get("kind") == "reference" and i != best][:1]
        for index in shown:
            row = rows[index]
            dataset = results["dataset"]
            lines.append(
                (
                    plain(run.name),
                    plain(dataset.get("name")),
                    plain((dataset.get("splits") or {}).get("test")),
                    _marked(row),
                    plain(row.get("layer")),
                    plain(row.get("head")),
                    cross_validated(row),
                    marked_interval((row.get("test") or {}).get("accuracy")),
                    format_seconds(seconds_of(row)),
                )
            )
    columns = (
        "run",
        "data",
        "test images",
        "backbone",
        "layer",
        "head",
        "cross-validation",
        "test accuracy",
        "time",
    )
    note = (
        "The winner of each run by cross-validation, and its best reference. Scores of different images "
        "cannot be compared, and across runs no paired test was made."
    )
    note += _legend(lines)
    return Table(columns, tuple(lines), frozenset({2, 8}), None, note)


def _legend(lines: Sequence[Sequence[str]]) -> str:
    """Explain the mark of unreliable intervals where a table has one."""
    marked = any(cell.endswith(UNRELIABLE) for line in lines for cell in line)
    return f" {UNRELIABLE}: the interval is unreliable." if marked else ""


def _marked(row: Mapping[str, Any]) -> str:
    """Name the backbone, and what kind of row it is where the name does not tell."""
    name = backbone_name(row)
    if row.get("kind") == "finetune":
        return f"{name} (fine-tuned)"
    return f"{name} (reference)" if is_reference(row) and not name.endswith(")") else name


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
    note = _legend(lines).strip()
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
    if legend := _legend(lines):
        note += f"{legend.removesuffix('.')} (too few images or groups of the class)."
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
    return Table(columns, tuple(lines), frozenset(range(1, len(columns))))


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
    facts.append(("space keys of the stores", keys))
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
