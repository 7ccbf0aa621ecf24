"""Pictures of a report: drawn by Matplotlib, returned as SVG that stands inside the page.

Matplotlib is imported when a picture is drawn. Colours are names that the page's style sheet
defines, so that one drawing serves light and dark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.report.wording import backbone_name, interval, is_number, is_reference, plain, ranking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, ACCENT, OTHER = "#010203", "#040506", "#070809", "#0a0b0c"
"""Stand-ins that no drawing uses otherwise; each becomes a variable of the page's style sheet."""

SERIES = (ACCENT, OTHER, "#0b0c0d", "#0c0d0e", "#0d0e0f", INK)
"""Of classes: for each theme a set that colour-blind eyes tell apart, always with another shape or dash."""

_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    ACCENT: "var(--accent)",
    OTHER: "var(--other)",
    SERIES[2]: "var(--third)",
    SERIES[3]: "var(--fourth)",
    SERIES[4]: "var(--fifth)",
}

MOST_BARS = 24
"""Rows in the picture of the leaderboard; the table beside it has them all."""

MOST_CLASSES = 40
"""Classes beyond which a confusion matrix cannot be read at a page's width."""

_NUMBERED_CLASSES = 12
"""Classes up to which each cell carries its count."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing and what it says to those who do not see it.

    Parameters
    ----------
    svg : str
        An ``<svg>`` element without references to anything outside itself.
    caption : str
        One sentence, shown beneath.
    """

    svg: str
    caption: str


def draw_leaderboard(results: Mapping[str, Any], salt: str = "") -> Picture | None:
    """Draw the score of each row with its interval, best first.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    salt : str, default=""
        Goes into the drawing's ids, so that those of two runs on one page differ.

    Returns
    -------
    Picture or None
        Test accuracy with its 95 % interval, or without a test split the cross-validation mean ± standard
        deviation; None if there is no score to draw.
    """
    rows = results["rows"]
    tested = any((row.get("test") or {}).get("accuracy") for row in rows)
    scores = [(i, score_of(rows[i], tested)) for i in ranking(results)]
    bars = [(i, score) for i, score in scores if score is not None]
    shown = bars[:MOST_BARS]
    if not shown:
        return None
    layers: dict[str, set[str]] = {}
    for row in rows:
        layers.setdefault(backbone_name(row), set()).add(plain(row.get("layer")))
    what = (
        "Test accuracy with its 95 % interval"
        if tested
        else "Cross-validation accuracy, mean ± standard deviation"
    )
    with new_figure(4.8, 0.7 + 0.42 * len(shown)) as figure:
        axes = figure.add_subplot()
        for place, (index, score) in enumerate(shown):
            row = rows[index]
            colour = ACCENT if index == results.get("best") else OTHER if is_reference(row) else INK
            axes.plot(
                [score["low"], score["high"]],
                [place, place],
                color=colour,
                linewidth=2,
                solid_capstyle="round",
            )
            # Shape as well as colour, for print and for eyes that do not tell these colours apart.
            marker = "D" if index == results.get("best") else "s" if is_reference(row) else "o"
            axes.plot([score["value"]], [place], marker, color=colour, markersize=6)
        names = [_bar_name(rows[index], layers) for index, _ in shown]
        axes.set_yticks(range(len(shown)), names)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=4, min_n_ticks=3)
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.spines[["left", "top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        if len(shown) > 1:
            axes.axvline(shown[0][1]["value"], color=FAINT, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
        axes.set_xlabel("test accuracy" if tested else "cross-validation accuracy")
        marks = "diamond: the chosen model; squares: references; order: cross-validation."
        left_out = f" The first {len(shown)} of {len(bars)}." if len(bars) > len(shown) else ""
        caption = f"{what}; {marks}{left_out}"
        return Picture(as_svg(figure, caption, _spoken(rows, shown), salt), caption)


def draw_confusion(
    matrix: NDArray[np.int64] | None, classes: Sequence[str], salt: str = ""
) -> Picture | None:
    """Draw a confusion matrix; the shade is the share of the true class.

    Parameters
    ----------
    matrix : ndarray of int64, (k, k), or None
        Truth in rows, prediction in columns.
    classes : sequence of str
        Their names.
    salt : str, default=""
        As for :func:`draw_leaderboard`.

    Returns
    -------
    Picture or None
        None without a matrix, or with more than :data:`MOST_CLASSES` classes.
    """
    if matrix is None or len(classes) > MOST_CLASSES:
        return None
    from matplotlib.patches import Rectangle

    k = len(classes)
    names = [shorten(plain(name), 14) for name in classes]
    size = 3.0 if k <= 4 else 4.0 if k <= _NUMBERED_CLASSES else 4.8
    with new_figure(4.8, size) as figure:
        axes = figure.add_subplot()
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        for true, predicted in np.argwhere(matrix > 0):
            corner = (predicted - 0.5, true - 0.5)
            axes.add_patch(
                Rectangle(
                    corner, 1, 1, color=ACCENT, alpha=0.08 + 0.52 * shares[true, predicted], linewidth=0
                )
            )
            if k <= _NUMBERED_CLASSES:
                count = f"{matrix[true, predicted]}"
                axes.text(
                    predicted, true, count, ha="center", va="center", color=INK, fontsize=10 if k <= 8 else 8
                )
        axes.set_xlim(-0.5, k - 0.5)
        axes.set_ylim(k - 0.5, -0.5)
        axes.set_aspect("equal")
        small = 10 if k <= _NUMBERED_CLASSES else 7 if k <= 24 else 5
        long = max(map(len, names)) * k > 36
        axes.set_xticks(range(k), names, rotation=90 if long else 0, fontsize=small)
        axes.set_yticks(range(k), names, fontsize=small)
        axes.set_xticks(np.arange(-0.5, k), minor=True)
        axes.set_yticks(np.arange(-0.5, k), minor=True)
        axes.grid(which="minor", color=FAINT, linewidth=0.5)
        axes.tick_params(which="both", length=0)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        wrong = matrix.sum() - np.trace(matrix)
        caption = f"Confusion matrix of the best model: {wrong:,} of {matrix.sum():,} test images are wrong."
        return Picture(as_svg(figure, caption, _confused(matrix, classes), salt), caption)


def score_of(row: Mapping[str, Any], tested: bool) -> dict[str, float] | None:
    """Give ``value``, ``low`` and ``high`` of a row's test accuracy, or of its cross-validation ± sd."""
    if tested:
        score = (row.get("test") or {}).get("accuracy") or {}
        value, low, high = (score.get(key) for key in ("value", "low", "high"))
    else:
        cv = row.get("cv") or {}
        value, sd = cv.get("mean"), cv.get("sd")
        low, high = (value - sd, value + sd) if is_number(value) and is_number(sd) else (value, value)
    if not is_number(value):
        return None
    return {
        "value": float(value),
        "low": float(low if is_number(low) else value),
        "high": float(high if is_number(high) else value),
    }


def _bar_name(row: Mapping[str, Any], layers: Mapping[str, set[str]]) -> str:
    name = backbone_name(row)
    head = "fine-tuned" if row.get("kind") == "finetune" else plain(row.get("head"))
    text = f"{shorten(name, 24)} · {head}"
    return f"{text}\n{shorten(plain(row.get('layer')), 32)}" if len(layers[name]) > 1 else text


def shorten(text: str, limit: int) -> str:
    """Keep both ends of a long text: names of one run often differ at the end."""
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[: limit - 1 - half]}…{text[-half:]}"


def _spoken(rows: Sequence[Mapping[str, Any]], shown: Sequence[tuple[int, Mapping[str, float]]]) -> str:
    lines = [
        f"{backbone_name(rows[i])}, {plain(rows[i].get('head'))}: {interval(score)}" for i, score in shown
    ]
    return "; ".join(lines)


def _confused(matrix: NDArray[np.int64], classes: Sequence[str]) -> str:
    off = matrix - np.diag(np.diag(matrix))
    pairs = sorted(((int(off[i, j]), i, j) for i, j in np.argwhere(off > 0)), reverse=True)[:5]
    if not pairs:
        return "Every test image is on the diagonal."
    return "Most often confused: " + "; ".join(
        f"{plain(classes[i])} taken for {plain(classes[j])}: {count}" for count, i, j in pairs
    )


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """Make a figure of its own, without pyplot: no global state, no window, safe in a thread."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 11,
        # A class called "$x$" is a name and no formula.
        "text.parse_math": False,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "axes.facecolor": "none",
        "xtick.color": INK,
        "ytick.color": INK,
        "text.color": INK,
    }
    with matplotlib.rc_context(settings):
        yield Figure(figsize=(width, height), layout="constrained", facecolor="none")


def as_svg(figure: Figure, title: str, description: str, salt: str) -> str:
    """Draw, and take out what the page does not need: prologue, ids, fonts, the namespaces' addresses."""
    import warnings

    import matplotlib
    from markupsafe import escape

    stream = StringIO()
    # Without a salt of ours, the ids would be new at each drawing.
    with matplotlib.rc_context({"svg.hashsalt": salt + title}), warnings.catch_warnings():
        # The browser draws the letters with its own fonts; Matplotlib only measures them.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    # Inside tags only: a class may be called like a colour.
    svg = re.sub(r"<[^>]*>", _page_style, svg)
    view = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg {view[0] if view else ""} role="img">'
    head += f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
    return re.sub(r"\s*\n\s*", " ", re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)).strip()


def _page_style(tag: re.Match[str]) -> str:
    """Let the page's colours and font apply to one tag; drop the ids that nothing refers to."""
    text = re.sub(r'<g id="[^"]*"', "<g", tag[0])
    text = re.sub(r"font: (\d+(?:\.\d+)?px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r" *font-family: [^;\"]*;?", "", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text
