"""Distortions of a batch of rendered images: geometry, stroke width, resolution, colour, noise.

They are the degradations that any picture of a sign may suffer, the same for all classes. Every step works
on a whole batch, so that two cores distort images faster than the network learns from them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

__all__ = ["distort"]

_TURN = math.radians(22)
_SHEAR = 0.3
_SHIFT = 0.12
_PERSPECTIVE = 0.12
_ELASTIC = 0.11
_LOW_RESOLUTION = 0.6
_COARSEST, _FINEST = 6, 32
_GROUPS = 8


def distort(images: Tensor, generator: Generator, *, colourful: float = 1.0) -> Tensor:
    """Distort and colour a batch of grey images, and normalise it for the network.

    Parameters
    ----------
    images : Tensor of uint8, shape (n, 64, 64)
        White on black.
    generator : torch.Generator
        The only source of randomness.
    colourful : float, default=1.0
        Share of the images in random colours; the others are white on black. A network that has learnt
        nothing yet does not get off the ground when light and dark change places from the first step on.

    Returns
    -------
    Tensor of float32, shape (n, 3, 64, 64), channels last
        Values in -1..1, that is (x - 0.5) / 0.5 of RGB in 0..1.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> distort(torch.zeros(5, 64, 64, dtype=torch.uint8), generator).shape
    torch.Size([5, 3, 64, 64])
    """
    ink = images.unsqueeze(1).float() / 255
    ink = F.grid_sample(
        ink,
        _grid(len(ink), images.shape[-1], generator),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    ink = _stroke_width(ink, generator)
    ink = ink + torch.randn(ink.shape, generator=generator) * _uniform(len(ink), 0, 0.12, generator)
    ink = _resolution(ink, generator)
    ink = ink.clamp(0, 1) ** torch.exp(_uniform(len(ink), -0.6, 0.6, generator))
    return _colour(ink, generator, colourful)


def _uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    """One value (n, 1, 1, 1) for each image."""
    return torch.rand(count, 1, 1, 1, generator=generator) * (high - low) + low


def _grid(count: int, size: int, generator: Generator) -> Tensor:
    """Draw sampling positions (n, size, size, 2): affine, then perspective, then elastic."""

    def draw(spread: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * spread

    angle, shear = draw(_TURN), draw(_SHEAR)
    wide, high = torch.exp(draw(0.3)), torch.exp(draw(0.3))
    # Multiplying the sampling positions by more than one shrinks the picture.
    matrix = torch.zeros(count, 3, 3)
    matrix[:, 0, 0] = wide * torch.cos(angle)
    matrix[:, 0, 1] = wide * (shear - torch.sin(angle))
    matrix[:, 1, 0] = high * torch.sin(angle)
    matrix[:, 1, 1] = high * torch.cos(angle)
    matrix[:, 0, 2], matrix[:, 1, 2] = draw(_SHIFT), draw(_SHIFT)
    matrix[:, 2, 0], matrix[:, 2, 1], matrix[:, 2, 2] = draw(_PERSPECTIVE), draw(_PERSPECTIVE), 1.0
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    positions = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(1, -1, 3) @ matrix.transpose(1, 2)
    flat = (positions[..., :2] / positions[..., 2:]).reshape(count, size, size, 2)
    strength = _uniform(count, 0, _ELASTIC, generator)
    knots = torch.randn(count, 2, 5, 5, generator=generator) * strength
    bend = F.interpolate(knots, size=(size, size), mode="bicubic", align_corners=True)
    return flat + bend.permute(0, 2, 3, 1)


def _stroke_width(ink: Tensor, generator: Generator) -> Tensor:
    """Thicken or thin the ink; the groups of a batch get different widths."""
    strength = _uniform(len(ink), 0.3, 1.0, generator)
    pieces = []
    for group, (piece, amount) in enumerate(zip(ink.chunk(_GROUPS), strength.chunk(_GROUPS), strict=True)):
        if group % 4 == 0:
            changed = F.max_pool2d(piece, 3, 1, 1)
        elif group % 4 == 1:
            changed = F.max_pool2d(piece, 5, 1, 2)
        elif group % 4 == 2:
            changed = -F.max_pool2d(-piece, 3, 1, 1)
        else:
            changed = piece
        pieces.append(piece + amount * (changed - piece))
    return torch.cat(pieces)


def _resolution(ink: Tensor, generator: Generator) -> Tensor:
    """Average the image down to 6..32 pixels and interpolate it back, for a part of the batch."""
    size = ink.shape[-1]
    pieces = []
    # The batch is in random order, but its groups had one stroke width each: take every eighth image instead.
    for group in range(_GROUPS):
        piece = ink[group::_GROUPS]
        chance, where = torch.rand(2, generator=generator).tolist()
        if len(piece) and chance < _LOW_RESOLUTION:
            coarse = round(_COARSEST * (_FINEST / _COARSEST) ** where)
            small = F.interpolate(piece, size=(coarse, coarse), mode="area")
            piece = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
        pieces.append(piece)
    restored = torch.empty_like(ink)
    for group, piece in enumerate(pieces):
        restored[group::_GROUPS] = piece
    return restored


def _colour(ink: Tensor, generator: Generator, colourful: float) -> Tensor:
    """Mix two colours by the ink; half of the random pairs are greys, in either order."""
    count, size = len(ink), ink.shape[-1]
    grey = torch.rand(count, 2, 1, 1, 1, generator=generator).expand(-1, -1, 3, -1, -1)
    tint = torch.rand(count, 2, 3, 1, 1, generator=generator)
    coloured = torch.rand(count, 1, 1, 1, 1, generator=generator) < 0.5
    pair = torch.where(coloured, tint, grey)
    paper, pen = pair[:, 0], pair[:, 1]
    # Ink that can hardly be told from the paper teaches nothing: push the two apart.
    gap = (pen - paper).mean(dim=1, keepdim=True)
    push = torch.where(gap < 0, -1.0, 1.0) * (0.4 - gap.abs()).clamp(min=0)
    paper, pen = paper - push / 2, pen + push / 2
    plain = torch.rand(count, 1, 1, 1, generator=generator) >= colourful
    paper, pen = torch.where(plain, 0.0, paper), torch.where(plain, 1.0, pen)
    slope = torch.randn(count, 1, 1, 1, generator=generator) * 0.1
    ramp = torch.linspace(-1, 1, size).expand(count, 1, size, size)
    picture = paper + (pen - paper) * ink + slope * ramp
    noise = torch.randn(count, 1, size, size, generator=generator) * _uniform(count, 0, 0.05, generator)
    normalised = ((picture + noise).clamp(0, 1) - 0.5) / 0.5
    return normalised.contiguous(memory_format=torch.channels_last)
