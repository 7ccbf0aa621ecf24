"""The report as Markdown, for a pull request or a notebook."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from featx.records import escape_name
from featx.report.content import MISTAKES, SUSPECTS, Content, describe, run_title
from featx.report.curves import CurveSection, curve_sections
from featx.report.runs import Run
from featx.report.tables import Table, compare_runs
from featx.report.wording import MISSING

_SPECIAL = re.compile(r"[\\`*|~$#!]|\[(?!-?\d\.\d+, |\+\d\.\d+, )|\](?=\()|(?<![^\W_])_|_(?![^\W_])|://")
"""What would start markup; an underscore inside a word does not, nor an interval."""


def escape_markdown(text: str) -> str:
    r"""Make any text safe inside Markdown, in a table cell too.

    Examples
    --------
    >>> escape_markdown("a|b\n<script>*x* mobilenet_v2")
    'a\\|b\\\\n&lt;script&gt;\\*x\\* mobilenet_v2'
    """
    text = _SPECIAL.sub(lambda found: "\\" + found[0], escape_name(text))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def render_markdown(
    results: Mapping[str, Any],
    predictions: Mapping[str, Any] | None = None,
    curves: Mapping[str, Any] | None = None,
) -> str:
    """Write the report of one run.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    predictions : mapping, optional
        The arrays of ``predictions.npz``; without them the table by class is left out.
    curves : mapping, optional
        What ``curves.json`` holds; without it there are no learning and few-shot curves.

    Returns
    -------
    str
        GitHub's Markdown; names from the user are escaped.
    """
    content, sections = describe(results, predictions, curves), curve_sections(results, curves or {})
    return "\n".join(_run(content, sections, f"# {escape_markdown(content.title)}", level=2)) + "\n"


def render_markdown_runs(runs: Sequence[Run]) -> str:
    """Write one report over several runs: a table of their winners, then each run."""
    lines = [f"# {len(runs)} runs compared", "", *_table(compare_runs(runs))]
    for run in runs:
        content, sections = (
            describe(run.results, run.predictions, run.curves),
            curve_sections(run.results, run.curves),
        )
        lines += ["", *_run(content, sections, f"## {escape_markdown(run_title(run))}", level=3)]
    return "\n".join(lines) + "\n"


def _run(content: Content, sections: Sequence[CurveSection], heading: str, level: int) -> list[str]:
    marks = "#" * level
    lines = [heading, "", escape_markdown(content.subtitle), "", f"{marks} Verdict", ""]
    lines += [escape_markdown(" ".join(content.verdict))]
    lines += ["", f"{marks} Leaderboard", "", *_table(content.leaderboard)]
    if content.warnings:
        lines += ["", *(f"- {escape_markdown(warning)}" for warning in content.warnings)]
    if content.metrics:
        lines += ["", f"{marks} The best model on the test images", "", *_table(content.metrics)]
    if content.classes:
        lines += ["", f"{marks} By class", "", *_table(content.classes)]
    for section in sections:
        lines += ["", f"{marks} {section.title}"]
        lines += [line for sentence in section.sentences for line in ("", escape_markdown(sentence))]
        lines += ["", *_table(section.table)] if section.table else []
        lines += ["", *(f"- {escape_markdown(note)}" for note in section.notes)] if section.notes else []
    lines += ["", f"{marks} Data", "", *_table(content.dataset)]
    lines += ["", *_facts(content.facts)]
    lines += ["", f"{marks} Audit", "", *(f"- {escape_markdown(finding)}" for finding in content.audit)]
    if content.mistakes:
        lines += ["", f"{marks} {MISTAKES}", "", *_table(content.mistakes)]
    if content.suspects:
        lines += ["", f"{marks} {SUSPECTS}", "", *_table(content.suspects)]
    if content.skipped:
        lines += ["", f"{marks} Skipped images", "", *_table(content.skipped)]
    lines += ["", f"{marks} Reproduction", ""]
    if content.command != MISSING:
        lines += [*_code(content.command), ""]
    return lines + _facts(content.reproduction)


def _table(table: Table) -> list[str]:
    rule = ["---:" if position in table.right else "---" for position in range(len(table.columns))]
    lines = [_line(table.columns), _line(rule, escape=False)]
    for position, row in enumerate(table.rows):
        cells = [escape_markdown(cell) for cell in row]
        if position == table.chosen:
            cells = [f"**{cell}**" for cell in cells]
        lines.append(_line(cells, escape=False))
    return [*lines, "", escape_markdown(table.note)] if table.note else lines


def _line(cells: Sequence[str], *, escape: bool = True) -> str:
    return f"| {' | '.join(escape_markdown(cell) if escape else cell for cell in cells)} |"


def _facts(facts: Sequence[tuple[str, str]]) -> list[str]:
    return [f"- {escape_markdown(name)}: {escape_markdown(value)}" for name, value in facts]


def _code(text: str) -> list[str]:
    """Write a fenced block whose fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [f"{fence}sh", escape_name(text), fence]
