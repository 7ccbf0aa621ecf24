"""Textures as classes of the source task: gratings, checks, dots, cells and noise at several scales."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["TEXTURES", "render_texture"]

_SIZE = 64

Field = npt.NDArray[np.float64]


def _coordinates(rng: np.random.Generator, turn: float = 0.3) -> tuple[Field, Field]:
    """Pixel coordinates (64, 64) in 0..1, turned by up to ``turn`` radians and shifted."""
    axis = np.arange(_SIZE) / _SIZE
    x, y = np.meshgrid(axis, axis)
    angle = rng.uniform(-turn, turn)
    shift = rng.uniform(0, 1, 2)
    return (
        np.cos(angle) * x + np.sin(angle) * y + shift[0],
        np.cos(angle) * y - np.sin(angle) * x + shift[1],
    )


def _stripes(count: float, slope: float, rng: np.random.Generator) -> Field:
    x, y = _coordinates(rng)
    return np.asarray(np.sin(2 * np.pi * count * (np.cos(slope) * x + np.sin(slope) * y)))


def _vertical(count: float, rng: np.random.Generator) -> Field:
    return _stripes(count, 0.0, rng)


def _horizontal(count: float, rng: np.random.Generator) -> Field:
    return _stripes(count, np.pi / 2, rng)


def _rising(count: float, rng: np.random.Generator) -> Field:
    return _stripes(count, np.pi / 4, rng)


def _saw(count: float, rng: np.random.Generator) -> Field:
    x, _ = _coordinates(rng)
    return (x * count) % 1.0


def _checks(count: float, rng: np.random.Generator) -> Field:
    x, y = _coordinates(rng)
    return np.asarray(np.sign(np.sin(np.pi * count * x) * np.sin(np.pi * count * y)))


def _plaid(count: float, rng: np.random.Generator) -> Field:
    x, y = _coordinates(rng)
    return np.sin(2 * np.pi * count * x) + np.sin(2 * np.pi * count * y)


def _dots(count: float, rng: np.random.Generator) -> Field:
    x, y = _coordinates(rng)
    radius = rng.uniform(0.22, 0.38)
    return ((x * count % 1 - 0.5) ** 2 + (y * count % 1 - 0.5) ** 2 < radius**2).astype(np.float64)


def _mesh(count: float, rng: np.random.Generator) -> Field:
    x, y = _coordinates(rng)
    width = rng.uniform(0.15, 0.3)
    return ((x * count % 1 < width) | (y * count % 1 < width)).astype(np.float64)


def _bricks(count: float, rng: np.random.Generator) -> Field:
    x, y = _coordinates(rng)
    row = np.floor(y * count)
    along = x * count / 2 + 0.5 * (row % 2)
    return ((along % 1 < 0.1) | (y * count % 1 < 0.2)).astype(np.float64)


def _rings(count: float, rng: np.random.Generator) -> Field:
    axis = np.linspace(-1, 1, _SIZE)
    x, y = np.meshgrid(axis - rng.uniform(-0.3, 0.3), axis - rng.uniform(-0.3, 0.3))
    return np.sin(np.pi * count * np.hypot(x, y))


def _rays(count: float, rng: np.random.Generator) -> Field:
    axis = np.linspace(-1, 1, _SIZE)
    x, y = np.meshgrid(axis - rng.uniform(-0.3, 0.3), axis - rng.uniform(-0.3, 0.3))
    return np.sin(round(count) * np.arctan2(y, x) + rng.uniform(0, 2 * np.pi))


def _spiral(count: float, rng: np.random.Generator) -> Field:
    axis = np.linspace(-1, 1, _SIZE)
    x, y = np.meshgrid(axis - rng.uniform(-0.2, 0.2), axis - rng.uniform(-0.2, 0.2))
    return np.sin(np.pi * count * np.hypot(x, y) + np.arctan2(y, x))


def _seeds(count: float, rng: np.random.Generator) -> Field:
    """Distances (64 * 64, n) of the pixels to random points, sorted."""
    axis = np.arange(_SIZE) / _SIZE
    x, y = np.meshgrid(axis, axis)
    points = rng.uniform(0, 1, (max(3, round(count * count)), 2))
    distances = np.hypot(x.reshape(-1, 1) - points[:, 0], y.reshape(-1, 1) - points[:, 1])
    return np.asarray(np.partition(distances, 1, axis=1))


def _cells(count: float, rng: np.random.Generator) -> Field:
    distances = _seeds(count, rng)
    return np.asarray(distances[:, 0].reshape(_SIZE, _SIZE))


def _cracks(count: float, rng: np.random.Generator) -> Field:
    distances = _seeds(count, rng)
    return ((distances[:, 1] - distances[:, 0]).reshape(_SIZE, _SIZE) < 0.12 / count).astype(np.float64)


def _noise(count: float, rng: np.random.Generator) -> Field:
    """Noise whose spectrum is a ring of about ``count`` periods."""
    frequencies = np.hypot(np.fft.fftfreq(_SIZE)[:, None], np.fft.fftfreq(_SIZE)[None, :]) * _SIZE
    ring = np.exp(-(((frequencies - count) / (0.3 * count)) ** 2))
    return np.real(np.fft.ifft2(np.fft.fft2(rng.normal(size=(_SIZE, _SIZE))) * ring))


def _blots(count: float, rng: np.random.Generator) -> Field:
    return (_noise(count, rng) > 0).astype(np.float64)


def _grain(count: float, rng: np.random.Generator) -> Field:
    """Wood: stripes bent by slow noise."""
    x, _ = _coordinates(rng)
    bend = _noise(2.0, rng)
    return np.sin(2 * np.pi * count * x + 2.5 * bend / max(float(np.abs(bend).max()), 1e-9))


TEXTURES: tuple[tuple[Callable[[float, np.random.Generator], Field], float], ...] = tuple(
    (pattern, count)
    for pattern in (
        _vertical, _horizontal, _rising, _saw, _checks, _plaid, _dots, _mesh, _bricks,
        _rings, _rays, _spiral, _cells, _cracks, _noise, _blots, _grain,
    )
    for count in (3.0, 6.0, 11.0)
)  # fmt: skip
"""Every texture class: the pattern and how often it repeats across the image."""


def render_texture(number: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Render a texture.

    Parameters
    ----------
    number : int
        The class: index into :data:`TEXTURES`.
    rng : numpy.random.Generator
        Source of the turn, the phase, the period (±12 %) and of the random points.

    Returns
    -------
    ndarray of uint8, shape (64, 64)
        Values stretched to 0..255.

    Examples
    --------
    >>> render_texture(0, np.random.default_rng(0)).shape
    (64, 64)
    """
    pattern, count = TEXTURES[number]
    values = pattern(count * rng.uniform(0.88, 1.12), rng)
    low, high = values.min(), values.max()
    return np.asarray((values - low) * (255 / max(high - low, 1e-9)), np.uint8)
