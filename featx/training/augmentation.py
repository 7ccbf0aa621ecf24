"""Random changes of training images that keep their class.

All geometry of a batch is one affine map per image and one pass over the pixels, because interpolating
once blurs less than once for each change, and costs a fraction of changing image by image.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featx.errors import UnknownNameError
from featx.records import Preprocess

__all__ = ["Augment", "Augmenter", "affine_maps"]

Augment = Literal["none", "crop", "light", "strong"]

_TRIES = 10
"""Crops drawn until one fits, as in torchvision's ``RandomResizedCrop``."""

_DRAWS = 9


@dataclass(frozen=True, slots=True)
class _Ranges:
    """How far images are changed; angles in degrees, shifts as a share of the side."""

    rotation: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    area: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    rand_augment: bool = False


_LIGHT = _Ranges(rotation=10.0, shift=0.05, zoom=0.1, area=(0.7, 1.0), ratio=(9 / 10, 10 / 9))

_KINDS: dict[str, _Ranges] = {
    "crop": _Ranges(area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
    "light": _LIGHT,
    "strong": dataclasses.replace(
        _LIGHT, shear=10.0, area=(0.5, 1.0), ratio=(3 / 4, 4 / 3), brightness=0.2, rand_augment=True
    ),
}


class Augmenter:
    """Changes batches; what is drawn depends on seed, epoch and image only, not on the batch.

    Parameters
    ----------
    name : {"none", "crop", "light", "strong"}
        ``crop``: 8 to 100 % of the area at an aspect of 3:4 to 4:3, mirrored half of the time, as in
        torchvision's tutorials. ``light``: mirrored, rotated by up to 10°, shifted by up to 5 % of the
        side, zoomed by up to 10 %, then 70 to 100 % of the area cropped at 9:10 to 10:9. ``strong``:
        also sheared by up to 10°, 50 to 100 % of the area, brightness changed by up to 20 %, before
        all of which two operations of torchvision's ``RandAugment`` come.
    preprocess : Preprocess
        What comes in from outside has its mean colour.
    seed : int, default=0

    Raises
    ------
    UnknownNameError
        If there is no augmentation of that name.

    Source
    ------
    ``RandomResizedCrop``, ``RandomAffine`` and ``RandAugment`` of torchvision.transforms.v2; the latter:
    Cubuk et al. 2020 (arXiv:1909.13719). Crops of 8 %: Szegedy et al. 2015 (arXiv:1409.4842).

    Examples
    --------
    >>> record = Preprocess("squash", 8, 8, "bilinear", (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    >>> Augmenter("light", record)(images, epoch=0, rows=[5, 7]).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(self, name: str, preprocess: Preprocess, seed: int = 0) -> None:
        if name not in get_args(Augment):
            raise UnknownNameError("augmentation", name, get_args(Augment))
        self.name = name
        self.seed = seed
        self._ranges = _KINDS.get(name)
        self._fill = torch.tensor([round(255 * channel) for channel in preprocess.mean])

    def __call__(self, images: Tensor, *, epoch: int, rows: NDArray[np.intp] | list[int]) -> Tensor:
        """Change a batch.

        Parameters
        ----------
        images : Tensor of uint8, (n, 3, side, side)
            On any device.
        epoch : int
        rows : sequence of int, n
            What identifies each image.

        Returns
        -------
        Tensor of uint8, (n, 3, side, side)
        """
        ranges = self._ranges
        if ranges is None:
            return images
        draws = [np.random.default_rng([self.seed, epoch, int(row)]) for row in rows]
        if ranges.rand_augment:
            seeds = [int(rng.integers(2**63)) for rng in draws]
            images = _rand_augment(images, seeds, self._fill.tolist())
        fixed = np.stack([rng.random(_DRAWS) for rng in draws])
        crops = np.stack([rng.random((_TRIES, 2)) for rng in draws])
        maps = _draw_maps(ranges, fixed, crops)
        changed = images.float()
        if ranges.brightness:
            factors = 1 + ranges.brightness * (2 * fixed[:, -1] - 1)
            changed = changed.mul_(_like(factors, changed).view(-1, 1, 1, 1)).clamp_(0, 255)
        # Outside, grid_sample gives 0: so the mean colour is 0 meanwhile.
        fill = self._fill.to(changed).view(3, 1, 1)
        grid = _grid(_like(maps, changed), changed.shape[-1])
        moved = torch.nn.functional.grid_sample(changed.sub_(fill), grid, align_corners=False)
        return moved.add_(fill).round_().clamp_(0, 255).to(torch.uint8)


def affine_maps(
    angle: NDArray[np.float64],
    shift: NDArray[np.float64],
    zoom: NDArray[np.float64],
    shear: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Give the maps from changed square images back to the original ones, as grid_sample takes them.

    Parameters
    ----------
    angle, shear : ndarray, (n,)
        Degrees: clockwise, and along x.
    shift : ndarray, (n, 2)
        To the right and down, as a share of the side.
    zoom : ndarray, (n,)
        Above 1, things grow.

    Returns
    -------
    ndarray, (n, 3, 3)
        In coordinates from -1 to 1 in both directions.

    Examples
    --------
    >>> one, zero = np.ones(1), np.zeros(1)
    >>> affine_maps(zero, np.zeros((1, 2)), 2 * one, zero)[0]
    array([[0.5, 0. , 0. ],
           [0. , 0.5, 0. ],
           [0. , 0. , 1. ]])
    """
    radians, slope = np.deg2rad(angle), np.tan(np.deg2rad(shear))
    cos, sin = np.cos(radians), np.sin(radians)
    forward = _identity(len(angle))
    # Rotation · shear · zoom, in pixels; then the shift. As torchvision has it, which writes the inverse.
    forward[:, 0, 0], forward[:, 0, 1] = cos, -cos * slope - sin
    forward[:, 1, 0], forward[:, 1, 1] = sin, -sin * slope + cos
    forward[:, :2, :2] *= zoom[:, None, None]
    forward[:, :2, 2] = 2 * shift
    return np.asarray(np.linalg.inv(forward), np.float64)


def _draw_maps(
    ranges: _Ranges, fixed: NDArray[np.float64], crops: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Give the maps (n, 2, 3) of images: mirrored, then moved, then cropped."""
    flip, angle, right, down, zoom, shear = fixed.T[:6]
    moved = affine_maps(
        _signed(angle, ranges.rotation),
        _signed(np.stack([right, down], axis=1), ranges.shift),
        1 + _signed(zoom, ranges.zoom),
        _signed(shear, ranges.shear),
    )
    moved[:, 0] *= np.where(flip < 0.5, -1.0, 1.0)[:, None]
    crop = _identity(len(fixed))
    crop[:, 0, 0], crop[:, 1, 1] = (sides := _crop_sides(ranges, crops)).T
    # The centre, from -1 to 1, where the crop stays inside.
    crop[:, :2, 2] = (2 * fixed[:, 6:8] - 1) * (1 - sides)
    return np.asarray((moved @ crop)[:, :2])


def _signed(draws: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """Stretch numbers from 0 to 1 so that they go from -most to most."""
    return most * (2 * draws - 1)


def _crop_sides(ranges: _Ranges, crops: NDArray[np.float64]) -> NDArray[np.float64]:
    """Width and height as shares, (n, 2), of the first of the crops drawn that fits; else of the whole."""
    (least, most), (low, high) = ranges.area, np.log(ranges.ratio)
    area = least + (most - least) * crops[..., 0]
    ratio = np.exp(low + (high - low) * crops[..., 1])
    sides = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], axis=-1)
    fits = np.asarray(sides <= 1).all(axis=-1)
    chosen = sides[np.arange(len(sides)), fits.argmax(axis=1)]
    return np.where(np.any(fits, axis=1)[:, None], chosen, 1.0)


def _grid(maps: Tensor, side: int) -> Tensor:
    """Give ``affine_grid(maps, (n, 3, side, side), align_corners=False)`` in one pass, not by a product."""
    places = (2 * torch.arange(side, device=maps.device, dtype=maps.dtype) + 1) / side - 1
    along = maps[:, None, :, 0] * places[None, :, None] + maps[:, None, :, 2]
    down = maps[:, None, :, 1] * places[None, :, None]
    return along[:, None] + down[:, :, None]


def _rand_augment(images: Tensor, seeds: list[int], fill: list[float]) -> Tensor:
    """Do two operations to each image by itself: torchvision draws once for all of a batch."""
    from torchvision.transforms import v2

    change = v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR, fill=fill)
    changed = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(images, seeds, strict=True):
            torch.manual_seed(seed)
            changed.append(change(image))
    return torch.stack(changed)


def _identity(n: int) -> NDArray[np.float64]:
    return np.tile(np.eye(3), (n, 1, 1))


def _like(values: NDArray[np.float64], tensor: Tensor) -> Tensor:
    return torch.from_numpy(values).to(tensor)
