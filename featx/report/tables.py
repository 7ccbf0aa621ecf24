"""The tables that order models: the leaderboard of a run, and the winners of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featx.report.comparisons import against_best, figures
from featx.report.runs import Run
from featx.report.wording import (
    MISSING,
    UNRELIABLE,
    backbone_name,
    chooser,
    cross_validated,
    format_bytes,
    format_seconds,
    is_reference,
    marked_interval,
    plain,
    ranking,
    seconds_of,
)

__all__ = ["Table", "compare_runs", "leaderboard", "legend"]


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
    total : bool
        The last row sums up the others, and stays below them when they are sorted.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()
    chosen: int | None = None
    note: str = ""
    total: bool = False


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
            _kind_marked(row),
            plain(row.get("layer")),
            plain(row.get("head")),
            _parameters(row),
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
    if any((row.get("cv") or {}).get("metric") == "balanced_accuracy" for row in rows):
        note += " The score of the choice is the balanced accuracy."
    note += legend(lines)
    chosen = order.index(best) if best in order else None
    last = len(columns)
    return Table(tuple(columns), tuple(lines), frozenset({0, last - 2, last - 1}), chosen, note)


def _parameters(row: Mapping[str, Any]) -> str:
    """Write the chosen parameters, and whether they lie on the edge of what was tried.

    Examples
    --------
    >>> _parameters({"params": {"C": 100.0}, "warnings": ["C=100 lies on the edge of the grid"]})
    "C=100 (grid's edge)"
    """
    text = plain(row.get("params") or {})
    warnings = [str(warning) for warning in row.get("warnings") or ()]
    if any("on the edge of" in warning for warning in warnings):
        return f"{text} (grid's edge)"
    return f"{text} (grid widened)" if any("was widened" in warning for warning in warnings) else text


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
                    _kind_marked(row),
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
    note += legend(lines)
    return Table(columns, tuple(lines), frozenset({2, 8}), None, note)


def legend(lines: Sequence[Sequence[str]]) -> str:
    """Explain the mark of unreliable intervals where a table has one."""
    marked = any(cell.endswith(UNRELIABLE) for line in lines for cell in line)
    return f" {UNRELIABLE}: the interval is unreliable." if marked else ""


def _kind_marked(row: Mapping[str, Any]) -> str:
    """Name the backbone, and what kind of row it is where the name does not tell."""
    name = backbone_name(row)
    if row.get("kind") == "finetune":
        return f"{name} (fine-tuned)"
    return f"{name} (reference)" if is_reference(row) and not name.endswith(")") else name
