"""Shapes as classes of the source task: polygons, stars, crosses, arcs, and strokes of a pen.

A pen class is one random sequence of smooth strokes; its images move the control points a little, as
another hand would draw it (an idea of Omniglot: Lake et al., 2015, https://doi.org/10.1126/science.aab3050).
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

__all__ = ["OUTLINES", "render_outline", "render_pen"]

_SIZE = 64
_FINE = 3 * _SIZE  # drawn three times as large, since Pillow draws lines without smoothing

Points = npt.NDArray[np.float64]


def _regular(corners: int, inner: float = 1.0) -> Points:
    """Corners of a regular polygon (n, 2), or of a star if ``inner`` is less than one; one corner up."""
    count = corners if inner == 1.0 else 2 * corners
    angle = 2 * np.pi * np.arange(count) / count - np.pi / 2
    radius = np.where(np.arange(count) % 2, inner, 1.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _arc(start: float, end: float, height: float = 1.0) -> Points:
    angle = np.radians(np.linspace(start, end, 40))
    return np.stack([np.cos(angle), height * np.sin(angle)], axis=1)


def _cross(width: float) -> Points:
    w = width
    return np.array(
        [
            (-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w),
            (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w),
        ]
    )  # fmt: skip


_FORMS: dict[str, Points] = {
    "triangle": _regular(3),
    "triangle-down": -_regular(3),
    "square": np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
    "diamond": _regular(4),
    "bar": np.array([(-1, -0.3), (1, -0.3), (1, 0.3), (-1, 0.3)]),
    "column": np.array([(-0.3, -1), (0.3, -1), (0.3, 1), (-0.3, 1)]),
    "trapeze": np.array([(-0.5, -0.6), (0.5, -0.6), (1, 0.6), (-1, 0.6)]),
    "parallelogram": np.array([(-0.5, -0.6), (1, -0.6), (0.5, 0.6), (-1, 0.6)]),
    "pentagon": _regular(5),
    "hexagon": _regular(6),
    "octagon": _regular(8),
    "ellipse-wide": _arc(0, 360, 0.55),
    "star-3": _regular(3, 0.3),
    "star-4": _regular(4, 0.35),
    "star-5": _regular(5, 0.4),
    "star-6": _regular(6, 0.5),
    "star-9": _regular(9, 0.6),
    "cross": _cross(0.28),
    "half-left": _arc(90, 270),
    "half-top": _arc(180, 360),
    "wedge": np.vstack([_arc(-60, 60), [(-0.6, 0.0)]]),
    "bite": np.vstack([_arc(40, 320), [(0.0, 0.0)]]),
    "moon": np.vstack([_arc(60, 300), _arc(240, 120) * (0.9, 0.9) + (0.35, 0.0)]),
    "chevron": np.array([(-1, -0.8), (0, -0.8), (1, 0), (0, 0.8), (-1, 0.8), (0, 0)]),
    "bolt": np.array([(0.2, -1), (-0.6, 0.2), (0, 0.2), (-0.2, 1), (0.6, -0.2), (0, -0.2)]),
}

OUTLINES: tuple[tuple[str, bool], ...] = tuple((name, filled) for name in _FORMS for filled in (True, False))
"""Every outline class: the form, and whether it is filled."""


def render_outline(number: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Render a geometric form, filled or as a line.

    Parameters
    ----------
    number : int
        The class: index into :data:`OUTLINES`.
    rng : numpy.random.Generator
        Source of size, aspect, small moves of the corners and the width of the line.

    Returns
    -------
    ndarray of uint8, shape (64, 64)
        White on black.

    Examples
    --------
    >>> int(render_outline(0, np.random.default_rng(0)).max())
    255
    """
    name, filled = OUTLINES[number]
    points = _FORMS[name] * rng.uniform(0.65, 0.95) * rng.uniform(0.85, 1.15, 2)
    points = points + rng.normal(0, 0.015, points.shape)
    corners = _to_pixels(points)
    canvas = Image.new("L", (_FINE, _FINE))
    pen = ImageDraw.Draw(canvas)
    if filled:
        pen.polygon(corners, fill=255)
    else:
        width = int(rng.integers(5, 16))
        pen.line([*corners, corners[0], corners[1]], fill=255, width=width, joint="curve")
    return _finish(canvas)


@functools.cache
def _skeleton(number: int) -> tuple[Points, ...]:
    """Control points of the strokes of a pen class, each (k, 2) in -0.85..0.85."""
    rng = np.random.default_rng([79, number])
    strokes = []
    for _ in range(int(rng.integers(1, 4))):
        start = rng.uniform(-0.8, 0.8, 2)
        heading = rng.uniform(0, 2 * np.pi)
        curl = rng.normal(0, 0.9)
        points = [start]
        for _ in range(int(rng.integers(2, 7))):
            heading += curl + rng.normal(0, 0.5)
            step = rng.uniform(0.35, 0.8) * np.array([np.cos(heading), np.sin(heading)])
            # A step that would leave the field turns back into it.
            points.append(np.where(np.abs(points[-1] + step) > 0.85, points[-1] - step, points[-1] + step))
        strokes.append(np.stack(points))
    everything = np.concatenate(strokes)
    low, high = everything.min(axis=0), everything.max(axis=0)
    scale = 1.6 / max(float((high - low).max()), 1e-6)
    return tuple((stroke - (low + high) / 2) * scale for stroke in strokes)


def render_pen(number: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Render the strokes of a pen class as another hand would draw them.

    Parameters
    ----------
    number : int
        The class: which strokes.
    rng : numpy.random.Generator
        Source of the moves of the control points and of the width of the pen.

    Returns
    -------
    ndarray of uint8, shape (64, 64)
        White on black.

    Examples
    --------
    >>> render_pen(5, np.random.default_rng(0)).shape
    (64, 64)
    """
    canvas = Image.new("L", (_FINE, _FINE))
    pen = ImageDraw.Draw(canvas)
    width = int(rng.integers(6, 22))
    for stroke in _skeleton(number):
        corners = _to_pixels(_smooth(stroke + rng.normal(0, 0.07, stroke.shape)))
        pen.line(corners, fill=255, width=width, joint="curve")
        for x, y in (corners[0], corners[-1]):
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    return _finish(canvas)


def _smooth(points: Points) -> Points:
    """Catmull-Rom spline through control points (k, 2), eight steps between two of them."""
    padded = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False)
    ]
    return np.vstack([*pieces, points[-1:]])


def _to_pixels(points: Points) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (points + 1) * (_FINE / 2)]


def _finish(canvas: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(canvas.resize((_SIZE, _SIZE), Image.Resampling.BOX), np.uint8)
