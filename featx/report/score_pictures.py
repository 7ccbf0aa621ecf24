"""Pictures of the best model's probabilities: ROC and precision-recall curves, and calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.report.pictures import ACCENT, FAINT, INK, SERIES, Picture, as_svg, new_figure, shorten
from featx.report.tested import Judged
from featx.report.wording import METRIC_TITLES, interval, many

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from featx.outcomes import Score

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

MOST_CURVES = len(SERIES)
"""Classes with a curve each; of more, the mean over classes is drawn."""

_DASHES: Sequence[Any] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 3)), (0, (8, 2)))
_GRID = np.linspace(0, 1, 201)


def draw_roc(results: Mapping[str, Any], tested: Judged | None, salt: str = "") -> Picture | None:
    """Draw the share of each class that is found against the share of the others that is taken for it.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    tested : Judged or None
        The best model's test predictions.
    salt : str, default=""
        Goes into the drawing's ids, so that those of two runs on one page differ.

    Returns
    -------
    Picture or None
        None where the run keeps no predictions.
    """
    from sklearn.metrics import roc_curve

    def curve(positive: NDArray[np.bool_], score: NDArray[np.floating[Any]]) -> Curve:
        wrongly, found, _ = roc_curve(positive, score)
        return wrongly, found

    def at(wrongly: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(_GRID, wrongly, found)

    return _draw_curves(
        results,
        tested,
        salt,
        curve=curve,
        at=at,
        title="ROC curve",
        x="share of the other images taken for the class",
        y="share of the class found",
        metric="roc_auc",
        chance=True,
    )


def draw_precision_recall(
    results: Mapping[str, Any], tested: Judged | None, salt: str = ""
) -> Picture | None:
    """Draw precision against recall of each class; see :func:`draw_roc`."""
    from sklearn.metrics import precision_recall_curve

    def curve(positive: NDArray[np.bool_], score: NDArray[np.floating[Any]]) -> Curve:
        precision, recall, _ = precision_recall_curve(positive, score, drop_intermediate=True)
        return recall[::-1], precision[::-1]

    def at(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
        # A step: between two thresholds there is nothing, so the next that reaches the recall counts.
        return precision[np.minimum(np.searchsorted(recall, _GRID), len(recall) - 1)]

    return _draw_curves(
        results,
        tested,
        salt,
        curve=curve,
        at=at,
        title="Precision-recall curve",
        x="recall",
        y="precision",
        metric="average_precision",
        chance=False,
    )


def draw_calibration(tested: Judged | None, grouped: bool = False, salt: str = "") -> Picture | None:
    """Draw how often the best model is right against how sure it says it is.

    Parameters
    ----------
    tested : Judged or None
    grouped : bool, default=False
        Whether test images stand in groups, which these intervals do not take into account.
    salt : str, default=""
        As for :func:`draw_roc`.

    Returns
    -------
    Picture or None
        A reliability diagram (Guo et al. 2017, On calibration of modern neural networks) with Wilson
        intervals; None without predictions.
    """
    if tested is None:
        return None
    bins = _reliability(tested)
    with new_figure(4.8, 3.6) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 2)))
        for confidence, score, _ in bins:
            axes.plot([confidence] * 2, [score.low, score.high], color=INK, linewidth=1.2)
        axes.plot([c for c, _, _ in bins], [s.value for _, s, _ in bins], "o", color=ACCENT, markersize=5)
        _square(axes)
        axes.set_xlabel("probability of the predicted class")
        axes.set_ylabel("share that is right")
        caption = (
            "Calibration of the best model on the test images: mean probability and accuracy by bin, with "
            "95 % intervals; on the dashed line it is as often right as it says."
        )
        if grouped:
            caption += " The intervals take images of one group as independent, and are too narrow for that."
        spoken = "; ".join(
            f"says {confidence:.2f}, right in {score.value:.2f} [{score.low:.2f}, {score.high:.2f}] "
            f"of {many(n, 'image')}"
            for confidence, score, n in bins
        )
        return Picture(as_svg(figure, caption, spoken, salt), caption)


def _reliability(tested: Judged) -> list[tuple[float, Score, int]]:
    """Give mean probability, accuracy and number of images of each bin that holds any."""
    from featx.evaluation.calibration import BINS
    from featx.evaluation.intervals import wilson

    confidence = tested.probabilities.max(axis=1)
    right = tested.predicted == tested.truth
    # Closed on the right, as the expected calibration error has them.
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    found = []
    for number in np.unique(place):
        inside = place == number
        n = int(inside.sum())
        found.append((float(confidence[inside].mean()), wilson(int(right[inside].sum()), n), n))
    return found


def _draw_curves(
    results: Mapping[str, Any],
    tested: Judged | None,
    salt: str,
    *,
    curve: Callable[[NDArray[np.bool_], NDArray[np.floating[Any]]], Curve],
    at: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    title: str,
    x: str,
    y: str,
    metric: str,
    chance: bool,
) -> Picture | None:
    if tested is None:
        return None
    curves = {}
    for code, name in enumerate(tested.classes):
        positive = tested.truth == code
        if positive.any() and not positive.all():
            curves[name] = curve(positive, tested.probabilities[:, code])
    if not curves:
        return None
    # The two curves of two classes are one, seen from both sides.
    shown = dict([list(curves.items())[-1]]) if len(tested.classes) == 2 else curves
    several = len(shown) > MOST_CURVES
    with new_figure(4.8, 3.6) as figure:
        axes = figure.add_subplot()
        if chance:
            axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 2)))
        if several:
            mean = np.mean([at(*points) for points in curves.values()], axis=0)
            axes.plot(_GRID, mean, color=ACCENT, linewidth=2)
        else:
            for place, (name, points) in enumerate(shown.items()):
                colour, dash = SERIES[place], _DASHES[place]
                style: dict[str, Any] = {"color": colour, "linestyle": dash, "label": shorten(name, 18)}
                axes.plot(*points, linewidth=1.6, drawstyle="default" if chance else "steps-pre", **style)
            axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right" if chance else "best")
        _square(axes)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        which = f"the mean over {len(curves)} classes" if several else "each class against the others"
        if len(tested.classes) == 2:
            which = f"{next(iter(shown))} against the other class"
        caption = f"{title} of the best model on the test images, {which}."
        score = (results["rows"][results["best"]].get("test") or {}).get(metric)
        spoken = f"{METRIC_TITLES[metric]}: {interval(score)}" if score else caption
        return Picture(as_svg(figure, caption, spoken, salt), caption)


def _square(axes: Axes) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
    axes.grid(color=FAINT, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
