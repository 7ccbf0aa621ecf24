"""The report as one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from featx.report.content import MISTAKES, SUSPECTS, Content, describe, run_title
from featx.report.cost_pictures import draw_cost, draw_depths
from featx.report.curve_pictures import draw_few_shot, draw_learning_curve
from featx.report.curves import CurveSection, curve_sections
from featx.report.gallery import Gallery, Shelf
from featx.report.map_pictures import draw_map
from featx.report.per_class import confusion_matrix
from featx.report.pictures import Picture, draw_confusion, draw_leaderboard
from featx.report.runs import Run
from featx.report.score_pictures import draw_calibration, draw_precision_recall, draw_roc
from featx.report.tables import Table, compare_runs
from featx.report.tested import read_tested
from featx.report.thumbnails import Thumbnails
from featx.report.training_pictures import draw_training
from featx.report.wording import MISSING

_KEPT = re.compile(r"\[[-+\d.]+, [-+\d.]+\]|± \d[\d.]*|p [=<] [\d.]+")
"""Numbers that belong together."""

_BREAKS = re.compile(r"(?<=[A-Za-z0-9][._:/])(?=[A-Za-z0-9])(?<!\d\.)|(?<=[A-Za-z0-9][._:/])(?=[A-Za-z])")
"""Between the parts of a dotted or a file name, but not inside a number."""

_LONG = re.compile(r"[^\s\0]{24}(?=[^\s\0]{4})")
"""What is too long for a cell and has no parts: a hash, a name without end."""


_NO_GALLERY = Gallery((), Thumbnails())


@dataclass(frozen=True, slots=True)
class _Section:
    """One run as the template draws it; the anchor tells several apart.

    ``curves`` holds a section and its picture, if it has one; ``thumbnails`` addresses by image name.
    """

    anchor: str
    title: str
    content: Content
    pictures: tuple[Picture, ...]
    test_pictures: tuple[Picture, ...]
    curves: tuple[tuple[CurveSection, Picture | None], ...]
    shelves: tuple[Shelf, ...]
    thumbnails: Mapping[str, str]
    no_thumbnails: str


def render_html(runs: Sequence[Run], galleries: Sequence[Gallery] | None = None) -> str:
    """Write the report of one run, or one over several.

    Parameters
    ----------
    runs : sequence of Run
        At least one.
    galleries : sequence of Gallery, optional
        The images of each run; without them no image is shown or spoken of.

    Returns
    -------
    str
        A whole page. Every text is escaped by the template engine; a Content-Security-Policy forbids all
        loading, and every script but the page's own, in case something slips through.
    """
    sections = [
        _section(run, gallery, f"run-{number}", several=len(runs) > 1)
        for number, (run, gallery) in enumerate(
            zip(runs, galleries or [_NO_GALLERY] * len(runs), strict=True), start=1
        )
    ]
    comparison: Table | None = compare_runs(runs) if len(runs) > 1 else None
    title = f"{len(runs)} runs compared" if comparison else sections[0].title
    environment = _environment()
    script = environment.get_template("tables.js").render()
    return environment.get_template("report.html.j2").render(
        title=title,
        sections=sections,
        comparison=comparison,
        missing=MISSING,
        suspects_heading=SUSPECTS,
        mistakes_heading=MISTAKES,
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


def tidy(text: str) -> Markup:
    r"""Escape a text and say where its lines may break: in long names, never inside an interval.

    Examples
    --------
    >>> tidy("<b> features.18:avg 0.9 [0.8, 1.0]")
    Markup('&lt;b&gt; features.<wbr>18:<wbr>avg 0.9 [0.8,\xa01.0]')
    """
    kept = _KEPT.sub(lambda found: found[0].replace(" ", "\xa0"), text)
    # No text holds the character 0: control characters are escaped long before.
    marked = _LONG.sub("\\g<0>\0", _BREAKS.sub("\0", kept))
    return Markup("<wbr>").join(marked.split("\0"))


def _section(run: Run, gallery: Gallery, anchor: str, *, several: bool) -> _Section:
    content = describe(run.results, run.predictions, run.curves)
    matrix = confusion_matrix(run.results, run.predictions)
    classes = run.results["dataset"].get("classes") or []
    tested = read_tested(run.results, run.predictions)
    grouped = bool((run.results["dataset"].get("splits") or {}).get("test_groups"))
    pictures = (
        draw_leaderboard(run.results, anchor),
        draw_confusion(matrix, classes, anchor),
        draw_cost(run.results, anchor),
        *draw_depths(run.results, anchor),
    )
    test_pictures = (
        draw_roc(run.results, tested, anchor),
        draw_precision_recall(run.results, tested, anchor),
        draw_calibration(tested, grouped, anchor),
        draw_map(tested, anchor),
    )
    drawn = {
        "learning": draw_learning_curve(run.curves, anchor),
        "few-shot": draw_few_shot(run.results, run.curves, anchor),
        "training": draw_training(run.curves, anchor),
    }
    return _Section(
        anchor=anchor,
        title=run_title(run) if several else content.title,
        content=content,
        pictures=tuple(picture for picture in pictures if picture is not None),
        test_pictures=tuple(picture for picture in test_pictures if picture is not None),
        curves=tuple(
            (section, drawn.get(section.key)) for section in curve_sections(run.results, run.curves)
        ),
        shelves=gallery.shelves if gallery.thumbnails.images else (),
        thumbnails=gallery.thumbnails.images,
        no_thumbnails=gallery.thumbnails.word,
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("featx.report"),
        # All templates, whatever their suffix: the default looks at the suffix.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Our own drawings, whose texts Matplotlib has escaped.
    environment.filters["tidy"] = tidy
    environment.filters["drawn"] = lambda picture: Markup(picture.svg)
    return environment
