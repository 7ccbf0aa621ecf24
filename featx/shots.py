"""Few-shot curves: how good every row is with a handful of images of each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from featx.draws import Material, right_of
from featx.errors import DatasetError
from featx.evaluation.draws import draw_shots

__all__ = ["few_shot", "mean_of_draws", "read_shots", "usable_shots"]


def read_shots(shots: str | int | Sequence[int] | None) -> tuple[int, ...]:
    """Read numbers of shots, ascending and each once.

    Parameters
    ----------
    shots : str, int, sequence of int, or None
        As typed, ``"1,5,10"``, or as numbers.

    Raises
    ------
    DatasetError
        If something else than whole numbers from 1 on is among them.

    Examples
    --------
    >>> read_shots("1,10,5"), read_shots(5), read_shots(None)
    ((1, 5, 10), (5,), ())
    """
    if shots is None:
        return ()
    parts: Sequence[Any] = (
        shots.split(",") if isinstance(shots, str) else [shots] if isinstance(shots, int) else shots
    )
    try:
        numbers = {int(str(part)) for part in parts}
    except ValueError:
        numbers = set()
    if not numbers or min(numbers) < 1:
        raise DatasetError(
            f"Got the shots {shots!r}, expected numbers of images per class such as 1,5,10,20,50."
        )
    return tuple(sorted(numbers))


def usable_shots(labels: Sequence[NDArray[np.str_]], shots: Sequence[int]) -> tuple[list[int], list[str]]:
    """Leave out numbers of shots that the smallest class has not, and say so.

    Parameters
    ----------
    labels : sequence of ndarray of str
        Of the images to draw from; of several outer folds, each has its own.
    shots : sequence of int

    Returns
    -------
    tuple of list of int and list of str
        Shots that can be drawn, and notes.

    Examples
    --------
    >>> import numpy as np
    >>> usable_shots([np.array(["a", "a", "b"])], [1, 2])
    ([1], ["2 shots are left out: the smallest class, 'b', has 1 image to draw from"])
    """
    classes, counts = min(
        (np.unique(part, return_counts=True) for part in labels), key=lambda pair: int(pair[1].min())
    )
    most = int(counts.min())
    too_many = [s for s in shots if s > most]
    if not too_many:
        return list(shots), []
    left_out = ", ".join(map(str, too_many))
    smallest, images = str(classes[counts.argmin()]), "image" if most == 1 else "images"
    note = (
        f"{left_out} shots are left out: the smallest class, {smallest!r}, has {most} {images} to draw from"
    )
    return [s for s in shots if s <= most], [note]


def few_shot(
    material: Material, shots: Sequence[int], draws: int, on_draw: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Fit a head on few images of each class, drawn many times over.

    Draw r orders the images of each class anew, and s shots are the first s of each: the same for
    every head and layer. With outer folds (nested cross-validation), the draws take them in turn.

    Parameters
    ----------
    material : Material
    shots : sequence of int
        Images of each class; none more than the smallest class has.
    draws : int
    on_draw : callable
        Called after each fit.

    Returns
    -------
    list of dict
        For each number of shots ``shots``, ``n`` (images in all), ``accuracy`` (:func:`mean_of_draws`)
        and ``draws`` (the accuracy of each).
    """
    values = np.empty((len(shots), draws))
    for draw in range(draws):
        learn, scored = material.rounds[draw % len(material.rounds)]
        orders = draw_shots(material.y[learn], material.groups_of(learn), [material.seed, draw])
        for place, s in enumerate(shots):
            drawn = np.sort(np.concatenate([learn[order[:s]] for order in orders]))
            values[place, draw] = right_of(material, drawn, scored).mean()
            on_draw()
    k = len(np.unique(material.y))
    return [
        {"shots": s, "n": s * k, "accuracy": mean_of_draws(row), "draws": row.tolist()}
        for s, row in zip(shots, values, strict=True)
    ]


def mean_of_draws(values: Any) -> dict[str, float]:
    """Mean accuracy with Student's 95 % interval over draws, cut to 0 and 1.

    The interval is of the draws alone: other images to learn from, the same images to score.

    Examples
    --------
    >>> {name: round(value, 3) for name, value in mean_of_draws([0.8, 0.9, 1.0]).items()}
    {'value': 0.9, 'low': 0.652, 'high': 1.0}
    """
    numbers = np.asarray(values, dtype=np.float64)
    mean, m = float(numbers.mean()), len(numbers)
    half = float(student.ppf(0.975, m - 1)) * float(numbers.std(ddof=1)) / m**0.5 if m > 1 else 0.0
    return {"value": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half)}
