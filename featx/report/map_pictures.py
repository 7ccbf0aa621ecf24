"""A map of the test embeddings in two dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np

from featx.report.pictures import INK, SERIES, Picture, as_svg, new_figure, shorten
from featx.report.tested import Judged
from featx.report.wording import many

MOST_CLASSES = 24
"""Classes beyond which neither colours nor names can be told apart."""

_SHAPES = "osD^vPXp*h"


def draw_map(tested: Judged | None, salt: str = "") -> Picture | None:
    """Draw where the test embeddings lie, by class.

    Parameters
    ----------
    tested : Judged or None
        The best model's test predictions, with a map.
    salt : str, default=""
        Goes into the drawing's ids, so that those of two runs on one page differ.

    Returns
    -------
    Picture or None
        None where the run keeps no map, or with more than :data:`MOST_CLASSES` classes.
    """
    if tested is None or tested.map is None or len(tested.classes) > MOST_CLASSES:
        return None
    placed = np.isfinite(tested.map).all(axis=1)
    if not placed.any():
        return None
    wrong = placed & (tested.predicted != tested.truth)
    with new_figure(4.8, 4.2) as figure:
        axes = figure.add_subplot()
        for code in range(len(tested.classes)):
            x, y = tested.map[placed & (tested.truth == code)].T
            # Shape as well as colour, for print and for eyes that do not tell these colours apart.
            colour, shape = SERIES[code % len(SERIES)], _SHAPES[code % len(_SHAPES)]
            style: dict[str, Any] = {"color": colour, "label": _name(tested, code), "alpha": 0.7}
            axes.plot(x, y, shape, markersize=3.2, markeredgewidth=0, **style)
        x, y = tested.map[wrong].T
        axes.plot(x, y, "o", color=INK, markerfacecolor="none", markersize=6.5, markeredgewidth=0.8)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        columns = min(len(tested.classes), 2 if len(tested.classes) <= 6 else 4)
        around: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK, "markerscale": 2}
        figure.legend(loc="outside lower center", ncols=columns, **around)
        some = "" if placed.all() else f" {placed.sum():,} of {many(len(placed), 'image')}."
        caption = (
            "Map of the test embeddings of the best model: their first two principal components, by class; "
            f"rings: wrong.{some} Distances in two dimensions mislead: classes that overlap here may "
            "be apart in the others."
        )
        spoken = f"{wrong.sum():,} of {many(int(placed.sum()), 'image')} shown are wrong."
        return Picture(as_svg(figure, caption, spoken, salt), caption)


def _name(tested: Judged, code: int) -> str:
    # Matplotlib leaves out of a legend what begins with an underscore.
    return "\u200b" + shorten(tested.classes[code], 14)
