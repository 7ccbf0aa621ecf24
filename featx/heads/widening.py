"""A grid whose best point lies on its edge is widened there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from featx.heads.describing import describe
from featx.heads.fitting import PointResult
from featx.heads.head import Head
from featx.heads.ranking import Ranking

__all__ = ["widen"]

_STEPS = 4
"""So many values a grid is widened by at the most."""


def widen(
    head: Head,
    ranking: Ranking,
    n_train: int,
    fit: Callable[[Sequence[Mapping[str, Any]]], list[PointResult]],
) -> tuple[str, ...]:
    """Try values beyond the edge while the best point lies on it and beats its neighbour.

    Parameters
    ----------
    head : Head
        Whose path names the parameters that can be widened.
    ranking : Ranking
        Grows.
    n_train : int
        Images in the smallest training part of the folds.
    fit : callable
        From grid points to their results.

    Returns
    -------
    tuple of str
        What was done, for people.
    """
    first = None
    tried = []
    for _ in range(_STEPS):
        edge = ranking.edge()
        if edge is None:
            break
        best, neighbour, name = edge
        if head.path is None or name not in head.path.parameters:
            break
        point = _beyond(ranking.points[best], ranking.points[neighbour], name)
        if point is None or not head.possible(point, n_train):
            break
        first = first or describe(ranking.points[best])
        tried.append(point[name])
        (result,) = fit([point])
        ranking.insert(best if best < neighbour else best + 1, point, result)
    if not tried:
        return ()
    values = ", ".join(f"{value:g}" for value in tried)
    return (f"the best point of the grid, {first}, lay on its edge, so that it was widened by {values}",)


def _beyond(edge: Mapping[str, Any], neighbour: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return the next value of a logarithmic grid; None where there is none."""
    if not all(isinstance(point[name], float | int) for point in (edge, neighbour)):
        return None
    # Twelve digits: a decade beyond 1e-7 is 1e-8, not 9.999999999999999e-09.
    value: float = float(f"{edge[name] * edge[name] / neighbour[name]:.12g}")
    if isinstance(edge[name], int):
        value = round(value) | 1
        if value < 1 or value == edge[name]:
            return None
    return {**edge, name: value}
