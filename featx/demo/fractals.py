"""Fractals as classes of the source task: iterated function systems and Julia sets.

Source: Kataoka et al., "Pre-training without natural images", 2020 (https://arxiv.org/abs/2101.08515): a
class is one random system of affine maps, and its images come from small changes of the parameters.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

__all__ = ["render_ifs", "render_julia"]

_SIZE = 64
_POINTS = 2000
_STEPS = 22
_SETTLED = 8
_LEAST_FILLED = 0.12


@functools.cache
def _system(number: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Draw the affine maps (k, 2, 3) and their probabilities (k,) of a class, dense enough to be seen."""
    rng = np.random.default_rng([77, number])
    while True:
        count = int(rng.integers(2, 6))
        maps = rng.uniform(-1, 1, (count, 2, 3))
        for each in maps:
            # A map with a norm below one pulls points together, so that the system has an attractor.
            each[:, :2] *= rng.uniform(0.35, 0.85) / np.linalg.norm(each[:, :2], 2)
        weights = np.abs(np.linalg.det(maps[:, :, :2])) + 0.02
        if (_attractor(maps, weights / weights.sum(), rng) > 0).mean() > _LEAST_FILLED:
            return maps, weights / weights.sum()


def _attractor(
    maps: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Play the chaos game with many points at once; counts of visits (64, 64)."""
    points = rng.uniform(-0.5, 0.5, (_POINTS, 2))
    visited = []
    for step in range(_STEPS):
        chosen = maps[rng.choice(len(maps), size=_POINTS, p=weights)]
        points = np.einsum("nij,nj->ni", chosen[:, :, :2], points) + chosen[:, :, 2]
        if step >= _SETTLED:
            visited.append(points)
    cloud = np.concatenate(visited)
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    cloud = (cloud - (low + high) / 2) / max(float((high - low).max()), 1e-9)
    counts, _, _ = np.histogram2d(cloud[:, 1], cloud[:, 0], bins=_SIZE, range=[[-0.54, 0.54]] * 2)
    return np.asarray(counts)


def render_ifs(number: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Render the attractor of an iterated function system with slightly changed parameters.

    Parameters
    ----------
    number : int
        The class: which system.
    rng : numpy.random.Generator
        Source of the changes and of the points.

    Returns
    -------
    ndarray of uint8, shape (64, 64)
        Bright attractor on black.

    Examples
    --------
    >>> render_ifs(3, np.random.default_rng(0)).shape
    (64, 64)
    """
    maps, weights = _system(number)
    changed = maps * rng.uniform(0.92, 1.08, maps.shape)
    counts = _attractor(changed, weights, rng)
    return _to_uint8(np.minimum(counts, 3.0))


def render_julia(number: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Render the escape times of a Julia set of z² + c near the edge of the Mandelbrot set.

    Parameters
    ----------
    number : int
        The class: which c.
    rng : numpy.random.Generator
        Source of small changes of c and of the window.

    Returns
    -------
    ndarray of uint8, shape (64, 64)
        Bright where points stay longer.

    Examples
    --------
    >>> render_julia(3, np.random.default_rng(0)).dtype
    dtype('uint8')
    """
    angle, radius = np.random.default_rng([78, number]).uniform([0, 0.98], [2 * np.pi, 1.12])
    # The boundary of the main cardioid is e^{it}/2 - e^{2it}/4.
    c = radius * (np.exp(1j * angle) / 2 - np.exp(2j * angle) / 4) + complex(*rng.normal(0, 0.006, 2))
    extent = rng.uniform(1.2, 1.5)
    axis = np.linspace(-extent, extent, _SIZE)
    z = axis[None, :] + 1j * axis[:, None]
    escaped = np.zeros(z.shape)
    alive = np.ones(z.shape, bool)
    for _ in range(32):
        z[alive] = z[alive] ** 2 + c
        alive &= np.abs(z) < 2
        escaped += alive
    return _to_uint8(np.sqrt(escaped))


def _to_uint8(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Stretch values to 0..255."""
    low, high = values.min(), values.max()
    return np.asarray((values - low) * (255 / max(high - low, 1e-9)), np.uint8)
